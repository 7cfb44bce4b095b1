// Gradients of weights and of adapters: whose they are, where they go.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "engine/weights.h"

namespace signalbox::engine {

// What a tensor is called where nothing of its checkpoint is known: "embed", "layer.3.q", "layer.3.router",
// "layer.3.expert.5.gate", "final_norm", "lm_head".
std::string weight_name(const TensorId& id);

// Whether the metric changes with it to first order: all but selection_bias, which only chooses.
bool has_gradient(Role role);

// A low-rank addition to a matrix, y += scale (x a^T) b^T, that is merged in the model's weights already.
struct Adapter {
  Matrix a, b;  // [rank, in], [out, rank]
  float scale = 1;
};

// What a way back adds up for weights (engine/gradient.h). A sum is zeroed and kept by its owner, memory of the device,
// f32; to one that is wanted every run adds that of its sequences, in order, so that bits depend on the sequences and
// their order, not on how many share a run.
class WeightSlopes {
 public:
  virtual ~WeightSlopes() = default;
  // [rows, cols] of the tensor, vectors [1, n]; absent: not wanted. Of tied embeddings embed and lm_head are asked for
  // apart, and theirs is the sum of both.
  virtual Tensor sum(const TensorId& id) = 0;
  // Of a matrix: its adapter, absent: none; and the sums of the adapter's a [rank, in] and b [out, rank].
  virtual const Adapter* adapter(const TensorId&) { return nullptr; }
  virtual Tensor sum_of_a(const TensorId&) { return {}; }
  virtual Tensor sum_of_b(const TensorId&) { return {}; }
};

}  // namespace signalbox::engine
