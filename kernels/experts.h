// The routed experts of one layer as an op takes them.
#pragma once
#include <cstdint>
#include <span>

#include "base/namespaces.h"
#include "kernels/tensor.h"

namespace signalbox::kernels {

// The experts of one layer in the layout of a device; made by Backend::pack_experts, read by no one else.
class PackedExperts {
 public:
  virtual ~PackedExperts() = default;
};

// Matrices of the experts of one layer; index = expert. Biases are absent (empty spans) or complete.
struct ExpertMatrices {
  std::span<const Matrix> gate, up;            // [d_ff, d_model]
  std::span<const Matrix> down;                // [d_model, d_ff]
  std::span<const Vector> gate_bias, up_bias;  // [d_ff]
  std::span<const Vector> down_bias;           // [d_model]
  const PackedExperts* packed = nullptr;       // device layout; null on the CPU, which reads the matrices in place
  int64_t n_experts() const { return static_cast<int64_t>(gate.size()); }
};

}  // namespace signalbox::kernels
