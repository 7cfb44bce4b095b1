#include "engine/lens.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "base/half.h"

namespace signalbox::engine {

namespace {

constexpr int64_t rows_at_once = 1024;  // of W_U, while its mean is made

}  // namespace

Lens::Lens(Backend& backend, const Model& model, const Weights& weights)
    : backend_(backend), model_(model), weights_(weights), gamma_(static_cast<size_t>(model.d_model)) {
  std::vector<float> gamma(gamma_.size());
  backend_.download(gamma.data(), weights_.final_norm.data, gamma.size() * sizeof(float));
  std::copy(gamma.begin(), gamma.end(), gamma_.begin());
}

std::vector<double> Lens::divisors(std::span<const float> stream) const {
  const size_t d = gamma_.size();
  std::vector<double> out(stream.size() / d);
  for (size_t r = 0; r < out.size(); ++r) {
    double squares = 0;
    for (const float x : stream.subspan(r * d, d)) squares += static_cast<double>(x) * x;
    out[r] = std::sqrt(squares / static_cast<double>(d) + static_cast<double>(model_.norm_eps));
  }
  return out;
}

void Lens::logits(std::span<const float> parts, std::span<const double> divisors, std::span<float> out) {
  const size_t d = gamma_.size(), n = divisors.size(), n_vocab = static_cast<size_t>(model_.n_vocab);
  if (parts.size() != n * d || out.size() != n * n_vocab)
    throw Error("lens", "expected parts of " + std::to_string(d) + " values and logits of " + std::to_string(n_vocab) +
                            " for each of " + std::to_string(n) + " divisors, found " + std::to_string(parts.size()) +
                            " and " + std::to_string(out.size()) + " values");
  if (n == 0) return;
  rows_.resize(parts.size());
  for (size_t r = 0; r < n; ++r)
    for (size_t c = 0; c < d; ++c) rows_[r * d + c] = static_cast<float>(gamma_[c] * parts[r * d + c] / divisors[r]);
  const DType dtype = backend_.operand_dtype();
  const size_t bytes = parts.size() * dtype_size(dtype);
  const auto read = backend_.allocate(bytes), made = backend_.allocate(out.size() * sizeof(float));
  if (dtype == DType::f32) {
    backend_.upload(read.get(), rows_.data(), bytes);
  } else {
    halves_.resize(rows_.size());
    std::transform(rows_.begin(), rows_.end(), halves_.begin(), bf16_of_float);
    backend_.upload(read.get(), halves_.data(), bytes);
  }
  const auto rows = static_cast<int64_t>(n);
  const Tensor x(static_cast<float*>(read.get()), rows, model_.d_model, model_.d_model, dtype);
  backend_.matmul(Tensor(static_cast<float*>(made.get()), rows, model_.n_vocab), x, weights_.lm_head, {});
  backend_.download(out.data(), made.get(), out.size() * sizeof(float));
}

void Lens::readers(std::span<const int32_t> tokens, std::span<double> out) {
  if (mean_.empty()) find_mean();
  read_rows(tokens);
  const size_t d = gamma_.size();
  for (size_t i = 0; i < tokens.size(); ++i)
    for (size_t c = 0; c < d; ++c) out[i * d + c] = gamma_[c] * (static_cast<double>(rows_[i * d + c]) - mean_[c]);
}

void Lens::read_rows(std::span<const int32_t> tokens) {
  rows_.resize(tokens.size() * gamma_.size());
  if (tokens.empty()) return;
  const auto ids = backend_.allocate(tokens.size_bytes()), rows = backend_.allocate(rows_.size() * sizeof(float));
  backend_.upload(ids.get(), tokens.data(), tokens.size_bytes());
  const Tensor read(static_cast<float*>(rows.get()), static_cast<int64_t>(tokens.size()), model_.d_model);
  backend_.embed(read, weights_.lm_head, static_cast<const int32_t*>(ids.get()));
  backend_.download(rows_.data(), rows.get(), rows_.size() * sizeof(float));
}

void Lens::find_mean() {
  const size_t d = gamma_.size();
  std::vector<double> sum(d, 0);
  std::vector<int32_t> tokens;
  for (int64_t first = 0; first < model_.n_vocab; first += rows_at_once) {
    tokens.resize(static_cast<size_t>(std::min(rows_at_once, model_.n_vocab - first)));
    std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(first));
    read_rows(tokens);
    for (size_t i = 0; i < tokens.size(); ++i)
      for (size_t c = 0; c < d; ++c) sum[c] += rows_[i * d + c];
  }
  for (double& value : sum) value /= static_cast<double>(model_.n_vocab);
  mean_ = std::move(sum);
}

}  // namespace signalbox::engine
