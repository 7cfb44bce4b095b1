// What is kept of a row of logits: its largest, or those of certain tokens, with their places among all.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

struct TokenReading {
  int32_t token = 0;
  int32_t rank = 0;  // 1 = the largest of the vocabulary; of equals the lower token is first
  double logit = 0;
  double logprob = 0;  // NaN where it was not asked for
};

// Thread-safe.
class TokenReader {
 public:
  // The `top` largest where no tokens are given, else those tokens, in their order. Throws UsageError naming the flag:
  // more than there are, a token that the vocabulary does not have or that is named twice.
  TokenReader(int64_t top, std::vector<int32_t> tokens, int64_t n_vocab);

  int64_t n_read() const { return tokens_.empty() ? top_ : static_cast<int64_t>(tokens_.size()); }
  const std::vector<int32_t>& tokens() const { return tokens_; }

  // logits [n_vocab] into out [n_read()]. logprob is logit - log sum exp, in double. False, with nothing read, for a
  // row that is not finite.
  bool read(std::span<const float> logits, bool with_logprob, std::span<TokenReading> out) const;

 private:
  void read_top(std::span<const float> logits, std::span<TokenReading> out) const;
  void read_tokens(std::span<const float> logits, std::span<TokenReading> out) const;

  int64_t top_;
  std::vector<int32_t> tokens_;
};

}  // namespace signalbox::eval
