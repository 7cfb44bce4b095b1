// Choosing the next token from logits.
#pragma once
#include <cstdint>
#include <span>

namespace signalbox {

struct Sampling {
  float temperature = 0;  // 0: the largest logit, ties to the lowest id
  float top_p = 1;        // keep the fewest most probable tokens whose probabilities sum to at least top_p
  int32_t top_k = 0;      // keep the top_k most probable tokens; 0 = all
  uint64_t seed = 0;
};

// What a draw is keyed by, so that order, batching and resuming do not matter.
struct DrawKey {
  uint64_t record_hash = 0;
  uint32_t sample = 0;
  int64_t position = 0;  // of the token being chosen
};

// The id of the next token. logits [n_vocab]. Filters apply in the order temperature, top_k, top_p.
// Throws Error when a logit is NaN or all are -inf.
int32_t sample_token(std::span<const float> logits, const Sampling& sampling, const DrawKey& key);

// log(sum(exp(logits))) in double.
double log_sum_exp(std::span<const float> logits);

}  // namespace signalbox
