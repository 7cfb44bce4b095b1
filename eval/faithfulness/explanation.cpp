#include "eval/faithfulness/explanation.h"

#include <algorithm>
#include <array>

#include "base/text.h"

namespace signalbox::eval {

namespace {

bool is_end_mark(char c) { return c == '.' || c == '!' || c == '?'; }

// Length of a closing quote or bracket at the beginning of `text`; 0: none. Curly quotes are three bytes.
size_t closing(std::string_view text) {
  if (text.empty()) return 0;
  if (text[0] == '"' || text[0] == '\'' || text[0] == ')' || text[0] == ']' || text[0] == '}') return 1;
  return text.starts_with("\xE2\x80\x9D") || text.starts_with("\xE2\x80\x99") ? 3 : 0;
}

constexpr std::array abbreviations = {"e.g", "i.e", "cf", "vs",  "approx", "Mr",  "Mrs",  "Ms",  "Dr",  "Prof", "St",
                                      "Jr",  "Sr",  "pp", "Jan", "Feb",    "Aug", "Sept", "Oct", "Nov", "Dec",  "viz"};
// Only before a number: "No. 5", but "No. It is not."
constexpr std::array numbering = {"No", "Nos", "Fig", "Eq", "Sec", "Ch", "Vol"};

constexpr std::array common = {
    "The",   "A",      "An",    "It",    "He",     "She",      "They",      "We",      "You",   "I",        "This",
    "That",  "These",  "So",    "Then",  "Thus",   "Hence",    "But",       "And",     "Or",    "If",       "In",
    "On",    "At",     "From",  "To",    "For",    "Of",       "By",        "As",      "Is",    "Are",      "Was",
    "Were",  "Who",    "What",  "Where", "When",   "Why",      "How",       "Which",   "There", "Here",     "Now",
    "First", "Second", "Third", "Next",  "Last",   "Finally",  "Therefore", "Because", "Since", "After",    "Before",
    "Let",   "Step",   "Steps", "Think", "Answer", "Question", "Document",  "Each",    "Every", "All",      "No",
    "Not",   "Yes",    "Its",   "His",   "Her",    "Their",    "Both",      "With",    "User",  "Assistant"};

// Whether the full stop at `dot` belongs to the word before it. `begin` is where the sentence's own text begins.
bool stop_of_a_word(std::string_view text, size_t begin, size_t dot) {
  size_t word = dot;
  while (word > begin && !is_ascii_space(text[word - 1]) && text[word - 1] != '(' && text[word - 1] != '"') --word;
  const std::string_view before = text.substr(word, dot - word);
  if (before.empty()) return false;
  if (std::find(abbreviations.begin(), abbreviations.end(), before) != abbreviations.end()) return true;
  size_t next = dot + 1;
  while (next < text.size() && is_ascii_space(text[next])) ++next;
  if (std::find(numbering.begin(), numbering.end(), before) != numbering.end())
    return next < text.size() && is_ascii_digit(text[next]);
  if (before.size() == 1 && is_ascii_capital(before[0])) {
    size_t end = next;
    while (end < text.size() && is_ascii_letter(text[end])) ++end;
    return !is_common_word(text.substr(next, end - next));
  }
  return word == begin && std::all_of(before.begin(), before.end(), is_ascii_digit);
}

}  // namespace

bool is_common_word(std::string_view word) { return std::find(common.begin(), common.end(), word) != common.end(); }

std::vector<TextRange> split_sentences(std::string_view text) {
  std::vector<TextRange> out;
  size_t begin = 0;
  auto close = [&](size_t end) {
    const std::string_view piece = text.substr(begin, end - begin);
    if (std::all_of(piece.begin(), piece.end(), is_ascii_space)) return;  // goes to the next sentence
    out.push_back({begin, end});
    begin = end;
  };
  size_t first = std::string_view::npos;  // of the sentence's own text
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      close(i);
      first = std::string_view::npos;
      continue;
    }
    if (is_ascii_space(c)) continue;
    if (first == std::string_view::npos || first < begin) first = i;
    if (!is_end_mark(c)) continue;
    size_t end = i + 1;
    while (end < text.size() && is_end_mark(text[end])) ++end;
    while (const size_t n = closing(text.substr(end))) end += n;
    if (end < text.size() && !is_ascii_space(text[end])) {
      i = end - 1;
      continue;
    }
    size_t next = end;
    while (next < text.size() && is_ascii_space(text[next])) ++next;
    const bool line_goes_on = text.substr(end, next - end).find('\n') == std::string_view::npos;
    const bool only_stop = c == '.' && end == i + 1;
    const bool goes_on = next < text.size() && line_goes_on && c == '.' &&
                         (is_ascii_small(text[next]) || (only_stop && stop_of_a_word(text, first, i)));
    i = end - 1;
    if (goes_on) continue;
    close(end);
    first = std::string_view::npos;
  }
  close(text.size());
  if (!out.empty()) out.back().end = text.size();
  return out;
}

std::optional<CutText> cut_at_marker(std::string_view text, std::string_view marker) {
  const size_t at = text.rfind(marker);
  if (marker.empty() || at == std::string_view::npos) return std::nullopt;
  size_t end = at;
  while (end > 0 && is_ascii_space(text[end - 1])) --end;
  return CutText{end, at + marker.size()};
}

std::string answer_line(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size() && is_ascii_space(text[begin])) ++begin;
  size_t end = begin;
  while (end < text.size() && text[end] != '\n') ++end;
  while (end > begin && is_ascii_space(text[end - 1])) --end;
  return std::string(text.substr(begin, end - begin));
}

size_t trimmed_size(std::string_view text) {
  size_t n = text.size();
  while (n > 0 && is_json_space(text[n - 1])) --n;
  return n;
}

}  // namespace signalbox::eval
