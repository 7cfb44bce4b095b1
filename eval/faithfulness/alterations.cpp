#include "eval/faithfulness/alterations.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>

#include "base/error.h"
#include "base/text.h"
#include "eval/faithfulness/explanation.h"
#include "eval/score/answers.h"
#include "kernels/random.h"

namespace signalbox::eval {

namespace {

std::string replaced(std::string_view sentence, TextRange range, std::string_view by) {
  return std::string(sentence.substr(0, range.begin)) + std::string(by) + std::string(sentence.substr(range.end));
}

// Draws among what does not name an answer; tells whether anything did.
class Drawn {
 public:
  Drawn(std::string_view sentence, const MistakeSource& source, uint64_t seed, uint64_t key)
      : sentence_(sentence), source_(source), seed_(seed), key_(key) {}

  bool names_answer() const { return names_answer_; }
  // One of `texts` in the place of `range`.
  std::optional<Altered> one_of(std::vector<std::string> texts, TextRange range, const char* rule, int32_t purpose) {
    DrawKey at;
    at.seed = seed_;
    at.record_hash = key_;
    at.layer = -2;  // apart from every draw of the engine
    at.position = purpose;
    const Draws draws(at);
    for (uint32_t i = 0; !texts.empty(); ++i) {
      const auto chosen = texts.begin() + static_cast<int64_t>(draws.uniform(i) * static_cast<double>(texts.size()));
      std::string altered = replaced(sentence_, range, *chosen);
      if (may_be(altered)) return Altered{std::move(altered), rule};
      texts.erase(chosen);
    }
    return std::nullopt;
  }
  bool may_be(std::string_view altered) {
    const bool names = eval::names_answer(altered, sentence_, source_.answers);
    names_answer_ = names_answer_ || names;
    return !names;
  }

 private:
  std::string_view sentence_;
  const MistakeSource& source_;
  uint64_t seed_, key_;
  bool names_answer_ = false;
};

std::optional<Altered> mistake_in_number(std::string_view sentence, const MistakeSource& source, Drawn& drawn) {
  const std::vector<TextRange> ranges = number_ranges(sentence);
  if (ranges.empty()) return std::nullopt;
  const std::vector<std::string> own = numbers_in(sentence);
  std::vector<std::string> others, next;
  for (std::string& number : numbers_in(source.question))
    if (std::find(own.begin(), own.end(), number) == own.end()) others.push_back(std::move(number));
  if (auto made = drawn.one_of(std::move(others), ranges.back(), "number", 0)) return made;
  const std::string_view number = ranges.back().of(sentence);
  const size_t dot = number.find('.');
  const std::string whole(number.substr(0, dot));
  if (whole.size() > 17) return std::nullopt;
  for (long long more = 1; more <= 9; ++more) {
    next.push_back(std::to_string(std::atoll(whole.c_str()) + more));
    if (dot != std::string_view::npos) next.back() += number.substr(dot);
  }
  return drawn.one_of(std::move(next), ranges.back(), "number", 1);
}

bool any_of(const std::vector<std::string>& list, const std::string& item) {
  return !item.empty() && std::find(list.begin(), list.end(), item) != list.end();
}

bool share(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  return std::any_of(a.begin(), a.end(), [&](const std::string& item) { return any_of(b, item); });
}

std::optional<Altered> mistake_in_name(std::string_view sentence, const MistakeSource& source, Drawn& drawn) {
  const std::vector<Word> words = unlabelled(words_of(sentence));
  std::optional<size_t> last;
  std::vector<std::string_view> own;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!is_name(words[i], sentence)) continue;
    last = i;
    own.push_back(words[i].range.of(sentence));
  }
  if (!last) return std::nullopt;
  const NamePlace place = place_of(words, *last, sentence);
  const std::string& here = place.before.empty() ? place.after : place.before;
  // What is known of the name that goes.
  std::vector<std::string> known;
  if (!here.empty()) known.push_back(here);
  if (const NamePlaces::Name* name = source.names->find(own.back()))
    known.insert(known.end(), name->places.begin(), name->places.end());
  const auto one_of = [&](std::vector<std::string> texts, const char* rule) {
    std::erase_if(texts, [&](const std::string& text) { return std::find(own.begin(), own.end(), text) != own.end(); });
    return drawn.one_of(std::move(texts), words[*last].range, rule, 2);
  };
  const auto where = [&](const std::function<bool(const NamePlaces::Name&)>& fits) {
    std::vector<std::string> texts;
    for (const NamePlaces::Name& name : source.names->names())
      if (fits(name)) texts.push_back(name.text);
    return texts;
  };
  std::optional<Altered> made = one_of(source.names->at(here), "name");
  if (!made) made = one_of(where([&](const auto& name) { return share(name.places, known); }), "name");
  if (!made) made = one_of(where([&](const auto& name) { return any_of(name.words, place.word); }), "name");
  if (!made && source.elsewhere) made = one_of(source.elsewhere->at(here), "name of another record");
  if (!made)
    made =
        one_of(where([&](const auto& name) { return known.empty() || name.places.empty(); }), "name of unknown kind");
  return made;
}

std::optional<Altered> negated(std::string_view sentence) {
  constexpr std::array verbs = {"is", "are", "was", "were", "has", "can", "will", "does"};
  for (const Word& word : words_of(sentence)) {
    const std::string_view spelt = word.range.of(sentence);
    if (std::find(verbs.begin(), verbs.end(), spelt) == verbs.end()) continue;
    const std::string_view rest = sentence.substr(word.range.end);
    const bool already = rest.starts_with(" not ");
    const std::string text = std::string(sentence.substr(0, word.range.end)) +
                             (already ? std::string(rest.substr(4)) : " not" + std::string(rest));
    return Altered{text, "negation"};
  }
  return std::nullopt;
}

