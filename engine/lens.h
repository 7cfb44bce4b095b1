// The final norm and the head as a reader of the residual stream: what parts of the stream, a layer's output or an
// expert's, give to the logits.
//
// logits = W_U (gamma * x / r) for the stream x, with r = sqrt(mean(x^2) + eps), the divisor of the final norm. With r
// held at that of the whole stream this is linear in x: the stream is the sum of what was written to it (embed, and
// every layer's attn.out and mlp.out, or expert.contribution and shared.out), and the shares W_U (gamma * c / r) of
// these parts c add up to the logits. A share is what a part gives as things stand, not what taking it away would do: r
// would change, and so would all that later layers make of it. An edit that writes to final.normed stands behind the
// shares.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// All arrays are the host's; the head is read where it lies. Not thread-safe.
class Lens {
 public:
  // `weights`: those of the backend's device. All outlive the lens.
  Lens(Backend& backend, const Model& model, const Weights& weights);

  int64_t d_model() const { return model_.d_model; }

  // r of each row of stream [rows, d_model], in double.
  std::vector<double> divisors(std::span<const float> stream) const;

  // out [rows, n_vocab]: the share of each row of parts [rows, d_model] in its token's logits, where divisors[row] is
  // that token's r. The product is the device's own, operands in the dtype in which the forward gives them to the head.
  void logits(std::span<const float> parts, std::span<const double> divisors, std::span<float> out);

  // What the logit of one token reads, centred over the vocabulary: gamma * (W_U[token] - mean over all tokens of W_U).
  // out [tokens, d_model]. The share of a part c in that logit, minus the mean of its shares in all logits, is then
  // dot(c, out[i]) / r.
  void readers(std::span<const int32_t> tokens, std::span<double> out);

 private:
  // Rows of W_U in f32 into rows_.
  void read_rows(std::span<const int32_t> tokens);
  void find_mean();

  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  std::vector<double> gamma_;  // [d_model]
  std::vector<double> mean_;   // [d_model] of W_U over the vocabulary; empty until it is wanted
  std::vector<float> rows_;
  std::vector<uint16_t> halves_;
};

}  // namespace signalbox::engine
