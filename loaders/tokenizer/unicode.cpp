#include "loaders/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "loaders/tokenizer/unicode_tables.h"

namespace signalbox::loaders::tokenizer {
namespace {

constexpr char32_t n_code_points = 0x110000;

enum Flag : uint8_t { whitespace = 1, numeric = 2, punct = 4, word = 8, mark = 16, unknown = 32 };

std::vector<uint8_t> make_flags() {
  std::vector<uint8_t> flags(n_code_points, 0);
  auto set = [&](std::span<const CodePointRange> ranges, uint8_t flag) {
    for (const CodePointRange& range : ranges)
      for (uint32_t c = range.first; c <= range.last; ++c) flags[c] |= flag;
  };
  for (char32_t c :
       U"\t\n\v\f\r \u0085\u00A0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A"
       U"\u2028\u2029\u202F\u205F\u3000")
    if (c) flags[c] |= whitespace;
  for (size_t i = 0; i < category_runs.size(); ++i) {
    const Category category = category_runs[i].category;
    if (category != Nd && category != Nl && category != No) continue;
    const uint32_t end = i + 1 < category_runs.size() ? category_runs[i + 1].first : n_code_points;
    for (uint32_t c = category_runs[i].first; c < end; ++c) flags[c] |= numeric;
  }
  set(numeric_extra, numeric);
  set(punctuation, punct);
  set(property_word, word);
  set(plain_word_extra, word);
  for (const CodePointRange& range : plain_word_missing)
    for (uint32_t c = range.first; c <= range.last; ++c) flags[c] &= static_cast<uint8_t>(~word);
  set(combining_marks, mark);
  set(normalizer_unknown, unknown);
  return flags;
}

bool has(char32_t c, Flag flag) {
  static const std::vector<uint8_t> flags = make_flags();
  return c < n_code_points && (flags[c] & flag);
}

}  // namespace

bool is_whitespace(char32_t c) { return has(c, whitespace); }
bool is_numeric(char32_t c) { return has(c, numeric); }
bool is_punctuation(char32_t c) { return has(c, punct); }
bool is_word(char32_t c) { return has(c, word); }
bool is_combining_mark(char32_t c) { return has(c, mark); }
bool is_unknown_to_normalizer(char32_t c) { return has(c, unknown); }

void append_lower(std::u32string& out, char32_t c) {
  if (c == 0x130) {
    out += U"i\u0307";
    return;
  }
  const auto extra = std::find_if(lower_extra.begin(), lower_extra.end(), [&](const auto& e) { return e.first == c; });
  if (c >= 0x80 && extra != lower_extra.end())
    out += static_cast<char32_t>(extra->last);
  else
    out += static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

}  // namespace signalbox::loaders::tokenizer
