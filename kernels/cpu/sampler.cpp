// Choosing the next token from logits, the log-probabilities of given tokens, and how two rows of logits differ.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/logits.h"
#include "kernels/random.h"

namespace signalbox::kernels::cpu {

namespace {

int32_t sample_token(std::span<const float> logits, const SampleParams& params) {
  const auto temperature = static_cast<float>(params.sampling.temperature);
  const auto top_p = static_cast<float>(params.sampling.top_p);
  const int32_t top_k = params.sampling.top_k, best = most_probable(logits);
  if (best < 0 || temperature <= 0 || top_k == 1) return best;

  // Descending, ties to the lowest id: the candidates' order must not depend on the sort.
  auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto before = [&](int32_t a, int32_t b) { return logit(a) != logit(b) ? logit(a) > logit(b) : a < b; };
  size_t kept = order.size();
  if (top_k > 0 && static_cast<size_t>(top_k) < kept) {
    kept = static_cast<size_t>(top_k);
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(), before);
    order.resize(kept);
  } else {
    std::sort(order.begin(), order.end(), before);
  }

  std::vector<double> probability(kept);
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    probability[i] = std::exp((static_cast<double>(logit(order[i])) - static_cast<double>(logit(best))) /
                              static_cast<double>(temperature));
    sum += probability[i];
  }
  if (top_p < 1) {
    const double enough = static_cast<double>(top_p) * sum;
    double mass = 0;
    size_t n = 0;
    while (n < kept && mass < enough) mass += probability[n++];
    kept = std::max<size_t>(n, 1);
    sum = 0;
    for (size_t i = 0; i < kept; ++i) sum += probability[i];
  }
  const double target = sample_uniform(params.sampling.seed, params.record_hash, params.sample, params.position) * sum;
  double mass = 0;
  for (size_t i = 0; i < kept; ++i) {
    mass += probability[i];
    if (target < mass) return order[i];
  }
  return order[kept - 1];
}

std::span<const float> row_of(const Tensor& x, int64_t r) { return {x.row(r), static_cast<size_t>(x.cols)}; }

}  // namespace

void CpuBackend::sample(int32_t* ids, Tensor logits, const SampleParams* params) {
  for_ranges(logits.rows, logits.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) ids[r] = sample_token(row_of(logits, r), params[r]);
  });
}

void CpuBackend::log_probs(double* out, Tensor logits, const int32_t* targets) {
  for_ranges(logits.rows, logits.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      out[r] = targets[r] < 0 ? NAN : static_cast<double>(logits.row(r)[targets[r]]) - log_sum_exp(row_of(logits, r));
  });
}

void CpuBackend::compare_logits(double* divergence, int32_t* same_top, Tensor logits, Tensor reference) {
  for_ranges(logits.rows, 2 * logits.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      divergence[r] = kl_divergence(row_of(reference, r), row_of(logits, r));
      const int32_t top = most_probable(row_of(logits, r));
      same_top[r] = top >= 0 && top == most_probable(row_of(reference, r));
    }
  });
}

}  // namespace signalbox::kernels::cpu
