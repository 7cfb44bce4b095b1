#include "eval/score/contains.h"

#include <utf8proc.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/unicode.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

bool is_combining(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

// Of a script that puts no spaces between words.
bool is_unspaced(char32_t c) {
  constexpr char32_t ranges[][2] = {{0x0E00, 0x0EFF}, {0x1000, 0x109F},  {0x1780, 0x17FF}, {0x2E80, 0x2FDF},
                                    {0x3005, 0x3007}, {0x3021, 0x3029},  {0x3038, 0x303B}, {0x3041, 0x30FF},
                                    {0x31F0, 0x31FF}, {0x3400, 0x4DBF},  {0x4E00, 0x9FFF}, {0xF900, 0xFAFF},
                                    {0xFF66, 0xFF9D}, {0x20000, 0x323AF}};
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [c](const auto& range) { return c >= range[0] && c <= range[1]; });
}

bool in_word(char32_t c) { return is_word_character(c) || is_combining(c); }

// A character of normalised text, and what the punctuation said that was removed before it.
struct Kept {
  char32_t c = 0;
  bool cut = true;        // a word may begin here, and end before it
  std::u32string within;  // the removed punctuation between two digits, commas aside; else empty
};

// What normalize_answer gives, with the places where words end.
std::vector<Kept> normalised(std::string_view text) {
  std::vector<Kept> kept;
  std::u32string removed;
  for (const char32_t c : lower_case(code_points(text))) {
    if (is_ascii_punctuation(c)) {
      removed += c;
      continue;
    }
    Kept next{c, true, {}};
    if (!kept.empty()) {
      const char32_t before = kept.back().c;
      if (is_decimal(before) && is_decimal(c)) {
        next.cut = !removed.empty() && removed != U"." && removed != U",";
        std::copy_if(removed.begin(), removed.end(), std::back_inserter(next.within),
                     [](char32_t mark) { return mark != U','; });
      } else if (removed.empty()) {
        next.cut = !is_combining(c) && (!in_word(before) || !in_word(c) || is_unspaced(before) || is_unspaced(c));
      }
    }
    removed.clear();
    kept.push_back(std::move(next));
  }
  // The articles go, and white space becomes one blank between words.
  std::vector<Kept> out;
  bool blank = false;
  for (size_t begin = 0; begin < kept.size();) {
    size_t end = begin;
    std::u32string word;
    while (end < kept.size() && is_word_character(kept[end].c)) word += kept[end++].c;
    const bool article = word == U"a" || word == U"an" || word == U"the";
    if (article || (word.empty() && is_space(kept[end].c))) {
      blank = true;
      begin = article ? end : end + 1;
      continue;
    }
    end = std::max(end, begin + 1);
    if (blank && !out.empty()) out.push_back({U' ', true, {}});
    if (blank) kept[begin].cut = true;
    blank = false;
    std::move(kept.begin() + static_cast<std::ptrdiff_t>(begin), kept.begin() + static_cast<std::ptrdiff_t>(end),
              std::back_inserter(out));
    begin = end;
  }
  return out;
}

}  // namespace

bool occurs(std::string_view text, std::string_view part) {
  const std::vector<Kept> wanted = normalised(part), all = normalised(text);
  if (wanted.empty() || wanted.size() > all.size()) return false;
  for (size_t at = 0; at + wanted.size() <= all.size(); ++at) {
    const size_t end = at + wanted.size();
    if (at > 0 && !all[at].cut) continue;
    if (end < all.size() && !all[end].cut) continue;
    bool same = true;
    for (size_t i = 0; same && i < wanted.size(); ++i)
      same = all[at + i].c == wanted[i].c && (i == 0 || all[at + i].within == wanted[i].within);
    if (same) return true;
  }
  return false;
}

}  // namespace signalbox::eval
