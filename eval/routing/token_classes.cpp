#include "eval/routing/token_classes.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/unicode.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

utf8proc_category_t kind_of(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
bool is_mark(char32_t c) { return kind_of(c) >= UTF8PROC_CATEGORY_MN && kind_of(c) <= UTF8PROC_CATEGORY_ME; }
bool is_number(char32_t c) { return kind_of(c) >= UTF8PROC_CATEGORY_ND && kind_of(c) <= UTF8PROC_CATEGORY_NO; }
bool is_punctuation_mark(char32_t c) {
  return kind_of(c) >= UTF8PROC_CATEGORY_PC && kind_of(c) <= UTF8PROC_CATEGORY_PO;
}
bool is_symbol(char32_t c) { return kind_of(c) >= UTF8PROC_CATEGORY_SM && kind_of(c) <= UTF8PROC_CATEGORY_SO; }
bool is_capital(char32_t c) { return kind_of(c) == UTF8PROC_CATEGORY_LU || kind_of(c) == UTF8PROC_CATEGORY_LT; }
bool is_small(char32_t c) { return kind_of(c) == UTF8PROC_CATEGORY_LL; }
bool is_of_word(char32_t c) { return is_alpha(c) || is_mark(c) || is_number(c) || c == '_'; }
bool opens(char32_t c) {
  const auto kind = kind_of(c);
  return kind == UTF8PROC_CATEGORY_PS || kind == UTF8PROC_CATEGORY_PI || c == '"' || c == '\'';
}
bool ends_sentence(char32_t c) {
  return c == '.' || c == '!' || c == '?' || c == 0x2026 || c == 0x3002 || c == 0xFF01 || c == 0xFF1F;
}

TokenClass script_of(char32_t c) {
  struct Range {
    char32_t first, last;
    TokenClass script;
  };
  constexpr Range ranges[] = {
      {0x41, 0x24F, TokenClass::latin},       {0x370, 0x3FF, TokenClass::greek},
      {0x400, 0x52F, TokenClass::cyrillic},   {0x590, 0x5FF, TokenClass::hebrew},
      {0x600, 0x6FF, TokenClass::arabic},     {0x750, 0x77F, TokenClass::arabic},
      {0x8A0, 0x8FF, TokenClass::arabic},     {0x900, 0x97F, TokenClass::devanagari},
      {0xE00, 0xE7F, TokenClass::thai},       {0x1100, 0x11FF, TokenClass::hangul},
      {0x1C80, 0x1C8F, TokenClass::cyrillic}, {0x1E00, 0x1EFF, TokenClass::latin},
      {0x1F00, 0x1FFF, TokenClass::greek},    {0x2C60, 0x2C7F, TokenClass::latin},
      {0x2DE0, 0x2DFF, TokenClass::cyrillic}, {0x3005, 0x3007, TokenClass::han},
      {0x3041, 0x30FF, TokenClass::kana},     {0x3130, 0x318F, TokenClass::hangul},
      {0x31F0, 0x31FF, TokenClass::kana},     {0x3400, 0x9FFF, TokenClass::han},
      {0xA640, 0xA69F, TokenClass::cyrillic}, {0xA720, 0xA7FF, TokenClass::latin},
      {0xAC00, 0xD7FF, TokenClass::hangul},   {0xF900, 0xFAFF, TokenClass::han},
      {0xFB1D, 0xFB4F, TokenClass::hebrew},   {0xFB50, 0xFDFF, TokenClass::arabic},
      {0xFE70, 0xFEFF, TokenClass::arabic},   {0xFF21, 0xFF5A, TokenClass::latin},
      {0xFF66, 0xFF9D, TokenClass::kana},     {0x20000, 0x323AF, TokenClass::han},
  };
  for (const Range& range : ranges)
    if (c >= range.first && c <= range.last) return range.script;
  return TokenClass::other_script;
}

// The byte that a character of a byte-level vocabulary stands for: printable ones of Latin 1 for themselves, the others
// in order from U+0100. -1: none.
int byte_of(char32_t c) {
  const auto itself = [](int byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  };
  if (c < 256) return itself(static_cast<int>(c)) ? static_cast<int>(c) : -1;
  int at = 256;
  for (int byte = 0; byte < 256; ++byte)
    if (!itself(byte) && static_cast<char32_t>(at++) == c) return byte;
  return -1;
}

enum class Spelling : uint8_t { text, byte_level, sentence_piece };

std::string bytes_of(const std::string& piece, Spelling spelling) {
  if (spelling == Spelling::text) return piece;
  if (spelling == Spelling::sentence_piece && piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>') {
    unsigned byte = 0;
    const char* end = piece.data() + 5;
    if (std::from_chars(piece.data() + 3, end, byte, 16).ptr == end) return std::string(1, static_cast<char>(byte));
  }
  std::string out;
  for (const char32_t c : code_points(piece)) {
    if (spelling == Spelling::sentence_piece && c == 0x2581)
      out += ' ';
    else if (const int byte = byte_of(c); spelling == Spelling::byte_level && byte >= 0)
      out += static_cast<char>(byte);
    else
      append_utf8(out, c);
  }
  return out;
}

// A sample's text with what each character says of the token that holds it.
struct ClassedText {
  std::u32string chars;
  std::vector<uint32_t> word;  // [chars] classes of the word that it is of
  std::vector<size_t> begin;   // [chars] first byte; one more at the end

  explicit ClassedText(const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const size_t length = utf8_length(static_cast<unsigned char>(bytes[at]));
      const std::string_view part = std::string_view(bytes).substr(at, length);
      begin.push_back(at);
      if (part.size() == length && first_invalid_utf8(part) == std::string_view::npos) {
        size_t end = 0;
        chars += next_code_point(part, end);
        at += length;
      } else {
        chars += char32_t{0xFFFD};
        ++at;
      }
    }
    begin.push_back(bytes.size());
    word.resize(chars.size());
    for (size_t i = 0; i < chars.size();) {
      size_t end = i;
      while (end < chars.size() && is_of_word(chars[end])) ++end;
      if (end > i)
        std::fill(word.begin() + static_cast<int64_t>(i), word.begin() + static_cast<int64_t>(end), classes_of(i, end));
      i = std::max(end, i + 1);
    }
  }

  bool begins_sentence(size_t at) const {
    while (at > 0 && (is_space(chars[at - 1]) || opens(chars[at - 1]))) {
      if (is_line_break(chars[at - 1])) return true;
      --at;
    }
    return at == 0 || ends_sentence(chars[at - 1]);
  }

  uint32_t classes_of(size_t first, size_t end) const {
    uint32_t out = 0;
    int64_t letters = 0, capitals = 0;
    for (size_t i = first; i < end; ++i) {
      letters += is_alpha(chars[i]);
      capitals += is_capital(chars[i]);
      if (chars[i] == '_' || (i > first && is_capital(chars[i]) && is_small(chars[i - 1])))
        out |= class_bit(TokenClass::code);
    }
    if (letters >= 2 && capitals == letters) out |= class_bit(TokenClass::capitals);
    if (is_capital(chars[first]) && first + 1 < end && is_small(chars[first + 1]) && !begins_sentence(first))
      out |= class_bit(TokenClass::name);
    return out;
  }

  // Of the token that holds the bytes [from, to), which are some.
  uint32_t of_token(size_t from, size_t to) const {
    size_t first = static_cast<size_t>(std::upper_bound(begin.begin(), begin.end(), from) - begin.begin()) - 1,
           end = first;
    while (end < chars.size() && begin[end] < to) ++end;
    uint32_t out = begin[first] < from || begin[end] > to ? class_bit(TokenClass::partial) : 0;
    bool breaks = false, space = true, punctuation = true, marks = true, digits = true;
    size_t seen = end, letter = end;  // the first that is no space; the first letter
    for (size_t i = end; i-- > first;) {
      const char32_t c = chars[i];
      if (is_space(c)) {
        breaks |= is_line_break(c);
        continue;
      }
      space = false;
      punctuation &= is_punctuation_mark(c);
      marks &= is_punctuation_mark(c) || is_symbol(c);
      digits &= is_number(c);
      seen = i;
      if (is_alpha(c)) letter = i;
      if (c < 0x80 && std::string_view("{}[]<>=;\\|&^~$#@_`").find(static_cast<char>(c)) != std::string_view::npos)
        out |= class_bit(TokenClass::code);
    }
    if (space) return out | class_bit(breaks ? TokenClass::newline : TokenClass::space);
    if (punctuation) out |= class_bit(TokenClass::punctuation);
    if (marks && !punctuation) out |= class_bit(TokenClass::symbol);
    if (digits) out |= class_bit(TokenClass::digits);
    const bool goes_on = seen > 0 && is_of_word(chars[seen - 1]) && is_of_word(chars[seen]);
    if (is_alpha(chars[seen]) && !goes_on) out |= class_bit(TokenClass::word_start);
    if ((is_alpha(chars[seen]) || is_mark(chars[seen])) && goes_on) out |= class_bit(TokenClass::word_continuation);
    if (letter < end) out |= word[letter] | class_bit(script_of(chars[letter]));
    return out;
  }
};

}  // namespace

