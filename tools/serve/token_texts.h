// What single tokens are as text: their bytes, how answers name them, and where they stand in a text.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/namespaces.h"
#include "engine/encode.h"
#include "engine/text.h"

namespace signalbox::tools {

// "bytes:\xe2\x80" of bytes that are no whole characters; else the text itself.
std::string token_name(const std::string& bytes);

// A token's place in a text.
struct PlacedToken {
  std::string text;    // what it adds, or bytes:... of a fragment of a character
  int64_t offset = 0;  // code points before it
  int64_t end = 0;     // code points behind which it is whole
};

// The bytes that tokens stand for. From one thread at a time.
class TokenTexts {
 public:
  explicit TokenTexts(const Tokenizer* tokenizer);

  // As the vocabulary has it, wherever it stands: special tokens by their text, "" of an id without a token.
  const std::string& bytes(int32_t id) const;
  // token_name(); "token_id:7" of one without a text, as of every token of a model without a tokenizer.
  std::string name(int32_t id) const;
  bool is_special(int32_t id) const { return tokenizer_ && tokenizer_->is_special(id); }
  const Tokenizer* tokenizer() const { return tokenizer_; }

 private:
  const Tokenizer* tokenizer_;
  bool byte_level_ = false;
  mutable std::unordered_map<int32_t, std::string> known_;
};

// The tokens of a prompt in its own text.
std::vector<PlacedToken> place_prompt_tokens(const TokenTexts& texts, const EncodedText& prompt);

// Tokens one after the other, in the text that they make.
class TokenPlacer {
 public:
  // `offset`: code points that stand before the first.
  TokenPlacer(const TokenTexts& texts, bool skip_special, int64_t offset);
  PlacedToken push(int32_t id);

 private:
  const TokenTexts& texts_;
  bool skip_special_;
  std::unique_ptr<TokenStream> stream_;  // null: no tokenizer
  int64_t n_points_;                     // of the text so far
  std::string pending_;                  // bytes that make no character yet
};

}  // namespace signalbox::tools
