// Sums over a row of logits in double: log-probabilities and divergences on the host.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "base/namespaces.h"

namespace signalbox::kernels {

// log(sum(exp(logits))), natural log.
inline double log_sum_exp(std::span<const float> logits) {
  float top = -INFINITY;
  for (const float z : logits) top = std::max(top, z);
  double sum = 0;
  for (const float z : logits) sum += std::exp(static_cast<double>(z) - static_cast<double>(top));
  return static_cast<double>(top) + std::log(sum);
}

// KL(p || q) = sum p (log p - log q) in nats, where p and q are the softmax of two rows of one length. A token with
// p = 0 adds nothing; one with q = 0 and p > 0 makes it infinite. Exactly 0 for equal rows, never below 0, finite for
// finite logits; NaN where a row has a NaN, its largest is infinite or all are -inf.
inline double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const double log_p = log_sum_exp(p_logits), log_q = log_sum_exp(q_logits);
  if (std::isnan(log_p) || std::isnan(log_q)) return NAN;
  double sum = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double lp = static_cast<double>(p_logits[i]) - log_p, p = std::exp(lp);
    if (p > 0) sum += p * (lp - (static_cast<double>(q_logits[i]) - log_q));
  }
  return std::max(sum, 0.0);  // rounding may leave less than nothing
}

// The index of the largest, ties to the lowest; -1 where one is NaN, the largest is infinite or there is none.
inline int32_t most_probable(std::span<const float> logits) {
  int64_t best = -1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) return -1;
    if (best < 0 || logits[i] > logits[static_cast<size_t>(best)]) best = static_cast<int64_t>(i);
  }
  if (best < 0 || std::isinf(logits[static_cast<size_t>(best)])) return -1;
  return static_cast<int32_t>(best);
}

}  // namespace signalbox::kernels
