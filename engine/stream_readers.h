// The gradient at each reader of the residual stream, apart: how a number changes when the stream changes for that
// reader alone, everything else held.
//
// What reads the stream in a layer: every head's query, every kv head's key and value, the router, every chosen expert,
// the shared expert or the dense block; and behind the last layer the head of the model. Each sees it through a norm,
// which is part of the reader: its divisor answers to the change. The gradients of a layer's readers and what passes by
// them add up to that of the stream before them.
#pragma once
#include <cstdint>
#include <span>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// Latent attention has one key and one value, the two roles of the latent (the rotated key belongs to the first).
enum class Reader : uint8_t { query, key, value, router, expert, shared, dense, logits };

class ReaderSink {
 public:
  virtual ~ReaderSink() = default;
  // Constant over the life of the sink. Layer -1 of `logits`.
  virtual bool wants(Reader reader, int32_t layer) const = 0;
  // d [n_tokens, d_model] of the whole batch. `unit`: the head of a query, the kv head of a key or value, else 0.
  virtual void take(Reader reader, int32_t layer, int32_t unit, std::span<const float> d) = 0;
  // Of one slot of the route: row t is that of expert ids[t], and 0 where that is -1.
  virtual void take_experts(int32_t layer, std::span<const int32_t> ids, std::span<const float> d) = 0;
};

// Takes apart what the way back through one layer (engine/gradient.h) has at hand. `x`: the stream that is read.
class StreamReaders {
 public:
  StreamReaders(Backend& backend, const Model& model, const Weights& weights, ReaderSink& sink)
      : backend_(backend), model_(model), weights_(weights), sink_(sink) {}

  // From dM/d of each projection's result: d_q [n_tokens, n_heads * d_head], d_k and d_v likewise.
  void attention(int64_t l, const Gqa& a, const GqaWeights& weights, Tensor x, Tensor d_q, Tensor d_k, Tensor d_v);
  // d_q [n_tokens, n_heads * (d_nope + d_rope)]; d_key [n_tokens, d_latent + d_rope] of the latent as it is cached,
  // before norm and rotation are gone back, which `rope` and `positions` are for, and d_value [n_tokens, d_latent].
  void attention(int64_t l, const Mla& a, const MlaWeights& weights, Tensor x, Tensor d_q, Tensor d_key, Tensor d_value,
                 Tensor latent_raw, Tensor query_low, const RopeTable& rope, const int32_t* positions);
  // From dM/d of the normed stream as that reader saw it, d_h [n_tokens, d_model]; whole() of the other kinds.
  void whole(Reader reader, int64_t l, Tensor x, Tensor d_h);
  // Slot by slot, from d_hidden [n_tokens * n_slots, d_ff]. `read`: the normed stream.
  void experts(int64_t l, const Route& route, Tensor x, Tensor read, Tensor d_hidden, const ExpertMatrices& experts);

 private:
  Tensor scratch(int64_t rows, int64_t cols);
  std::span<const float> through_norm(int64_t l, bool of_ffn, Tensor x, Tensor d_h);
  void unit(Reader reader, int64_t l, int32_t unit, bool of_ffn, Tensor x, Tensor d_h);

  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  ReaderSink& sink_;
  std::vector<std::shared_ptr<void>> memory_;
  std::vector<float> host_;
};

// Parts of a matrix, in place: rows [first, first + count), or columns (of mxfp4 in whole blocks of 32).
Matrix matrix_rows(const Matrix& matrix, int64_t first, int64_t count);
Matrix matrix_columns(const Matrix& matrix, int64_t first, int64_t count);

}  // namespace signalbox::engine
