// UTF-8: finding what is not valid, walking over code points, writing them.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace signalbox {

// The first byte that is not part of valid UTF-8 (no surrogates, no overlong forms, at most U+10FFFF), or npos.
size_t first_invalid_utf8(std::string_view text);

// The length in bytes of the code point that starts with `lead`. The text must be valid.
inline size_t utf8_length(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

// Whether a byte goes on with a code point that began before it.
inline bool is_utf8_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// The code point at `pos` of valid text; moves pos behind it. Stays within any text.
char32_t next_code_point(std::string_view text, size_t& pos);

// The code point that ends at `pos` (> 0) of valid text; moves pos in front of it.
char32_t previous_code_point(std::string_view text, size_t& pos);

void append_utf8(std::string& out, char32_t c);
size_t count_code_points(std::string_view text);

// At most so many bytes from the start of a text, without half a code point at their end.
std::string utf8_prefix(std::string_view text, size_t bytes);

// Appends `bytes` to `out`, each maximal ill-formed part (as Unicode recommends) replaced by one U+FFFD. With
// `partial`, an incomplete code point at the end is left alone; returns how many bytes were used.
size_t append_lossy(std::string& out, std::string_view bytes, bool partial);

// All code points of a text, each byte that is not part of valid UTF-8 as U+FFFD; and back.
std::u32string code_points(std::string_view text);
std::string to_utf8(std::u32string_view text);

}  // namespace signalbox
