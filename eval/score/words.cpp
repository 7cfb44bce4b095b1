#include "eval/score/words.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

namespace signalbox {

namespace {

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

// Unicode's Case_Ignorable: marks, format characters, modifiers, and the punctuation that stands inside words.
bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: break;
  }
  constexpr std::array<char32_t, 15> inside_words = {U'\'',  U'.',   U':',   0x00B7, 0x0387, 0x055F, 0x05F4, 0x2018,
                                                     0x2019, 0x2024, 0x2027, 0xFE13, 0xFE52, 0xFE55, 0xFF07};
  return std::find(inside_words.begin(), inside_words.end(), c) != inside_words.end() || c == 0xFF0E || c == 0xFF1A;
}

// Unicode's Cased, of code points that are not case-ignorable.
bool is_cased(char32_t c) {
  const auto k = category(c);
  if (k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT) return true;
  // Other_Lowercase and Other_Uppercase: ordinals, Roman numerals, letters in circles and squares.
  struct Range {
    char32_t first, last;
  };
  constexpr std::array<Range, 7> others = {{{0xAA, 0xAA},
                                            {0xBA, 0xBA},
                                            {0x2160, 0x217F},
                                            {0x24B6, 0x24E9},
                                            {0x1F130, 0x1F149},
                                            {0x1F150, 0x1F169},
                                            {0x1F170, 0x1F189}}};
  return std::any_of(others.begin(), others.end(), [&](Range r) { return c >= r.first && c <= r.last; });
}

// Whether the sigma at `at` ends a word: a cased letter stands before it and none after it, case-ignorable ones aside.
bool ends_word(std::u32string_view text, size_t at) {
  size_t before = at;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  size_t after = at + 1;
  while (after < text.size() && is_case_ignorable(text[after])) ++after;
  return after == text.size() || !is_cased(text[after]);
}

}  // namespace

std::u32string code_points(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t pos = 0; pos < text.size();) {
    utf8proc_int32_t c = 0;
    const auto n = utf8proc_iterate(data + pos, static_cast<utf8proc_ssize_t>(text.size() - pos), &c);
    out += n > 0 ? static_cast<char32_t>(c) : U'\uFFFD';
    pos += n > 0 ? static_cast<size_t>(n) : 1;
  }
  return out;
}

std::string to_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t c : text) {
    utf8proc_uint8_t bytes[4];
    const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
    out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
  }
  return out;
}

std::u32string lower_case(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    if (c < 0x80) {
      out += c >= U'A' && c <= U'Z' ? c + 32 : c;
    } else if (c == 0x3A3) {
      out += ends_word(text, i) ? char32_t{0x3C2} : char32_t{0x3C3};
    } else if (c == 0x130) {
      out += U"i\u0307";
    } else {
      out += static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
    }
  }
  return out;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word_character(char32_t c) {
  if (c < 0x80) return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z') || (c >= U'0' && c <= U'9') || c == U'_';
  const auto k = category(c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
         (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

bool is_ascii_punctuation(char32_t c) {
  return (c >= U'!' && c <= U'/') || (c >= U':' && c <= U'@') || (c >= U'[' && c <= U'`') || (c >= U'{' && c <= U'~');
}

std::u32string single_spaces(std::u32string_view text) {
  std::u32string out;
  bool pending = false;
  for (char32_t c : text) {
    if (is_space(c)) {
      pending = !out.empty();
      continue;
    }
    if (pending) out += U' ';
    pending = false;
    out += c;
  }
  return out;
}

std::vector<std::string> split_words(std::string_view text) {
  const std::u32string joined = single_spaces(code_points(text));
  std::vector<std::string> words;
  for (size_t begin = 0; begin < joined.size();) {
    const size_t end = std::min(joined.find(U' ', begin), joined.size());
    words.push_back(to_utf8(std::u32string_view(joined).substr(begin, end - begin)));
    begin = end + 1;
  }
  return words;
}

}  // namespace signalbox