const char* token_class_name(TokenClass one) {
  static constexpr const char* names[] = {"first",       "special",  "partial", "space",       "newline",
                                          "punctuation", "symbol",   "digits",  "word_start",  "word_continuation",
                                          "name",        "capitals", "code",    "latin",       "greek",
                                          "cyrillic",    "hebrew",   "arabic",  "devanagari",  "thai",
                                          "han",         "kana",     "hangul",  "other_script"};
  static_assert(std::size(names) == n_token_classes);
  return names[static_cast<size_t>(one)];
}

bool is_special_piece(std::string_view piece) {
  if (piece.size() < 3) return false;
  const std::string_view inside = piece.substr(1, piece.size() - 2);
  if (piece.front() == '<' && piece.back() == '>') {
    constexpr std::string_view bar = "|", wide_bar = "\xEF\xBD\x9C";
    for (const std::string_view one : {bar, wide_bar})
      if (inside.size() > 2 * one.size() && inside.starts_with(one) && inside.ends_with(one)) return true;
    constexpr std::string_view names[] = {"s",    "/s",  "unk", "pad",           "bos",        "eos",
                                          "mask", "cls", "sep", "start_of_turn", "end_of_turn"};
    return std::find(std::begin(names), std::end(names), inside) != std::end(names);
  }
  return piece.front() == '[' && piece.back() == ']' && inside.size() >= 3 &&
         std::all_of(inside.begin(), inside.end(),
                     [](char c) { return (c >= 'A' && c <= 'Z') || c == '/' || c == '_'; });
}

