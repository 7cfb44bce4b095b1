#include "engine/sampler.h"

#include <Random123/philox.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/error.h"

namespace signalbox {

namespace {

int32_t argmax(std::span<const float> logits) {
  int64_t best = -1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]))
      throw Error("logits", "expected finite numbers, found NaN for token " + std::to_string(i));
    if (best < 0 || logits[i] > logits[best]) best = static_cast<int64_t>(i);
  }
  if (best < 0 || std::isinf(logits[best])) throw Error("logits", "expected finite numbers, found none");
  return static_cast<int32_t>(best);
}

// A uniform number in (0, 1) with 53 bits, from Philox 4x32-10 keyed by the seed and the record.
double uniform(uint64_t seed, const DrawKey& key) {
  r123::Philox4x32::ctr_type counter = {{static_cast<uint32_t>(key.position), key.sample,
                                         static_cast<uint32_t>(key.record_hash),
                                         static_cast<uint32_t>(key.record_hash >> 32)}};
  r123::Philox4x32::key_type philox_key = {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
  auto bits = r123::Philox4x32()(counter, philox_key);
  const uint64_t wide = (static_cast<uint64_t>(bits[0]) << 32 | bits[1]) >> 11;
  return (static_cast<double>(wide) + 0.5) * 0x1p-53;
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  float top = -INFINITY;
  for (float z : logits) top = std::max(top, z);
  double sum = 0;
  for (float z : logits) sum += std::exp(z - top);
  return top + std::log(sum);
}

int32_t sample_token(std::span<const float> logits, const Sampling& sampling, const DrawKey& key) {
  const int32_t best = argmax(logits);
  if (sampling.temperature <= 0 || sampling.top_k == 1) return best;

  // Descending, ties to the lowest id: the candidates' order must not depend on the sort.
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto before = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  size_t kept = order.size();
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < kept) {
    kept = sampling.top_k;
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), before);
    order.resize(kept);
  } else {
    std::sort(order.begin(), order.end(), before);
  }

  std::vector<double> probability(kept);
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    probability[i] =
        std::exp((static_cast<double>(logits[order[i]]) - logits[best]) / static_cast<double>(sampling.temperature));
    sum += probability[i];
  }
  if (sampling.top_p < 1) {
    double mass = 0;
    size_t n = 0;
    while (n < kept && mass < sampling.top_p * sum) mass += probability[n++];
    kept = std::max<size_t>(n, 1);
    sum = 0;
    for (size_t i = 0; i < kept; ++i) sum += probability[i];
  }
  const double target = uniform(sampling.seed, key) * sum;
  double mass = 0;
  for (size_t i = 0; i < kept; ++i) {
    mass += probability[i];
    if (target < mass) return order[i];
  }
  return order[kept - 1];
}

}  // namespace signalbox
