// What vectors added to a record's residual stream do to its metric.
//
// The run is entered behind the layer, at the first token that changes: earlier tokens and layers stay as they are, so
// a vector costs the layers above it, for the tokens from there on. On devices of invariant results that is, bit for
// bit, a whole run under the edit `add` at layer.N.resid_out; of the last layer the head is read by the lens.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/forward.h"
#include "engine/kept_streams.h"
#include "engine/lens.h"
#include "engine/session.h"
#include "eval/causal/metric.h"

namespace signalbox::eval {

class Steering {
 public:
  // `positions`: ascending, where vectors are added. Of one step, at most: `step_tokens`, but for a vector alone, and
  // `step_cells` vectors.
  Steering(const engine::Session& session, const engine::Job& job, const MetricRows& rows,
           const MetricRows& divergence_rows, std::vector<int64_t> positions, int64_t step_tokens, int64_t step_cells);
  Steering(const Steering&) = delete;

  double base() const { return base_; }
  // The stream behind `layer` at the p-th position, [d_model].
  std::span<const float> stream(int64_t layer, size_t p) const;

  // vectors [n, d_model], each added times scales [n, positions]: the metric minus base(), and, where `divergence` is
  // not null, the KL of the unedited run and this one over divergence_rows.
  std::vector<double> effects(int64_t layer, std::span<const float> vectors, std::span<const float> scales,
                              std::vector<double>* divergence = nullptr);

 private:
  kernels::Tensor scratch(std::shared_ptr<void>& memory, int64_t rows, int64_t cols) const;
  void run_step(int64_t layer, std::span<const float> vectors, std::span<const float> scales, std::vector<double>& out,
                std::vector<double>* divergence);
  void run_head(std::span<const float> vectors, std::span<const float> scales, std::vector<double>& out,
                std::vector<double>* divergence);
  void measure(kernels::Tensor logits, int64_t count, std::vector<double>& out, std::vector<double>* divergence);

  const engine::Session& session_;
  kernels::Backend& backend_;
  const engine::Job& job_;
  const MetricRows &rows_, &divergence_rows_;
  std::vector<int64_t> positions_;
  int64_t n_tokens_, n_logits_, cells_;
  engine::KvPool pool_;
  engine::SequenceCache sequence_;
  engine::Forward whole_;
  engine::KeptStreams streams_;
  engine::Forward steered_;
  engine::Lens lens_;
  double base_ = 0;
  std::shared_ptr<void> logits_memory_;
  kernels::Tensor logits_;     // [n_logits, n_vocab] of the unedited run
  std::vector<float> behind_;  // [n_layers, positions, d_model]
  std::vector<float> last_;    // [n_tokens, d_model] behind the last layer
};

}  // namespace signalbox::eval
