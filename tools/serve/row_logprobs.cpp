#include "tools/serve/row_logprobs.h"

#include <algorithm>
#include <cmath>

#include "kernels/logits.h"

namespace signalbox::tools {

RowLogProbs row_log_probs(std::span<const float> logits, int32_t id, int32_t n) {
  const double total = log_sum_exp(logits);
  const auto value = [&](int32_t token) {
    const double log_p = static_cast<double>(logits[static_cast<size_t>(token)]) - total;
    return std::isfinite(log_p) ? log_p : impossible;
  };
  RowLogProbs out;
  if (id >= 0) out.chosen = value(id);
  // The n best so far, the worst of them last.
  std::vector<int32_t> best;
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  for (int32_t token = 0; n > 0 && token < static_cast<int32_t>(logits.size()); ++token) {
    if (static_cast<int32_t>(best.size()) == n) {
      if (!before(token, best.back())) continue;
      best.pop_back();
    }
    best.insert(std::upper_bound(best.begin(), best.end(), token, before), token);
  }
  for (const int32_t token : best) out.top.emplace_back(token, value(token));
  return out;
}

}  // namespace signalbox::tools
