// The byte-level alphabet: each byte is a printable character, so that any text is a string over 256 characters.
#pragma once
#include <cstdint>
#include <string_view>

#include "base/namespaces.h"

namespace signalbox::loaders::tokenizer {

// The character of a byte, as UTF-8 (one or two bytes).
std::string_view byte_character(unsigned char byte);

// The byte of a character of the alphabet; -1 for any other.
int character_byte(char32_t c);

}  // namespace signalbox::loaders::tokenizer
