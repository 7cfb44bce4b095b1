// Log-probabilities of one row of logits, as scoring has them: log-softmax in double of the f32 logits.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::tools {

// What is impossible (logit -inf) has this log p, as other servers say it.
inline constexpr double impossible = -9999.0;

struct RowLogProbs {
  double chosen = impossible;
  std::vector<std::pair<int32_t, double>> top;  // the n largest, descending, ties to the lowest id
};

// `id` < 0: none was chosen.
RowLogProbs row_log_probs(std::span<const float> logits, int32_t id, int32_t n);

}  // namespace signalbox::tools
