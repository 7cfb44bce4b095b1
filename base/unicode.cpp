#include "base/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "base/utf8.h"

namespace signalbox {

namespace {

struct CodeRange {
  uint32_t first, last;
};
struct SpecialCase {
  uint32_t from;
  uint32_t to[3];
};

#include "base/unicode_tables.inc"

template <size_t N>
bool in_ranges(const CodeRange (&ranges)[N], char32_t c) {
  const auto* at = std::upper_bound(std::begin(ranges), std::end(ranges), static_cast<uint32_t>(c),
                                    [](uint32_t x, const CodeRange& r) { return x < r.first; });
  return at != std::begin(ranges) && c <= std::prev(at)->last;
}

template <size_t N>
bool append_special(const SpecialCase (&table)[N], char32_t c, std::string& out) {
  const auto* at = std::lower_bound(std::begin(table), std::end(table), static_cast<uint32_t>(c),
                                    [](const SpecialCase& s, uint32_t x) { return s.from < x; });
  if (at == std::end(table) || at->from != c) return false;
  for (uint32_t x : at->to)
    if (x) append_utf8(out, x);
  return true;
}

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

}  // namespace

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_line_break(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_alpha(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool is_alnum(char32_t c) {
  if (c < 0x80) return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z') || (c >= U'0' && c <= U'9');
  const auto k = category(c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
         (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_digit(char32_t c) { return is_decimal(c) || in_ranges(digits_outside_nd, c); }
bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || in_ranges(other_lower, c); }
bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU || in_ranges(other_upper, c); }
bool is_title(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }
bool is_word_character(char32_t c) { return c == '_' || is_alnum(c); }

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
  }
}

void append_upper(char32_t c, std::string& out) {
  if (!append_special(special_upper, c, out))
    append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void append_lower(char32_t c, std::string& out) {
  if (c == 0x130) {  // the only full lower-case mapping of more than one code point
    out += "i\xCC\x87";
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

void append_title(char32_t c, std::string& out) {
  if (!append_special(special_title, c, out))
    append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

void append_folded(char32_t c, std::string& out) {
  utf8proc_int32_t buffer[8];
  int last = 0;
  const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), buffer, 8, UTF8PROC_CASEFOLD, &last);
  for (utf8proc_ssize_t i = 0; i < n && i < 8; ++i) append_utf8(out, static_cast<char32_t>(buffer[i]));
}

bool is_ascii_punctuation(char32_t c) {
  return (c >= U'!' && c <= U'/') || (c >= U':' && c <= U'@') || (c >= U'[' && c <= U'`') || (c >= U'{' && c <= U'~');
}

bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }

bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: break;
  }
  // Unicode's Word_Break: MidLetter, MidNumLet and Single_Quote.
  constexpr std::u32string_view inside_words =
      U"'.:\u00B7\u0387\u055F\u05F4\u2018\u2019\u2024\u2027\uFE13\uFE52\uFE55\uFF07\uFF0E\uFF1A";
  return inside_words.find(c) != std::u32string_view::npos;
}

bool sigma_ends_word(const NextCodePoint& before, const NextCodePoint& behind) {
  const auto cased = [](const NextCodePoint& next) {
    while (const auto c = next())
      if (!is_case_ignorable(*c)) return is_cased(*c);
    return false;
  };
  return cased(before) && !cased(behind);
}

std::u32string lower_case(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    if (c < 0x80) {
      out += c >= U'A' && c <= U'Z' ? c + 32 : c;
    } else if (c == 0x3A3) {
      size_t left = i, right = i + 1;
      const auto before = [&] { return left > 0 ? std::optional(text[--left]) : std::nullopt; };
      const auto behind = [&] { return right < text.size() ? std::optional(text[right++]) : std::nullopt; };
      out += sigma_ends_word(before, behind) ? char32_t{0x3C2} : char32_t{0x3C3};
    } else if (c == 0x130) {
      out += U"i\u0307";
    } else {
      out += static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
    }
  }
  return out;
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
