#include "loaders/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "loaders/tokenizer/unicode_tables.h"

namespace signalbox::tokenizer {
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

// The length of the well-formed code point at the start of `s`; 0 when ill-formed, with the length of the maximal
// ill-formed part in `bad`; `incomplete` when more bytes could make it well-formed.
size_t well_formed(std::string_view s, size_t& bad, bool& incomplete) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = at(0);
  incomplete = false;
  bad = 1;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = utf8_length(lead);
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i, low = 0x80, high = 0xBF) {
    if (i == s.size()) {
      incomplete = true;
      bad = i;
      return 0;
    }
    if (at(i) < low || at(i) > high) {
      bad = i;
      return 0;
    }
  }
  return length;
}

}  // namespace

size_t first_invalid_utf8(std::string_view text) {
  size_t pos = 0, bad = 0;
  bool incomplete = false;
  while (pos < text.size()) {
    const size_t length = well_formed(text.substr(pos, 4), bad, incomplete);
    if (length == 0) return pos;
    pos += length;
  }
  return std::string_view::npos;
}

char32_t next_code_point(std::string_view text, size_t& pos) {
  const auto byte = [&] { return static_cast<char32_t>(static_cast<unsigned char>(text[pos++])); };
  const char32_t lead = byte();
  if (lead < 0x80) return lead;
  char32_t c = lead < 0xE0 ? lead & 0x1F : lead < 0xF0 ? lead & 0x0F : lead & 0x07;
  for (size_t n = utf8_length(static_cast<unsigned char>(lead)); n > 1; --n) c = c << 6 | (byte() & 0x3F);
  return c;
}

char32_t previous_code_point(std::string_view text, size_t& pos) {
  do --pos;
  while ((static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  size_t at = pos;
  return next_code_point(text, at);
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

size_t append_lossy(std::string& out, std::string_view bytes, bool partial) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    size_t bad = 0;
    bool incomplete = false;
    if (const size_t length = well_formed(bytes.substr(pos, 4), bad, incomplete)) {
      out.append(bytes, pos, length);
      pos += length;
    } else if (incomplete && partial) {
      break;
    } else {
      out += "\uFFFD";
      pos += bad;
    }
  }
  return pos;
}

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

}  // namespace signalbox::tokenizer
