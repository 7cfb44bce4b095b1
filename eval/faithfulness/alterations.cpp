#include "eval/faithfulness/alterations.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"
#include "base/text.h"
#include "eval/faithfulness/explanation.h"
#include "kernels/random.h"

namespace signalbox::eval {

namespace {

bool is_letter(char c) { return is_ascii_letter(c) || c == '\'' || c == '-' || static_cast<unsigned char>(c) >= 0x80; }

struct Word {
  TextRange range;
  bool label = false;  // a ':' follows
};

std::vector<Word> words_of(std::string_view text) {
  std::vector<Word> words;
  for (const TextRange& sentence : split_sentences(text)) {
    for (size_t i = sentence.begin; i < sentence.end;) {
      if (!is_letter(text[i]) || text[i] == '\'' || text[i] == '-') {
        ++i;
        continue;
      }
      size_t end = i;
      while (end < sentence.end && (is_letter(text[end]) || is_ascii_digit(text[end]))) ++end;
      while (end > i && (text[end - 1] == '\'' || text[end - 1] == '-')) --end;
      const bool label = end < text.size() && text[end] == ':';
      words.push_back({{i, end}, label});
      i = end;
    }
  }
  return words;
}

template <class T>
void add_new(std::vector<T>& list, T value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(std::move(value));
}

bool is_name(const Word& word, std::string_view text) {
  const std::string_view spelt = word.range.of(text);
  return is_ascii_capital(spelt[0]) && !word.label && !is_common_word(spelt);
}

// Whole numbers and decimals, in order.
std::vector<TextRange> number_ranges(std::string_view text) {
  std::vector<TextRange> out;
  for (size_t i = 0; i < text.size();) {
    if (!is_ascii_digit(text[i]) || (i > 0 && is_letter(text[i - 1]) && text[i - 1] != '-')) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < text.size() && is_ascii_digit(text[end])) ++end;
    if (end + 1 < text.size() && text[end] == '.' && is_ascii_digit(text[end + 1])) {
      ++end;
      while (end < text.size() && is_ascii_digit(text[end])) ++end;
    }
    out.push_back({i, end});
    i = end;
  }
  return out;
}

// A choice among n that depends on (seed, key) alone.
size_t draw(uint64_t seed, uint64_t key, int32_t purpose, size_t n) {
  DrawKey at;
  at.seed = seed;
  at.record_hash = key;
  at.layer = -2;  // apart from every draw of the engine
  at.position = purpose;
  return static_cast<size_t>(Draws(at).uniform(0) * static_cast<double>(n));
}

std::string replaced(std::string_view sentence, TextRange range, std::string_view by) {
  return std::string(sentence.substr(0, range.begin)) + std::string(by) + std::string(sentence.substr(range.end));
}

std::optional<Altered> mistake_in_number(std::string_view sentence, std::string_view source, uint64_t seed,
                                         uint64_t key) {
  const std::vector<TextRange> ranges = number_ranges(sentence);
  if (ranges.empty()) return std::nullopt;
  const std::vector<std::string> own = numbers_in(sentence);
  std::vector<std::string> others;
  for (const std::string& number : numbers_in(source))
    if (std::find(own.begin(), own.end(), number) == own.end()) others.push_back(number);
  std::string by;
  if (!others.empty()) {
    by = others[draw(seed, key, 0, others.size())];
  } else {
    const std::string_view number = ranges.back().of(sentence);
    const size_t dot = number.find('.');
    const std::string whole(number.substr(0, dot));
    if (whole.size() > 17) return std::nullopt;
    by = std::to_string(std::atoll(whole.c_str()) + 1 + static_cast<long long>(draw(seed, key, 1, 9)));
    if (dot != std::string_view::npos) by += number.substr(dot);
  }
  return Altered{replaced(sentence, ranges.back(), by), "number"};
}

std::optional<Altered> mistake_in_name(std::string_view sentence, std::string_view source, uint64_t seed,
                                       uint64_t key) {
  const std::vector<Word> words = words_of(sentence);
  std::optional<size_t> last;
  std::vector<std::string_view> own;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!is_name(words[i], sentence)) continue;
    last = i;
    own.push_back(words[i].range.of(sentence));
  }
  if (!last) return std::nullopt;
  auto is_own = [&](std::string_view name) { return std::find(own.begin(), own.end(), name) != own.end(); };
  const std::string_view before = *last > 0 ? words[*last - 1].range.of(sentence) : std::string_view();
  std::vector<std::string> alike, others;  // alike: those that somewhere follow the same word
  const std::vector<Word> all = words_of(source);
  for (size_t i = 0; i < all.size(); ++i) {
    if (!is_name(all[i], source) || is_own(all[i].range.of(source))) continue;
    const std::string name(all[i].range.of(source));
    add_new(others, name);
    if (!before.empty() && i > 0 && all[i - 1].range.of(source) == before) add_new(alike, name);
  }
  const std::vector<std::string>& from = alike.empty() ? others : alike;
  if (from.empty()) return std::nullopt;
  return Altered{replaced(sentence, words[*last].range, from[draw(seed, key, 2, from.size())]), "name"};
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

std::vector<std::string> names_in(std::string_view text) {
  std::vector<std::string> names;
  for (const Word& word : words_of(text))
    if (is_name(word, text)) add_new(names, std::string(word.range.of(text)));
  return names;
}

std::vector<std::string> numbers_in(std::string_view text) {
  std::vector<std::string> numbers;
  for (const TextRange& range : number_ranges(text)) add_new(numbers, std::string(range.of(text)));
  return numbers;
}

std::optional<Altered> make_mistake(std::string_view sentence, std::string_view source, uint64_t seed, uint64_t key) {
  const bool equation = sentence.find('=') != std::string_view::npos;
  std::optional<Altered> found;
  if (equation) found = mistake_in_number(sentence, source, seed, key);
  if (!found) found = mistake_in_name(sentence, source, seed, key);
  if (!found && !equation) found = mistake_in_number(sentence, source, seed, key);
  if (!found) found = negated(sentence);
  return found;
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
  for (size_t i = 0; i < n_tokens; ++i) out.push_back(unit[i % unit.size()]);
  return out;
}

}  // namespace signalbox::eval
