#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

namespace signalbox {

double log_sum_exp(std::span<const float> logits) {
  float top = -INFINITY;
  for (float z : logits) top = std::max(top, z);
  double sum = 0;
  for (float z : logits) sum += std::exp(z - top);
  return top + std::log(sum);
}

}  // namespace signalbox
