#include "base/utf8.h"

#include <algorithm>

namespace signalbox {

namespace {

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
  const auto byte = [&] { return pos < text.size() ? static_cast<unsigned char>(text[pos++]) : 0u; };
  const char32_t lead = byte();
  if (lead < 0x80) return lead;
  char32_t c = lead < 0xE0 ? lead & 0x1F : lead < 0xF0 ? lead & 0x0F : lead & 0x07;
  for (size_t n = utf8_length(static_cast<unsigned char>(lead)); n > 1; --n) c = c << 6 | (byte() & 0x3F);
  return c;
}

char32_t previous_code_point(std::string_view text, size_t& pos) {
  do --pos;
  while (pos > 0 && is_utf8_continuation(text[pos]));
  size_t at = pos;
  return next_code_point(text, at);
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const auto follow = [&](int shift) { out += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      out += static_cast<char>(0xE0 | c >> 12);
    } else {
      out += static_cast<char>(0xF0 | c >> 18);
      follow(12);
    }
    follow(6);
  }
  follow(0);
}

size_t count_code_points(std::string_view text) {
  return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), is_utf8_continuation));
}

std::string utf8_prefix(std::string_view text, size_t bytes) {
  if (bytes >= text.size()) return std::string(text);
  while (bytes > 0 && is_utf8_continuation(text[bytes])) --bytes;
  return std::string(text.substr(0, bytes));
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

std::u32string code_points(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    size_t bad = 0;
    bool incomplete = false;
    if (well_formed(text.substr(pos, 4), bad, incomplete) > 0) {
      out += next_code_point(text, pos);
    } else {
      out += U'\uFFFD';
      ++pos;
    }
  }
  return out;
}

std::string to_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t c : text) append_utf8(out, c);
  return out;
}

}  // namespace signalbox
