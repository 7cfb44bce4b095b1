// How a way back adds up what it finds for weights: the sums over tokens of each kind of tensor, for those that are
// wanted (engine/weight_slopes.h).
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/batch.h"
#include "engine/weight_slopes.h"
#include "kernels/weight_adjoint.h"

namespace signalbox::engine {

class WeightSums {
 public:
  // Throws Error where the device has no adjoints of weights.
  WeightSums(Backend& backend, const Batch& batch, WeightSlopes& slopes);

  bool wants(Role role, int64_t layer, int64_t expert = -1);
  bool wants_matrix(Role role, int64_t layer, int64_t expert = -1);  // itself, or an adapter of it

  // Whether anything of the gated products of some expert is.
  bool wants_gated(int64_t layer, int64_t n_experts);

  // out = x w^T: rows are those of the batch; all of them.
  void matrix(Role role, int64_t layer, Tensor d_out, Tensor x);
  void bias(Role role, int64_t layer, Tensor d_out);
  // Rows of the logits that are wanted; x: of these, or of the whole batch.
  void head(Tensor d_logits, Tensor x, bool whole);
  // Tokens' rows of the table.
  void embed(Tensor d_out);
  // Of a norm: d_out of its output and x, its input, [n_tokens * heads, n]; `picked`: of the wanted logits' rows.
  void norm(Role role, int64_t layer, Tensor d_out, Tensor x, float eps, int64_t heads = 1, bool picked = false);
  // Rows first ... of kv_b: for each head those of one part of its product, d_out and x [n_tokens, heads * width].
  void heads(Role role, int64_t layer, Tensor d_out, int64_t d_head_out, int64_t d_part, Tensor x, int64_t d_head_x,
             int64_t n_heads, int64_t first_row, int64_t rows_per_head);
  // Of the experts that run: d_out [n_tokens * n_slots, n], x of the pairs or of the tokens.
  void experts(Role role, int64_t layer, const Route& route, Tensor d_out, Tensor x, bool x_of_tokens);
  void expert_biases(Role role, int64_t layer, const Route& route, Tensor d_out);
  void sinks(int64_t layer, Tensor d_sinks);

  WeightAdjointOps& ops() { return ops_; }
  Tensor tensor(int64_t rows, int64_t cols);  // until the layer is done
  void end_layer() { memory_.clear(); }

 private:
  // Rows of sequences and positions.
  struct Rows {
    std::vector<int32_t> sequences, positions, of_out, of_x;
    SummedRows view() const { return {sequences, positions, of_out, of_x}; }
  };
  void add(const TensorId& id, Tensor d_out, Tensor x, const Rows& rows);
  void add_ones(Tensor sum, Tensor d_out, const Rows& rows);
  Tensor ones(int64_t rows);
  // The pairs of each expert that some token selected.
  std::vector<std::pair<int32_t, Rows>> pairs(const Route& route, bool x_of_tokens) const;

  Backend& backend_;
  const Batch& batch_;
  WeightSlopes& slopes_;
  WeightAdjointOps& ops_;
  Rows all_, picked_;
  std::vector<std::shared_ptr<void>> memory_;
};

}  // namespace signalbox::engine
