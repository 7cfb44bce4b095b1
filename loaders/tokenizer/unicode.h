// UTF-8 and the classes of code points, as Hugging Face `tokenizers` sees them.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace signalbox::tokenizer {

// The first byte that is not part of valid UTF-8 (no surrogates, no overlong forms), or npos.
size_t first_invalid_utf8(std::string_view text);

// The length in bytes of the code point that starts with `lead`. The text must be valid.
inline size_t utf8_length(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

// The code point at `pos` of valid text; moves pos behind it.
char32_t next_code_point(std::string_view text, size_t& pos);

// The code point that ends at `pos` (> 0) of valid text; moves pos in front of it.
char32_t previous_code_point(std::string_view text, size_t& pos);

void append_utf8(std::string& out, char32_t c);
size_t count_code_points(std::string_view text);

// Appends `bytes` to `out`, each maximal ill-formed part (as Unicode recommends) replaced by one U+FFFD. With
// `partial`, an incomplete code point at the end is left alone; returns how many bytes were used.
size_t append_lossy(std::string& out, std::string_view bytes, bool partial);

bool is_whitespace(char32_t c);             // White_Space
bool is_numeric(char32_t c);                // category N
bool is_punctuation(char32_t c);            // of the pre-tokenizer Punctuation
bool is_word(char32_t c);                   // of the pre-tokenizer Whitespace and of single_word
bool is_combining_mark(char32_t c);         // of the normalizer StripAccents
bool is_unknown_to_normalizer(char32_t c);  // inert under NFC and the like, whatever newer tables say

// Appends the lower-case form (two code points for U+0130).
void append_lower(std::u32string& out, char32_t c);

}  // namespace signalbox::tokenizer
