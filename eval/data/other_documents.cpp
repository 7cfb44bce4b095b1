#include "eval/data/other_documents.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "base/utf8.h"
#include "eval/data/dice.h"

namespace signalbox::eval {

namespace {

constexpr size_t block_size = 8;

// " words of the text ", lower case, with one space for all that is neither letter nor digit (bytes beyond ASCII are
// letters): whole words are then parts of a text.
std::string words_of(std::string_view text) {
  std::string out = " ";
  for (const char c : text) {
    if (is_ascii_letter(c) || is_ascii_digit(c) || (c & 0x80)) {
      out += ascii_lower(c);
    } else if (out.back() != ' ') {
      out += ' ';
    }
  }
  if (out.back() != ' ') out += ' ';
  return out;
}

struct Place {
  std::string document, question;
  std::vector<std::string> answers;
  int64_t length = 0;
};

class Exchange {
 public:
  Exchange(const std::vector<DocumentPlace>& places, uint64_t seed) : seed_(seed) {
    for (const DocumentPlace& place : places) {
      Place plain{words_of(place.document),
                  words_of(place.question),
                  {},
                  static_cast<int64_t>(count_code_points(place.document))};
      for (const std::string& answer : place.answers)
        if (const std::string words = words_of(answer); words != " ") plain.answers.push_back(words);
      places_.push_back(std::move(plain));
    }
    out_.from.resize(places.size());
    position_.resize(places.size());
  }

  // All places of a split; `none` for one that no document is allowed for.
  void deal(const std::string& split, std::vector<size_t> members) {
    Dice dice(seed_, "unrelated " + split);
    dice.shuffle(members);
    std::stable_sort(members.begin(), members.end(),
                     [&](size_t a, size_t b) { return places_[a].length < places_[b].length; });
    for (size_t first = 0; first < members.size();) {
      const size_t left = members.size() - first, size = left < 2 * block_size ? left : block_size;
      // Sattolo's cycle: no place keeps its own.
      std::vector<size_t> order(members.begin() + static_cast<std::ptrdiff_t>(first),
                                members.begin() + static_cast<std::ptrdiff_t>(first + size));
      for (size_t i = size; i > 1; --i) std::swap(order[i - 1], order[dice.below(i - 1)]);
      for (size_t i = 0; i < size; ++i) out_.from[members[first + i]] = order[i];
      first += size;
    }
    // Who has a document now; nobody, where a place may not keep what the cycle gave it.
    owner_.assign(places_.size(), none);
    std::vector<size_t> broken;
    for (size_t i = 0; i < members.size(); ++i) {
      const size_t place = members[i];
      if (allowed(place, out_.from[place])) {
        owner_[out_.from[place]] = place;
      } else {
        broken.push_back(i);
        out_.from[place] = none;
      }
    }
    for (size_t i = 0; i < members.size(); ++i) position_[members[i]] = i;
    for (const size_t i : broken)
      if (!mend(members, i)) repeat(members, i);
  }

  ExchangedDocuments take() { return std::move(out_); }
  static constexpr size_t none = static_cast<size_t>(-1);

 private:
  bool allowed(size_t place, size_t from) const {
    const Place &mine = places_[place], &theirs = places_[from];
    if (place == from || mine.document == theirs.document || mine.question == theirs.question) return false;
    return std::none_of(mine.answers.begin(), mine.answers.end(),
                        [&](const std::string& answer) { return theirs.document.find(answer) != std::string::npos; });
  }

  // Calls f with the other members, the nearest in the order of lengths first, until it returns true.
  template <class F>
  static bool for_neighbours(const std::vector<size_t>& members, size_t i, F f) {
    for (size_t step = 1; step < members.size(); ++step)
      for (const bool above : {true, false}) {
        if (above ? i + step >= members.size() : step > i) continue;
        if (f(members[above ? i + step : i - step])) return true;
      }
    return false;
  }

  // The shortest chain of exchanges that ends in a document that nobody has, nearest in length first.
  bool mend(const std::vector<size_t>& members, size_t start) {
    std::vector<size_t> via(places_.size(), none), queue = {start};
    for (size_t head = 0; head < queue.size(); ++head) {
      const size_t place = members[queue[head]];
      size_t free = none;
      for_neighbours(members, queue[head], [&](size_t other) {
        if (via[other] != none || !allowed(place, other)) return false;
        via[other] = place;
        if (owner_[other] == none) {
          free = other;
          return true;
        }
        queue.push_back(position_[owner_[other]]);
        return false;
      });
      while (free != none) {
        const size_t taker = via[free], before = out_.from[taker];
        out_.from[taker] = free;
        owner_[free] = taker;
        if (taker == members[start]) return true;
        free = before;
      }
    }
    return false;
  }

  void repeat(const std::vector<size_t>& members, size_t i) {
    const size_t place = members[i];
    if (!for_neighbours(members, i, [&](size_t other) {
          if (!allowed(place, other)) return false;
          out_.from[place] = other;
          return true;
        }))
      out_.from[place] = none;
  }

  uint64_t seed_;
  std::vector<Place> places_;
  std::vector<size_t> owner_, position_;  // of a document the place that has it; of a place its rank in the split
  ExchangedDocuments out_;
};

}  // namespace

ExchangedDocuments exchange_documents(const std::vector<DocumentPlace>& places, uint64_t seed) {
  std::map<std::string, std::vector<size_t>> splits;
  for (size_t i = 0; i < places.size(); ++i) splits[places[i].split].push_back(i);
  Exchange exchange(places, seed);
  for (const auto& [split, members] : splits) exchange.deal(split, members);
  ExchangedDocuments out = exchange.take();
  for (size_t i = 0; i < places.size(); ++i)
    if (out.from[i] == Exchange::none)
      throw Error(places[i].where, "expected another record's document" +
                                       (places[i].split.empty() ? "" : " in split \"" + places[i].split + "\"") +
                                       " that answers another question and holds none of the answers, found none");
  const std::set<size_t> used(out.from.begin(), out.from.end());
  out.repeated = static_cast<int64_t>(places.size() - used.size());
  return out;
}

std::string shuffled_words(const std::string& text, uint64_t seed, const std::string& id, const std::string& where) {
  std::vector<std::string> words, spaces = {""};  // spaces[i] stands before words[i]; one more at the end
  bool in_word = false;
  for (const char c : text) {
    if (is_ascii_space(c)) {
      if (in_word) spaces.emplace_back();
      spaces.back() += c;
    } else {
      if (!in_word) words.emplace_back();
      words.back() += c;
    }
    in_word = !is_ascii_space(c);
  }
  if (in_word) spaces.emplace_back();
  if (std::all_of(words.begin(), words.end(), [&](const std::string& word) { return word == words.front(); }))
    throw Error(where, "document: expected at least two different words to shuffle, found \"" + text + "\"");
  Dice dice(seed, "shuffled " + id);
  std::vector<std::string> order = words;
  while (order == words) dice.shuffle(order);
  std::string out;
  for (size_t i = 0; i < order.size(); ++i) out += spaces[i] + order[i];
  return out + spaces.back();
}

}  // namespace signalbox::eval
