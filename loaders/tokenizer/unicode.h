// The classes of code points, as Hugging Face `tokenizers` sees them (Unicode 16; base/unicode.h has Python's, of 14).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/namespaces.h"
#include "base/utf8.h"

namespace signalbox::loaders::tokenizer {

bool is_whitespace(char32_t c);             // White_Space
bool is_numeric(char32_t c);                // category N
bool is_punctuation(char32_t c);            // of the pre-tokenizer Punctuation
bool is_word(char32_t c);                   // of the pre-tokenizer Whitespace and of single_word
bool is_combining_mark(char32_t c);         // of the normalizer StripAccents
bool is_unknown_to_normalizer(char32_t c);  // inert under NFC and the like, whatever newer tables say

// Appends the lower-case form (two code points for U+0130).
void append_lower(std::u32string& out, char32_t c);

}  // namespace signalbox::loaders::tokenizer
