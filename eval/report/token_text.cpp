#include "eval/report/token_text.h"

#include <array>
#include <map>
#include <optional>

#include "base/utf8.h"

namespace signalbox::eval {

namespace {

constexpr const char* blank_of_bytes = "\xC4\xA0";       // U+0120
constexpr const char* line_end_of_bytes = "\xC4\x8A";    // U+010A
constexpr const char* blank_of_pieces = "\xE2\x96\x81";  // U+2581
constexpr const char *open = "\xE2\x80\xB9", *close = "\xE2\x80\xBA";

// GPT-2's alphabet: printable Latin-1 for itself, the other bytes in order from U+0100 on.
const std::map<char32_t, char>& bytes_of_letters() {
  static const std::map<char32_t, char> letters = [] {
    std::map<char32_t, char> out;
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      out[printable ? static_cast<char32_t>(byte) : next++] = static_cast<char>(byte);
    }
    return out;
  }();
  return letters;
}

// Nothing where a letter is none of the alphabet: a token that was added to the vocabulary as it is.
std::optional<std::string> raw_bytes(const std::string& piece, Spelling spelling) {
  std::string out;
  if (spelling == Spelling::byte_level) {
    for (size_t at = 0; at < piece.size();) {
      const auto found = bytes_of_letters().find(next_code_point(piece, at));
      if (found == bytes_of_letters().end()) return std::nullopt;
      out += found->second;
    }
    return out;
  }
  if (spelling == Spelling::plain) return std::nullopt;
  if (piece.size() == 6 && piece.starts_with("<0x") && piece[5] == '>' &&
      piece.find_first_not_of("0123456789ABCDEFabcdef", 3) == 5)
    return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
  for (size_t at = 0; at < piece.size();) {
    if (piece.compare(at, 3, blank_of_pieces) == 0) {
      out += ' ';
      at += 3;
    } else {
      out += piece[at++];
    }
  }
  return out;
}

std::string as_digits(std::string_view bytes) {
  constexpr const char* hex = "0123456789abcdef";
  std::string out = open;
  for (const char c : bytes) {
    if (out.size() > 3) out += ' ';
    out += hex[static_cast<uint8_t>(c) >> 4];
    out += hex[static_cast<uint8_t>(c) & 15];
  }
  return out + close;
}

}  // namespace

Spelling spelling_of(const std::vector<std::vector<std::string>>& texts) {
  size_t byte_level = 0, sentencepiece = 0;
  for (const std::vector<std::string>& text : texts)
    for (const std::string& piece : text) {
      byte_level +=
          piece.find(blank_of_bytes) != std::string::npos || piece.find(line_end_of_bytes) != std::string::npos;
      sentencepiece += piece.find(blank_of_pieces) != std::string::npos;
    }
  if (byte_level == 0 && sentencepiece == 0) return Spelling::plain;
  return byte_level >= sentencepiece ? Spelling::byte_level : Spelling::sentencepiece;
}

std::vector<std::string> token_texts_of(const std::vector<std::string>& pieces, Spelling spelling) {
  std::vector<std::string> out;
  std::string waiting;  // bytes of a character that is not whole yet
  for (const std::string& piece : pieces) {
    const std::optional<std::string> bytes = raw_bytes(piece, spelling);
    if (!bytes) {
      out.push_back(piece);
      waiting.clear();
      continue;
    }
    // Bytes that go on with a character first, else these alone.
    std::string shown, rest;
    for (const std::string& all : {waiting + *bytes, *bytes}) {
      std::string text;
      const size_t used = append_lossy(text, all, true);
      if (first_invalid_utf8(std::string_view(all).substr(0, used)) != std::string_view::npos) continue;
      rest = all.substr(used);
      shown = used == 0 ? "" : text;
      break;
    }
    if (!rest.empty()) shown += as_digits(shown.empty() ? *bytes : rest);
    if (shown.empty() && !bytes->empty()) shown = as_digits(*bytes);
    out.push_back(std::move(shown));
    waiting = std::move(rest);
  }
  return out;
}

}  // namespace signalbox::eval
