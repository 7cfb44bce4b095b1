#include "engine/stream_readers.h"

#include <algorithm>

#include "base/error.h"

namespace signalbox::engine {

namespace {

Matrix moved(const Matrix& matrix, int64_t elements) {
  Matrix part = matrix;
  part.data = static_cast<const uint8_t*>(matrix.data) + element_bytes(matrix.dtype, elements);
  return part;
}

}  // namespace

Matrix matrix_rows(const Matrix& matrix, int64_t first, int64_t count) {
  Matrix part = moved(matrix, first * matrix.row_stride);
  if (part.scales) part.scales += first * matrix.scale_stride * scale_bytes(matrix.dtype);
  part.rows = count;
  return part;
}

Matrix matrix_columns(const Matrix& matrix, int64_t first, int64_t count) {
  if (in_blocks(matrix.dtype) && (first % 32 != 0 || count % 32 != 0))
    throw Error("weights", "expected columns in whole blocks of 32, found " + std::to_string(first) + " to " +
                               std::to_string(first + count));
  Matrix part = moved(matrix, first);
  if (part.scales) part.scales += first / weight_block * scale_bytes(matrix.dtype);
  part.cols = count;
  return part;
}

Tensor StreamReaders::scratch(int64_t rows, int64_t cols) {
  memory_.push_back(backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float))));
  return Tensor(static_cast<float*>(memory_.back().get()), rows, cols);
}

// d_h becomes the gradient at the stream.
std::span<const float> StreamReaders::through_norm(int64_t l, bool of_ffn, Tensor x, Tensor d_h) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(l)];
  backend_.rmsnorm_adjoint(d_h, d_h, x, of_ffn ? weights.ffn_norm : weights.attn_norm, model_.norm_eps, false);
  host_.resize(static_cast<size_t>(d_h.rows * d_h.cols));
  backend_.download(host_.data(), d_h.data, host_.size() * sizeof(float));
  return host_;
}

void StreamReaders::unit(Reader reader, int64_t l, int32_t unit, bool of_ffn, Tensor x, Tensor d_h) {
  sink_.take(reader, static_cast<int32_t>(l), unit, through_norm(l, of_ffn, x, d_h));
}

void StreamReaders::attention(int64_t l, const Gqa& a, const GqaWeights& weights, Tensor x, Tensor d_q, Tensor d_k,
                              Tensor d_v) {
  const Tensor d_h = scratch(x.rows, x.cols);
  const auto heads = [&](Reader reader, Tensor d, const Matrix& w, int64_t n_heads) {
    if (!sink_.wants(reader, static_cast<int32_t>(l))) return;
    for (int64_t h = 0; h < n_heads; ++h) {
      backend_.matmul_adjoint(d_h, d.columns(h * a.d_head, a.d_head), matrix_rows(w, h * a.d_head, a.d_head), false);
      unit(reader, l, static_cast<int32_t>(h), false, x, d_h);
    }
  };
  heads(Reader::query, d_q, weights.q, a.n_heads);
  heads(Reader::key, d_k, weights.k, a.n_kv_heads);
  heads(Reader::value, d_v, weights.v, a.n_kv_heads);
  memory_.clear();
}

void StreamReaders::attention(int64_t l, const Mla& a, const MlaWeights& weights, Tensor x, Tensor d_q, Tensor d_key,
                              Tensor d_value, Tensor latent_raw, Tensor query_low, const RopeTable& rope,
                              const int32_t* positions) {
  const auto index = static_cast<int32_t>(l);
  const int64_t n = x.rows, d_query = a.d_nope + a.d_rope;
  const Tensor d_h = scratch(n, x.cols);
  if (sink_.wants(Reader::query, index)) {
    const Tensor d_low = a.q_rank > 0 ? scratch(n, a.q_rank) : Tensor();
    for (int64_t h = 0; h < a.n_heads; ++h) {
      const Tensor d = d_q.columns(h * d_query, d_query);
      if (a.q_rank > 0) {
        backend_.matmul_adjoint(d_low, d, matrix_rows(weights.q_b, h * d_query, d_query), false);
        backend_.rmsnorm_adjoint(d_low, d_low, query_low, weights.q_a_norm, a.latent_eps, false);
        backend_.matmul_adjoint(d_h, d_low, weights.q_a, false);
      } else {
        backend_.matmul_adjoint(d_h, d, matrix_rows(weights.q, h * d_query, d_query), false);
      }
      unit(Reader::query, l, static_cast<int32_t>(h), false, x, d_h);
    }
  }
  const Tensor raw = latent_raw.columns(0, a.d_latent);
  if (sink_.wants(Reader::key, index)) {
    const Tensor d = scratch(n, a.d_latent + a.d_rope), latent = d.columns(0, a.d_latent);
    backend_.copy(d.data, d_key.data, static_cast<size_t>(n * d.cols) * sizeof(float));
    backend_.rope_adjoint(d.columns(a.d_latent, a.d_rope), 1, 0, rope, positions);
    backend_.rmsnorm_adjoint(latent, latent, raw, weights.kv_a_norm, a.latent_eps, false);
    backend_.matmul_adjoint(d_h, d, weights.kv_a, false);
    unit(Reader::key, l, 0, false, x, d_h);
  }
  if (sink_.wants(Reader::value, index)) {
    const Tensor latent = scratch(n, a.d_latent);
    backend_.rmsnorm_adjoint(latent, d_value, raw, weights.kv_a_norm, a.latent_eps, false);
    backend_.matmul_adjoint(d_h, latent, matrix_rows(weights.kv_a, 0, a.d_latent), false);
    unit(Reader::value, l, 0, false, x, d_h);
  }
  memory_.clear();
}

void StreamReaders::whole(Reader reader, int64_t l, Tensor x, Tensor d_h) {
  if (!sink_.wants(reader, static_cast<int32_t>(l))) return;
  const Tensor d = scratch(d_h.rows, d_h.cols);
  backend_.copy(d.data, d_h.data, static_cast<size_t>(d.rows * d.cols) * sizeof(float));
  unit(reader, l, 0, true, x, d);
  memory_.clear();
}

void StreamReaders::experts(int64_t l, const Route& route, Tensor x, Tensor read, Tensor d_hidden,
                            const ExpertMatrices& experts) {
  if (!sink_.wants(Reader::expert, static_cast<int32_t>(l))) return;
  const int64_t n = x.rows, n_slots = route.n_slots;
  std::vector<int32_t> all(static_cast<size_t>(n * n_slots)), ids(static_cast<size_t>(n));
  backend_.download(all.data(), route.ids, all.size() * sizeof(int32_t));
  const Tensor d_h = scratch(n, x.cols), of_slot = scratch(n, 1);
  for (int64_t slot = 0; slot < n_slots; ++slot) {
    for (int64_t t = 0; t < n; ++t) ids[static_cast<size_t>(t)] = all[static_cast<size_t>(t * n_slots + slot)];
    Route one;
    one.n_slots = 1;
    one.ids = of_slot.as<int32_t>();
    backend_.upload(one.ids, ids.data(), ids.size() * sizeof(int32_t));
    const Tensor d(d_hidden.row(slot), n, d_hidden.cols, d_hidden.stride * n_slots);
    backend_.experts_hidden_adjoint(d_h, d, read, one, n, experts, model_.activation, false);
    sink_.take_experts(static_cast<int32_t>(l), ids, through_norm(l, true, x, d_h));
  }
  memory_.clear();
}

}  // namespace signalbox::engine