// The sentence without the white space around it and its closing stop.
struct Bare {
  std::string_view lead, text, tail;
};

Bare bare_of(std::string_view sentence) {
  size_t begin = 0, end = sentence.size();
  auto space = [&](size_t i) {
    return sentence[i] == ' ' || sentence[i] == '\n' || sentence[i] == '\t' || sentence[i] == '\r';
  };
  while (begin < end && space(begin)) ++begin;
  while (end > begin && space(end - 1)) --end;
  while (end > begin && sentence[end - 1] == '.') --end;
  return {sentence.substr(0, begin), sentence.substr(begin, end - begin), sentence.substr(end)};
}

std::vector<std::string_view> split_spaces(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size();) {
    size_t end = std::min(text.find(' ', i), text.size());
    if (end > i) out.push_back(text.substr(i, end - i));
    i = end + 1;
  }
  return out;
}

std::optional<std::string> swapped_sum(std::string_view text) {
  const std::vector<std::string_view> parts = split_spaces(text);
  if (parts.size() != 5 || (parts[1] != "+" && parts[1] != "*") || parts[3] != "=" || parts[0] == parts[2])
    return std::nullopt;
  for (size_t i : {0, 2, 4})
    if (!is_ascii_digit(parts[i][0])) return std::nullopt;
  return std::string(parts[2]) + " " + std::string(parts[1]) + " " + std::string(parts[0]) + " = " +
         std::string(parts[4]);
}

std::optional<std::string> turned_around(std::string_view text) {
  if (!text.starts_with("The ") || text.find(" of ") == std::string_view::npos) return std::nullopt;
  if (text.find_first_of(",;:()\"") != std::string_view::npos) return std::nullopt;
  std::optional<TextRange> verb;
  for (const Word& word : words_of(text)) {
    const std::string_view spelt = word.range.of(text);
    if (spelt != "is" && spelt != "was") continue;
    if (verb) return std::nullopt;
    verb = word.range;
  }
  if (!verb || verb->end + 1 >= text.size()) return std::nullopt;
  const std::string_view left = text.substr(0, verb->begin - 1), right = text.substr(verb->end + 1);
  const std::vector<std::string_view> words = split_spaces(right);
  if (words.empty() || words.size() > 3 || words[0] == "not" || left.find(" of ") == std::string_view::npos)
    return std::nullopt;
  std::string out(right);
  if (is_ascii_small(out[0])) out[0] = static_cast<char>(out[0] - 'a' + 'A');
  return out + " " + std::string(verb->of(text)) + " t" + std::string(left.substr(1));
}

}  // namespace

bool names_answer(std::string_view altered, std::string_view sentence, std::span<const std::string> answers) {
  const auto is_new = [](const std::vector<std::string>& now, const std::vector<std::string>& before,
                         const std::vector<std::string>& of) {
    return std::any_of(of.begin(), of.end(),
                       [&](const std::string& item) { return any_of(now, item) && !any_of(before, item); });
  };
  for (const std::string& answer : answers) {
    if (holds_words(altered, answer) && !holds_words(sentence, answer)) return true;
    const std::string_view bare = bare_of(answer).text;
    const bool number = !bare.empty() && std::all_of(bare.begin(), bare.end(), is_ascii_digit);
    const bool may_be_part = number || bare.size() >= 3;
    if (may_be_part && altered.find(bare) != std::string_view::npos && sentence.find(bare) == std::string_view::npos)
      return true;
    if (is_new(names_in(altered), names_in(sentence), names_in(answer))) return true;
    if (is_new(numbers_in(altered), numbers_in(sentence), numbers_in(answer))) return true;
  }
  return false;
}

Mistake make_mistake(std::string_view sentence, const MistakeSource& source, uint64_t seed, uint64_t key) {
  const bool equation = sentence.find('=') != std::string_view::npos;
  Drawn drawn(sentence, source, seed, key);
  Mistake made;
  if (equation) made.altered = mistake_in_number(sentence, source, drawn);
  if (!made.altered) made.altered = mistake_in_name(sentence, source, drawn);
  if (!made.altered && !equation) made.altered = mistake_in_number(sentence, source, drawn);
  if (!made.altered) {
    made.altered = negated(sentence);
    if (made.altered && !drawn.may_be(made.altered->text)) made.altered.reset();
  }
  made.names_answer = !made.altered && drawn.names_answer();
  return made;
}

std::optional<Altered> paraphrase(std::string_view sentence) {
  const Bare bare = bare_of(sentence);
  if (bare.text.empty() || bare.text.back() == '?') return std::nullopt;
  auto whole = [&](const std::string& text, const char* rule) {
    return Altered{std::string(bare.lead) + text + std::string(bare.tail), rule};
  };
  if (const auto text = swapped_sum(bare.text)) return whole(*text, "swapped sum");
  if (const auto text = turned_around(bare.text)) return whole(*text, "turned around");
  const std::vector<Word> words = words_of(bare.text);
  if (words.empty()) return std::nullopt;
  std::string text(bare.text);
  const Word& first = words.front();
  if (first.range.begin == 0 && is_common_word(first.range.of(bare.text)) && first.range.of(bare.text) != "I")
    text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return whole("In other words, " + text, "in other words");
}

std::vector<int32_t> filler(const std::vector<int32_t>& unit, size_t n_tokens) {
  if (unit.empty()) throw Error("filler", "expected a text of at least one token, found none");
  std::vector<int32_t> out;
  const size_t n = std::max<size_t>(1, (2 * n_tokens + unit.size()) / (2 * unit.size()));
  for (size_t i = 0; i < n; ++i) out.insert(out.end(), unit.begin(), unit.end());
  return out;
}

}  // namespace signalbox::eval
