// Matrix products of few rows: bound by the memory that the weights lie in. A block computes sixteen outputs for all of
// up to eight tokens, its warps share the sum over k; so every weight is read once, with sixteen-byte loads straight
// into the fragments of the tensor cores.
//
// The order of an output's sum depends on the matrix alone: neither the number of rows nor the other rows change its
// bits.
#pragma once
#include <span>

#include "base/namespaces.h"
#include "kernels/cuda/cuda_backend.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Rows of x that these functions take at most. No rows are no work.
constexpr int64_t gemv_max_tokens = 8;

// All products of one x in one launch.                      outs f32
void gemv(Stream stream, Tensor x, std::span<const Product> products);

void gemv_gated(Stream stream, Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                const Activation& activation);

// Experts: no sorting, no tile map. Any number of pairs (token, slot); up to eight pairs of one expert share one pass
// over its weights.
void gemv_experts_hidden(Stream stream, Tensor hidden, Tensor x, const Route& route, int64_t n_tokens,
                         const ExpertBlock& experts, const Activation& activation, uint64_t* leaks);
void gemv_experts_out(Stream stream, Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                      const ExpertBlock& experts);

void gemv_mla_absorb(Stream stream, Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                     int64_t d_rope, int64_t d_value);
void gemv_mla_expand(Stream stream, Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                     int64_t d_value);

}  // namespace signalbox::kernels::DEVICE_SPACE
