#include "loaders/tokenizer/byte_level.h"

#include <array>
#include <string>

#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

// Printable bytes of Latin-1 stand for themselves, the other 68 for U+0100 and what follows.
struct Alphabet {
  std::array<std::string, 256> text;
  std::array<int, 0x144> byte;

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const char32_t c = printable ? static_cast<char32_t>(b) : next++;
      append_utf8(text[static_cast<size_t>(b)], c);
      byte[c] = b;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string_view byte_character(unsigned char byte) { return alphabet().text[byte]; }

int character_byte(char32_t c) { return c < alphabet().byte.size() ? alphabet().byte[c] : -1; }

}  // namespace signalbox::loaders::tokenizer
