// How the next token is chosen from logits.
#pragma once
#include <cstdint>

#include "base/namespaces.h"

namespace signalbox::kernels {

// Temperature, then the top_k largest logits, then the fewest tokens whose probabilities reach top_p. The numbers are
// rounded to f32 where a token is drawn.
struct Sampling {
  double temperature = 0;  // 0: the largest logit, ties to the lowest id
  double top_p = 1;        // keep the fewest most probable tokens whose probabilities sum to at least top_p
  int32_t top_k = 0;       // keep the top_k most probable tokens; 0 = all
  uint64_t seed = 0;
};

// What one token is drawn by (Backend::sample): sample_uniform of kernels/random.h with the seed and this key.
struct SampleParams {
  Sampling sampling;
  uint64_t record_hash = 0;
  uint32_t sample = 0;
  int32_t position = 0;  // of the token being chosen
};

}  // namespace signalbox::kernels
