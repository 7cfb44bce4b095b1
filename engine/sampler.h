// How the next token is chosen from logits (Backend::sample does it).
#pragma once
#include <cstdint>

namespace signalbox {

struct Sampling {
  float temperature = 0;  // 0: the largest logit, ties to the lowest id
  float top_p = 1;        // keep the fewest most probable tokens whose probabilities sum to at least top_p
  int32_t top_k = 0;      // keep the top_k most probable tokens; 0 = all
  uint64_t seed = 0;
};

}  // namespace signalbox
