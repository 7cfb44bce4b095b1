// Kinds of tokens, told from how the vocabulary spells them and from the text around them: what taxonomy.csv counts.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// Classes overlap. Characters are those that a token holds a part of; categories are Unicode's (utf8proc).
enum class TokenClass : uint8_t {
  first,              // a sample's first token
  special,            // <s>, <|...|>, [CLS] and the like (is_special_piece)
  partial,            // holds a part of a character alone, at either end
  space,              // white space alone, without a line break
  newline,            // white space alone, with one
  punctuation,        // punctuation (P), and perhaps white space
  symbol,             // symbols (S) and perhaps punctuation and white space
  digits,             // numbers (N) and perhaps white space
  word_start,         // its first character but white space is a letter that begins a word
  word_continuation,  // its first character is a letter or mark that goes on with a word
  name,               // a part of a capitalised word that does not begin a sentence
  capitals,           // a part of a word of at least two letters, all upper case
  code,               // holds one of {}[]<>=;\|&^~$#@_`, or a part of a word with _ or a capital behind a small letter
  latin,              // its first letter's script, by ranges of code points
  greek,
  cyrillic,
  hebrew,
  arabic,
  devanagari,
  thai,
  han,
  kana,
  hangul,
  other_script,
};
inline constexpr size_t n_token_classes = static_cast<size_t>(TokenClass::other_script) + 1;
const char* token_class_name(TokenClass one);

// Bit i: the token is of class i. unknown_token alone: nothing says how it is spelt.
inline constexpr uint32_t unknown_token = uint32_t{1} << 31;
static_assert(n_token_classes < 31);
constexpr uint32_t class_bit(TokenClass one) { return uint32_t{1} << static_cast<int>(one); }

// <s>, </s>, <bos>, <pad> and other names in use; <|...|> with either bar; [CLS], [INST]: capitals in brackets.
bool is_special_piece(std::string_view piece);

// The text that tokens stand for, from their pieces: with a "\u2581" among them they are SentencePiece's (that is a
// space,
// "<0x0A>" a byte), with "\u0120" or "\u010A" byte-level BPE's (each character a byte), else text as it is.
class TokenSpelling {
 public:
  explicit TokenSpelling(const std::map<int32_t, std::string>& pieces);
  bool empty() const { return bytes_.empty(); }
  // Classes of a whole sample's tokens, in order.
  std::vector<uint32_t> classes(std::span<const int32_t> tokens) const;

 private:
  struct Bytes {
    std::string text;
    bool special = false;
  };
  std::map<int32_t, Bytes> bytes_;
};

}  // namespace signalbox::eval
