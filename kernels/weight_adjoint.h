// What a backward pass asks of a device for dM/d weights and attention patterns, beside the adjoints of activations
// (kernels/adjoint.h). A device that has these is a WeightAdjointOps; others are refused by name.
//
// All tensors are f32. Sums over tokens are added to what stands in the output, sequence by sequence; within a sequence
// 16 partial sums, of the positions p with equal p mod 16 in ascending order, are added up in pairs. So bits depend on
// the sequences and their order alone: not on threads, nor on how many sequences share a batch.
#pragma once
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/namespaces.h"
#include "kernels/backend.h"

namespace signalbox::kernels {

// The rows that a sum over tokens takes, in order: row i lies at `out_rows[i]` of d_out and `x_rows[i]` of x (empty:
// i), and belongs to a sequence of the batch, ascending, and a position in it.
struct SummedRows {
  std::span<const int32_t> sequences, positions;
  std::span<const int32_t> out_rows = {}, x_rows = {};
  int64_t n() const { return static_cast<int64_t>(sequences.size()); }
};

class WeightAdjointOps {
 public:
  virtual ~WeightAdjointOps() = default;

  // matmul:       d_w[n, k] += sum over rows of d_out[row, n] x[row, k]. Of a bias: d_w [1, n] with a column of ones
  //               [rows, 1] for d_out, and d_out for x.
  virtual void outer_sum(Tensor d_w, Tensor d_out, Tensor x, const SummedRows& rows) = 0;

  // embed:        d_table[ids[row]] += d_out[row], in the order of rows.
  virtual void scatter_sum(Tensor d_table, Tensor d_out, std::span<const int32_t> ids) = 0;

  // rmsnorm:      out = d_out x / r with r^2 = mean(x^2) + eps, row by row: its sum over rows is that of the weight.
  virtual void norm_slopes(Tensor out, Tensor d_out, Tensor x, float eps) = 0;

  // gated_hidden: what the two products gave: d_gate, d_up [n_tokens, d_ff] from d_hidden and x.
  virtual void gated_slopes(Tensor d_gate, Tensor d_up, Tensor d_hidden, Tensor x, const Matrix& gate, const Matrix& up,
                            const Activation& activation) = 0;

  // experts_hidden: the same, [n_tokens * n_slots, d_ff]; 0 for slots with id -1.
  virtual void experts_slopes(Tensor d_gate, Tensor d_up, Tensor d_hidden, Tensor x, const Route& route,
                              int64_t n_tokens, const ExpertMatrices& experts, const Activation& activation) = 0;

  // attention:    d_sinks [n_tokens, n_heads] = -p(sink) sum_j p_j d_out . v_j: its sum over tokens is that of the
  //               sinks.
  virtual void sink_slopes(Tensor d_sinks, Tensor d_out, Tensor q, const KvCache& cache, const BatchView& batch,
                           const AttentionParams& params) = 0;

  // attention:    d_pattern [n_tokens, n_heads * n_keys] = d_out . v_j of every share p_j; 0 for keys that a token does
  //               not see. n_keys: the largest of the batch's positions plus one.
  virtual void pattern_slopes(Tensor d_pattern, Tensor d_out, const KvCache& cache, const BatchView& batch,
                              const AttentionParams& params) = 0;
};

// Throws Error where the device has none.
inline WeightAdjointOps& weight_adjoints(Backend& backend) {
  if (auto* ops = dynamic_cast<WeightAdjointOps*>(&backend)) return *ops;
  throw Error("gradient",
              "expected a device with adjoints of weights and patterns (--device cpu), found " + backend.name());
}

}  // namespace signalbox::kernels