TokenSpelling::TokenSpelling(const std::map<int32_t, std::string>& pieces) {
  Spelling spelling = Spelling::text;
  for (const auto& [token, piece] : pieces) {
    if (piece.find("\xE2\x96\x81") != std::string::npos) {
      spelling = Spelling::sentence_piece;
      break;
    }
    if (piece.find("\xC4\xA0") != std::string::npos || piece.find("\xC4\x8A") != std::string::npos)
      spelling = Spelling::byte_level;
  }
  for (const auto& [token, piece] : pieces) {
    const bool special = is_special_piece(piece);
    bytes_[token] = {special ? std::string() : bytes_of(piece, spelling), special};
  }
}

std::vector<uint32_t> TokenSpelling::classes(std::span<const int32_t> tokens) const {
  std::string text;
  std::vector<size_t> ends;
  std::vector<uint32_t> out(tokens.size());
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto found = bytes_.find(tokens[t]);
    if (found == bytes_.end())
      out[t] = unknown_token;
    else if (found->second.special)
      out[t] = class_bit(TokenClass::special);
    else
      text += found->second.text;
    ends.push_back(text.size());
  }
  const ClassedText classed(text);
  for (size_t t = 0; t < tokens.size(); ++t) {
    const size_t from = t == 0 ? 0 : ends[t - 1];
    if (ends[t] > from) out[t] |= classed.of_token(from, ends[t]);
    if (t == 0 && out[t] != unknown_token) out[t] |= class_bit(TokenClass::first);
  }
  return out;
}

}  // namespace signalbox::eval
