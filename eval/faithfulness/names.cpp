#include "eval/faithfulness/names.h"

#include <algorithm>
#include <array>

#include "base/text.h"

namespace signalbox::eval {

namespace {

bool is_letter(char c) { return is_ascii_letter(c) || c == '\'' || c == '-' || static_cast<unsigned char>(c) >= 0x80; }

template <class T>
void add_new(std::vector<T>& list, T value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(std::move(value));
}

template <size_t N>
bool is_one_of(const std::array<std::string_view, N>& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

constexpr std::array<std::string_view, 4> to_be = {"is", "are", "was", "were"};
constexpr std::array<std::string_view, 2> joining = {"and", "or"};

// The word at `index` in small letters, or nothing where it is a name, a joining word or not there.
std::string told_by(const std::vector<Word>& sentence, size_t index, std::string_view text) {
  if (index >= sentence.size() || is_name(sentence[index], text)) return "";
  std::string word = ascii_lower(sentence[index].range.of(text));
  return is_one_of(joining, word) ? "" : word;
}

// What the verb at `verb` is said of: the word before the first "of", else the word before the verb.
std::string subject_of(const std::vector<Word>& sentence, size_t verb, std::string_view text) {
  for (size_t i = 1; i < verb; ++i)
    if (sentence[i].range.of(text) == "of") return told_by(sentence, i - 1, text);
  if (verb == 0 || is_common_word(sentence[verb - 1].range.of(text))) return "";
  return told_by(sentence, verb - 1, text);
}

}  // namespace

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

std::vector<Word> unlabelled(std::vector<Word> words) {
  std::erase_if(words, [](const Word& word) { return word.label; });
  return words;
}

bool is_name(const Word& word, std::string_view text) {
  const std::string_view spelt = word.range.of(text);
  return is_ascii_capital(spelt[0]) && !word.label && !is_common_word(spelt);
}

std::vector<std::string> names_in(std::string_view text) {
  std::vector<std::string> names;
  for (const Word& word : words_of(text))
    if (is_name(word, text)) add_new(names, std::string(word.range.of(text)));
  return names;
}

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

std::vector<std::string> numbers_in(std::string_view text) {
  std::vector<std::string> numbers;
  for (const TextRange& range : number_ranges(text)) add_new(numbers, std::string(range.of(text)));
  return numbers;
}

NamePlace place_of(const std::vector<Word>& sentence, size_t index, std::string_view text) {
  NamePlace place;
  if (index == 0) {
    place.after = told_by(sentence, 1, text);
    if (is_one_of(to_be, place.after)) {
      const std::string next = told_by(sentence, 2, text);
      if (!next.empty()) place.after += " " + next;
    }
    if (!place.after.empty()) place.after = "_ " + place.after;
    return place;
  }
  place.word = told_by(sentence, index - 1, text);
  if (place.word.empty()) return place;
  if (is_one_of(to_be, place.word)) {
    const std::string subject = subject_of(sentence, index - 1, text);
    if (!subject.empty()) place.before = subject + " is _";
    place.word = subject.empty() ? "is" : "";
  } else if (place.word == "of") {
    const std::string head = index >= 2 ? told_by(sentence, index - 2, text) : "";
    place.before = head + (head.empty() ? "of _" : " of _");
  } else {
    place.before = place.word + " _";
  }
  return place;
}

void NamePlaces::add(std::string_view text) {
  for (const TextRange& sentence : split_sentences(text)) {
    const std::string_view spelt = sentence.of(text);
    const std::vector<Word> words = unlabelled(words_of(spelt));
    for (size_t i = 0; i < words.size(); ++i) {
      if (!is_name(words[i], spelt)) continue;
      const auto [at, is_new] = index_.emplace(words[i].range.of(spelt), names_.size());
      if (is_new) names_.push_back({at->first, {}, {}});
      Name& name = names_[at->second];
      NamePlace place = place_of(words, i, spelt);
      for (const std::string& one : {place.before, place.after}) {
        if (one.empty() || std::count(name.places.begin(), name.places.end(), one) > 0) continue;
        name.places.push_back(one);
        by_place_[one].push_back(at->second);
      }
      if (!place.word.empty()) add_new(name.words, std::move(place.word));
    }
  }
}

const NamePlaces::Name* NamePlaces::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &names_[found->second];
}

std::vector<std::string> NamePlaces::at(const std::string& place) const {
  std::vector<std::string> out;
  if (const auto found = by_place_.find(place); found != by_place_.end())
    for (const size_t name : found->second) out.push_back(names_[name].text);
  return out;
}

}  // namespace signalbox::eval
