#include "eval/data/structural.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/text.h"
#include "eval/data/dice.h"

namespace signalbox::eval {

namespace {

// Those of tools/builtin/world.py: names in its world are two or three of them.
constexpr std::array<std::string_view, 80> syllables = {
    "vel", "mor", "tar", "ken", "lu",  "sev", "dex", "ink", "os",  "mir", "ra",  "bel", "do",  "fen", "gal", "hur",
    "is",  "jo",  "kal", "lem", "nar", "ov",  "pel", "quo", "rin", "sul", "tev", "ur",  "vas", "wen", "xan", "yor",
    "zel", "bra", "cru", "dri", "fro", "gri", "kle", "plo", "sna", "tri", "bor", "cal", "din", "eth", "far", "gol",
    "hes", "ild", "jar", "kor", "lan", "mel", "nor", "olm", "par", "qui", "ros", "sar", "tol", "umb", "vor", "wil",
    "yas", "zan", "ber", "cas", "del", "fir", "gam", "hol", "jun", "kip", "lor", "mon", "nis", "ped", "rul", "sim"};

// CRC-32 (IEEE 802.3), as zlib.crc32, by which world.py keeps names and sums out of training.
uint32_t crc32(std::string_view text) {
  uint32_t crc = 0xFFFFFFFFu;
  for (unsigned char c : text) {
    crc ^= c;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

// Names that differ within one prompt. `unseen`: only names that the built-in model's training left out.
class Names {
 public:
  Names(Dice& dice, bool unseen) : dice_(dice), unseen_(unseen) {}
  std::string next() {
    while (true) {
      std::string name;
      for (int64_t left = dice_.below(100) < 55 ? 2 : 3; left > 0; --left)
        name += syllables[dice_.below(syllables.size())];
      name[0] = static_cast<char>(name[0] - 'a' + 'A');
      if (unseen_ && crc32(name) % 100 >= 16) continue;
      if (used_.insert(name).second) return name;
    }
  }

 private:
  Dice& dice_;
  bool unseen_;
  std::set<std::string> used_;
};

json::Value list_of(const std::vector<std::string>& texts) {
  json::Value list = json::Value::array();
  for (const std::string& text : texts) list.push_back(text);
  return list;
}

// What the text itself says of its structure, once the generator's own count has been compared with it.
json::Value structure_value(const Structure& s) {
  json::Value value = json::Value::object();
  return value.set("entities", s.entities)
      .set("recurring", s.recurring)
      .set("steps", s.steps)
      .set("state_changes", s.state_changes);
}

Row draft_of(int64_t index, const char* kind, const std::string& question, const std::string& document,
             const std::vector<std::string>& chain, int64_t steps, const std::string& answer, int64_t distractors) {
  char number[32];
  std::snprintf(number, sizeof number, "%05lld", static_cast<long long>(index));
  const std::string id = std::string(kind) + "-" + number;
  const Structure measured = measure_structure(document, question, id);
  if (measured.answer != answer || measured.steps != steps)
    throw Error(id, "expected the answer " + answer + " in " + std::to_string(steps) + " steps, found " +
                        measured.answer + " in " + std::to_string(measured.steps));
  json::Value draft = json::Value::object(), structure = structure_value(measured);
  structure.set("distractors", distractors);
  draft.set("id", id).set("question", question);
  if (!document.empty()) draft.set("document", document);
  draft.set("answers", list_of({answer}))
      .set("steps", list_of(chain))
      .set("structure", std::move(structure))
      .set("domain", kind);
  return {id, std::move(draft)};
}

// Entities whose counts change. The chain's statements each read what the one before wrote, so that the last count
// depends on all of them.
class TokenPrompt {
 public:
  TokenPrompt(const StructuralOptions& options, int64_t index)
      : dice_(options.seed, "tokens " + std::to_string(index)), names_(dice_, false), options_(options) {
    static const std::vector<std::string> things = {"marks", "rings", "beads", "tiles", "stones", "coins"};
    thing_ = dice_.pick(things);
    for (int64_t e = 0; e < options.entities + (options.distractors > 0 ? 2 : 0); ++e) {
      holders_.push_back(names_.next());
      counts_.push_back(dice_.between(2, 9));
      beginning_.push_back(holders_.back() + " holds " + std::to_string(counts_.back()) + " " + thing_ + ".");
    }
    dice_.shuffle(beginning_);
  }

  Row make(int64_t index) {
    auto last = static_cast<size_t>(dice_.below(static_cast<uint64_t>(options_.entities)));
    std::vector<size_t> waiting;  // entities that no statement has named yet
    for (size_t e = 0; e < static_cast<size_t>(options_.entities); ++e)
      if (e != last) waiting.push_back(e);
    dice_.shuffle(waiting);
    for (int64_t s = 0; s < options_.steps; ++s) {
      size_t next = last;
      if (!waiting.empty()) {
        next = waiting.back();
        waiting.pop_back();
      }
      while (next == last) next = static_cast<size_t>(dice_.below(static_cast<uint64_t>(options_.entities)));
      step(last, next);
      last = next;
    }
    distract();
    std::string document;
    for (const auto* part : {&beginning_, &statements_})
      for (const std::string& sentence : *part) document += (document.empty() ? "" : " ") + sentence;
    const std::string question = "How many " + thing_ + " does " + holders_[last] + " hold at the end?";
    return draft_of(index, "tokens", question, document, chain_, options_.steps, std::to_string(counts_[last]),
                    options_.distractors);
  }

 private:
  void step(size_t from, size_t to) {
    const std::string &a = holders_[from], &b = holders_[to];
    const int64_t x = counts_[from], y = counts_[to];
    const auto n = [](int64_t value) { return std::to_string(value); };
    std::string sentence, gold;
    // Sums double at worst: beyond this only what does not grow is drawn.
    const uint64_t form = x + y < 200 ? dice_.below(4) : 2 + dice_.below(2);
    if (form == 0) {
      sentence = a + " gives all its " + thing_ + " to " + b + ".";
      gold = b + " holds " + n(y) + " + " + n(x) + " = " + n(x + y);
      counts_[to] = x + y;
      counts_[from] = 0;
    } else if (form == 1) {
      sentence = b + " adds as many " + thing_ + " as " + a + " holds.";
      gold = b + " holds " + n(y) + " + " + n(x) + " = " + n(x + y);
      counts_[to] = x + y;
    } else if (form == 2) {
      sentence = a + " and " + b + " swap their " + thing_ + ".";
      gold = b + " holds " + n(x) + " and " + a + " holds " + n(y);
      std::swap(counts_[from], counts_[to]);
    } else {
      const int64_t more = dice_.between(1, 5);
      sentence =
          "Now " + b + " puts back all it has and takes " + n(more) + " " + thing_ + " more than " + a + " holds.";
      gold = b + " holds " + n(x) + " + " + n(more) + " = " + n(x + more);
      counts_[to] = x + more;
    }
    statements_.push_back(sentence);
    chain_.push_back(sentence + " So " + gold + " " + thing_ + ".");
  }

  // Gifts between two entities that the answer does not depend on, anywhere among the statements.
  void distract() {
    std::vector<std::string> gifts;
    for (int64_t d = 0; d < options_.distractors; ++d) {
      const auto first = static_cast<size_t>(options_.entities);
      size_t from = first + dice_.below(2);
      if (counts_[from] == 0) from = from == first ? first + 1 : first;
      const size_t to = from == first ? first + 1 : first;
      const int64_t gift = dice_.between(1, std::min<int64_t>(3, counts_[from]));
      counts_[from] -= gift;
      counts_[to] += gift;
      gifts.push_back(holders_[from] + " gives " + std::to_string(gift) + " of its " + thing_ + " to " + holders_[to] +
                      ".");
    }
    // The order of the gifts is kept: each must find enough to give.
    std::vector<size_t> places;
    for (size_t d = 0; d < gifts.size(); ++d) places.push_back(dice_.below(statements_.size() + 1));
    std::sort(places.begin(), places.end());
    for (size_t d = 0; d < gifts.size(); ++d)
      statements_.insert(statements_.begin() + static_cast<std::ptrdiff_t>(places[d] + d), gifts[d]);
  }

  Dice dice_;
  Names names_;
  const StructuralOptions& options_;
  std::string thing_;
  std::vector<std::string> holders_, beginning_, statements_, chain_;
  std::vector<int64_t> counts_;
};

Row two_hop(const StructuralOptions& options, int64_t index) {
  Dice dice(options.seed, "two_hop " + std::to_string(index));
  Names names(dice, true);
  static const std::vector<std::string> relations = {"capital", "river", "king", "queen", "lake", "festival"};
  const bool lives = dice.below(2) == 0;
  const std::string relation = dice.pick(relations);
  const auto link = [&](const std::string& person, const std::string& place) {
    return person + (lives ? " lives in " : " was born in ") + place + ".";
  };
  const auto value = [&](const std::string& place, const std::string& name) {
    return "The " + relation + " of " + place + " is " + name + ".";
  };
  const std::string person = names.next(), place = names.next(), answer = names.next();
  const std::vector<std::string> chain = {link(person, place), value(place, answer)};
  std::vector<std::string> facts = chain;
  // Further facts repeat both relations, as the training documents of this kind do: first a second place, then whoever
  // lives there, then a third place.
  const std::string other = names.next();
  if (options.distractors > 0) facts.push_back(value(other, names.next()));
  if (options.distractors > 1) facts.push_back(link(names.next(), other));
  if (options.distractors > 2) facts.push_back(value(names.next(), names.next()));
  dice.shuffle(facts);
  const std::string document = joined(facts, " ");
  const bool who = relation == "king" || relation == "queen";
  const std::string question = std::string(who ? "Who" : "What") + " is the " + relation + " of the place where " +
                               person + (lives ? " lives?" : " was born?");
  return draft_of(index, "two_hop", question, document, chain, 2, answer + ".", options.distractors);
}

Row sum_of_three(const StructuralOptions& options, int64_t index) {
  Dice dice(options.seed, "sum " + std::to_string(index));
  const auto n = [](int64_t value) { return std::to_string(value); };
  int64_t a = 0, b = 0, c = 0;
  do {
    a = dice.between(0, 9), b = dice.between(0, 9), c = dice.between(0, 9);
  } while (crc32(n(a) + "+" + n(b) + "+" + n(c)) % 100 >= 55);
  const std::vector<std::string> chain = {n(a) + " + " + n(b) + " = " + n(a + b) + ".",
                                          n(a + b) + " + " + n(c) + " = " + n(a + b + c) + "."};
  return draft_of(index, "sum", "What is " + n(a) + " + " + n(b) + " + " + n(c) + "?", "", chain, 2, n(a + b + c) + ".",
                  0);
}

void expect(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw UsageError(
        flag, "expected " + std::to_string(low) + " to " + std::to_string(high) + ", found " + std::to_string(value));
}

}  // namespace

std::vector<Row> structural_drafts(const StructuralOptions& options) {
  expect("--n", options.n, 1, 1'000'000);
  if (options.builtin) {
    expect("--distractors", options.distractors, 0, 3);
  } else {
    expect("--entities", options.entities, 2, 12);
    expect("--steps", options.steps, 1, 24);
    expect("--distractors", options.distractors, 0, 24);
    if (options.entities > options.steps + 1)
      throw UsageError("--entities", "expected at most --steps + 1, so that every entity takes part, found " +
                                         std::to_string(options.entities) + " for " + std::to_string(options.steps));
  }
  std::vector<Row> drafts;
  for (int64_t i = 0; i < options.n; ++i)
    drafts.push_back(!options.builtin ? TokenPrompt(options, i).make(i)
                     : i % 2 == 0     ? two_hop(options, i)
                                      : sum_of_three(options, i));
  return drafts;
}

}  // namespace signalbox::eval
