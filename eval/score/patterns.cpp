#include "eval/score/patterns.h"

#include <algorithm>

#include "base/unicode.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

bool is_apostrophe(char32_t c) {
  return c == U'\'' || c == 0x2019 || c == 0x2018 || c == 0x02BC || c == 0xFF07 || c == U'`' || c == 0xB4;
}

bool ends_sentence(std::u32string_view text, size_t at) {
  const char32_t c = text[at];
  if (c == U'\n' || c == 0x2028 || c == 0x2029) return true;
  if (c != U'.' && c != U'!' && c != U'?' && c != U';' && c != 0x2026) return false;
  if (at + 1 == text.size()) return true;
  const char32_t next = text[at + 1];
  constexpr std::u32string_view closing = U"\"')]*\u201D\u2019";
  return is_space(next) || closing.find(next) != std::u32string_view::npos;
}

bool is_pause(const std::string& word) { return word == "," || word == ":"; }

bool fits(std::string_view word, std::string_view alternatives) {
  for (size_t begin = 0; begin <= alternatives.size();) {
    const size_t end = std::min(alternatives.find('|', begin), alternatives.size());
    const std::string_view one = alternatives.substr(begin, end - begin);
    if (one.starts_with('*') ? word.size() >= one.size() && word.ends_with(one.substr(1)) : word == one) return true;
    begin = end + 1;
  }
  return false;
}

// The marks that close what `mark` opens; empty for what opens nothing.
std::u32string_view closing_marks(char32_t mark) {
  if (mark == U'"') return U"\"";
  if (mark == 0x201C) return U"\u201D";
  if (mark == 0x201E) return U"\u201C\u201D";
  if (mark == 0xAB) return U"\u00BB";
  return {};
}

bool is_word_at(std::u32string_view text, size_t at) { return at < text.size() && is_word_character(text[at]); }

// The place of the mark that closes the quotation opened at `open`; npos: none is opened, or not closed on its line.
size_t closing_mark(std::u32string_view text, size_t open) {
  const std::u32string_view marks = closing_marks(text[open]);
  const bool straight = text[open] == U'"';
  if (marks.empty() || (straight && open > 0 && is_word_at(text, open - 1))) return std::u32string_view::npos;
  for (size_t i = open + 1; i < text.size() && text[i] != U'\n'; ++i)
    if (marks.find(text[i]) != std::u32string_view::npos && !(straight && is_word_at(text, i + 1))) return i;
  return std::u32string_view::npos;
}

size_t count_words(std::string_view text) {
  size_t count = 0;
  for (const Sentence& sentence : sentences(text))
    for (const std::string& word : sentence) count += is_pause(word) ? 0 : 1;
  return count;
}

// Adds the places behind the words that the rest of a rule takes from word `at` on.
void add_ends(const Sentence& words, size_t at, std::string_view rule, std::set<size_t>& ends) {
  rule.remove_prefix(std::min(rule.find_first_not_of(' '), rule.size()));
  if (rule.empty()) {
    ends.insert(at);
    return;
  }
  const size_t length = std::min(rule.find(' '), rule.size());
  std::string_view item = rule.substr(0, length);
  const std::string_view rest = rule.substr(length);
  if (item.front() == '!') {
    if (at == words.size() || !fits(words[at], item.substr(1))) add_ends(words, at, rest, ends);
  } else if (item == "$") {
    if (at == words.size() || is_pause(words[at])) add_ends(words, at, rest, ends);
  } else if (item == ".") {
    if (at == words.size()) add_ends(words, at, rest, ends);
  } else if (item == "^") {
    if (at == 0) add_ends(words, at, rest, ends);
  } else if (item == "..") {
    for (int skipped = 0;; ++skipped) {
      add_ends(words, at, rest, ends);
      while (at < words.size() && is_pause(words[at])) ++at;
      if (skipped == 3 || at == words.size()) return;
      ++at;
    }
  } else {
    if (item.front() == '?') {
      item.remove_prefix(1);
      add_ends(words, at, rest, ends);
    }
    while (at < words.size() && is_pause(words[at])) ++at;
    if (at < words.size() && fits(words[at], item)) add_ends(words, at + 1, rest, ends);
  }
}

}  // namespace

std::vector<Sentence> sentences(std::string_view text, size_t limit) {
  const std::u32string lower = lower_case(code_points(text));
  std::vector<Sentence> out;
  Sentence sentence;
  std::u32string word;
  auto end_word = [&] {
    if (!word.empty()) sentence.push_back(to_utf8(word));
    word.clear();
  };
  auto end_sentence = [&] {
    end_word();
    const bool any = std::any_of(sentence.begin(), sentence.end(), [](const auto& w) { return !is_pause(w); });
    if (any && out.size() < limit) out.push_back(std::move(sentence));
    sentence.clear();
  };
  for (size_t i = 0; i < lower.size() && out.size() < limit; ++i) {
    const char32_t c = lower[i];
    if (is_word_character(c) && c != U'_') {
      word += c;
    } else if (is_apostrophe(c) && !word.empty() && i + 1 < lower.size() && is_word_character(lower[i + 1])) {
      // inside a word: left out
    } else {
      end_word();
      if (ends_sentence(lower, i))
        end_sentence();
      else if (c == U',' || c == U':')
        sentence.emplace_back(1, static_cast<char>(c));
    }
  }
  end_sentence();
  return out;
}

std::string without_quotations(std::string_view text) {
  const std::u32string all = code_points(text);
  std::u32string out;
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t close = closing_mark(all, i);
    if (close == std::u32string::npos || count_words(to_utf8(all.substr(i + 1, close - i - 1))) < 2) {
      out += all[i];
      continue;
    }
    // A sentence that ends inside the marks still ends.
    out += all[close - 1] == U'.' || all[close - 1] == U'!' || all[close - 1] == U'?' ? all[close - 1] : U' ';
    i = close;
  }
  std::string rest = to_utf8(out);
  return count_words(rest) == 0 ? std::string(text) : rest;
}

std::set<size_t> rule_ends(const Sentence& sentence, const std::set<size_t>& starts, std::string_view rule) {
  std::set<size_t> ends;
  for (size_t start : starts) add_ends(sentence, start, rule, ends);
  return ends;
}

std::set<size_t> all_places(const Sentence& sentence) {
  std::set<size_t> places;
  for (size_t at = 0; at <= sentence.size(); ++at) places.insert(places.end(), at);
  return places;
}

bool matches_rule(const Sentence& sentence, std::string_view rule) {
  std::set<size_t> ends;
  for (size_t start = 0; start <= sentence.size() && ends.empty(); ++start) add_ends(sentence, start, rule, ends);
  return !ends.empty();
}

bool matches_any(const Sentence& sentence, std::span<const char* const> rules) {
  return std::any_of(rules.begin(), rules.end(), [&](const char* rule) { return matches_rule(sentence, rule); });
}

}  // namespace signalbox::eval
