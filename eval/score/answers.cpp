#include "eval/score/answers.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "base/unicode.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

// re.sub(r"\b(a|an|the)\b", " ", text): runs of word characters that are an article become a space.
std::u32string without_articles(std::u32string_view text) {
  std::u32string out;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    while (end < text.size() && is_word_character(text[end])) ++end;
    const std::u32string_view word = text.substr(begin, end - begin);
    if (word == U"a" || word == U"an" || word == U"the") {
      out += U' ';
    } else if (end > begin) {
      out += word;
    } else {
      out += text[end++];
    }
    begin = end;
  }
  return out;
}

// The answers that count, normalised: those that are not empty, else the empty one.
std::vector<std::string> gold_answers(const std::vector<std::string>& answers) {
  std::vector<std::string> out;
  for (const std::string& answer : answers)
    if (std::string normal = normalize_answer(answer); !normal.empty()) out.push_back(std::move(normal));
  if (out.empty()) out.emplace_back();
  return out;
}

double f1_of(const std::vector<std::string>& found, const std::vector<std::string>& gold) {
  if (found.empty() || gold.empty()) return found.empty() && gold.empty() ? 1 : 0;
  std::map<std::string, int64_t> counts;
  for (const std::string& word : gold) ++counts[word];
  int64_t common = 0;
  for (const std::string& word : found)
    if (auto at = counts.find(word); at != counts.end() && at->second > 0) {
      --at->second;
      ++common;
    }
  if (common == 0) return 0;
  const double precision = static_cast<double>(common) / static_cast<double>(found.size());
  const double recall = static_cast<double>(common) / static_cast<double>(gold.size());
  return 2 * precision * recall / (precision + recall);
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool is_mark(char c) { return c == '*' || c == '_'; }

// The end of a marker that begins at `at` of lower-case text, or 0.
size_t marker_end(std::string_view text, size_t at) {
  if (text.substr(at).starts_with("####")) return at + 4;
  constexpr std::string_view word = "answer";
  if (!text.substr(at).starts_with(word)) return 0;
  if (at > 0) {
    const auto before = static_cast<unsigned char>(text[at - 1]);
    if ((is_word_character(before) && before != '_') || before >= 0x80) return 0;
  }
  size_t pos = at + word.size();
  auto skip = [&] {
    while (pos < text.size() && (is_blank(text[pos]) || is_mark(text[pos]))) ++pos;
  };
  skip();
  if (pos < text.size() && text[pos] == ':') return pos + 1;
  if (pos == at + word.size() || !text.substr(pos).starts_with("is")) return 0;
  pos += 2;
  if (pos < text.size() && is_word_character(static_cast<unsigned char>(text[pos]))) return 0;
  skip();
  return pos < text.size() && text[pos] == ':' ? pos + 1 : pos;
}

std::string_view trimmed(std::string_view text, bool marks) {
  auto outside = [&](char c) { return is_blank(c) || c == '\n' || (marks && c == '*'); };
  while (!text.empty() && outside(text.front())) text.remove_prefix(1);
  while (!text.empty() && outside(text.back())) text.remove_suffix(1);
  return text;
}

// The line behind the last marker that text follows; empty when there is none.
std::string_view marked_answer(std::string_view text) {
  const std::string lower = ascii_lower(text);
  for (size_t at = lower.size(); at-- > 0;) {
    const size_t end = marker_end(lower, at);
    if (end == 0) continue;
    std::string_view rest = trimmed(text.substr(end), true);
    rest = trimmed(rest.substr(0, rest.find('\n')), true);
    if (!rest.empty()) return rest;
  }
  return {};
}

}  // namespace

std::string normalize_answer(std::string_view text) {
  std::u32string kept;
  for (char32_t c : lower_case(code_points(text)))
    if (!is_ascii_punctuation(c)) kept += c;
  return to_utf8(single_spaces(without_articles(kept)));
}

std::string normalize_faitheval(std::string_view text) {
  std::u32string spaced = lower_case(code_points(text));
  for (char32_t& c : spaced)
    if (is_ascii_punctuation(c) || c == 0x2018 || c == 0x2019 || c == 0xB4) c = U' ';
  return to_utf8(single_spaces(without_articles(spaced)));
}

bool exact_match(std::string_view text, const std::vector<std::string>& answers) {
  const std::vector<std::string> gold = gold_answers(answers);
  return std::find(gold.begin(), gold.end(), normalize_answer(text)) != gold.end();
}

double token_f1(std::string_view text, const std::vector<std::string>& answers) {
  const std::vector<std::string> found = split_words(normalize_answer(text));
  double best = 0;
  for (const std::string& answer : gold_answers(answers)) best = std::max(best, f1_of(found, split_words(answer)));
  return best;
}

std::string_view after_thinking(std::string_view text) {
  constexpr std::string_view close = "</think>";
  const size_t at = text.rfind(close);
  return at == std::string_view::npos ? text : text.substr(at + close.size());
}

std::string answer_of(std::string_view text) {
  text = after_thinking(text);
  const std::string_view marked = marked_answer(text);
  return std::string(marked.empty() ? trimmed(text, false) : marked);
}

bool has_answer_marker(std::string_view text) { return !marked_answer(after_thinking(text)).empty(); }

bool holds_words(std::string_view text, std::string_view part) {
  const std::string wanted = normalize_answer(part);
  return !wanted.empty() && (" " + normalize_answer(text) + " ").find(" " + wanted + " ") != std::string::npos;
}

}  // namespace signalbox::eval
