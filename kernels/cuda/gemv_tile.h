// What the kernels of gemv.cu and gemv_experts.cu share: sixteen rows of weights times up to eight rows of x, by a
// block whose warps take turns along k.
//
// The sixteen rows are the 16x16 operand of the matrix instruction, and the rows of x its eight columns. It sums over k
// in any order, as long as both operands agree: so a lane loads sixteen consecutive bytes of a row, and these are, as
// they stand, what it holds of two fragments. With group = lane / 4 and quad = lane % 4, a lane loads rows group
// ("low") and group + 8 ("high") of the weights and row group of x, at the eight elements behind those of quad - 1. It
// ends up with the outputs of rows group (sums[0], sums[1]) and group + 8 (sums[2], sums[3]) for columns 2 quad and
// 2 quad + 1. Rows of weights and columns that do not exist are given the address of one that does, and their sums are
// dropped.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/mxfp4.h"

namespace signalbox::kernels::DEVICE_SPACE {

constexpr int gemv_rows = 16;      // of weights, a block
constexpr int gemv_columns = 8;    // rows of x, a block
constexpr int gemv_group_k = 128;  // elements of k that a warp takes in one turn
constexpr int gemv_max_warps = 16;
// For __launch_bounds__: more threads than a block has, so that three blocks of 256 find registers.
constexpr int gemv_bounds = 768;
// And the blocks that are enough: any number, given, keeps ptxas from saving registers at the price of loads in flight.
// Not for four-bit weights, whose unpacking would then spill.
constexpr int gemv_blocks = 1;

// Warps that share the sum of n_k elements: at least two turns for each, and twice as many for matrices of few rows,
// whose blocks may not fill the GPU. row_blocks: blocks of the matrices and not of the
// launch, which has as many again for each pair of a token and an expert. Sums are split by this number, so it never
// depends on who else is in the batch; an expert's matrix of few rows gets large blocks for that, also where several
// pairs would have filled the GPU.
inline int gemv_warps(int64_t n_k, int64_t row_blocks, bool four_bits) {
  const int64_t turns = ceil_div(n_k, gemv_group_k) / (four_bits ? 2 : 1);
  const int most = row_blocks <= 256 ? gemv_max_warps : gemv_max_warps / 2;
  int n = 2;
  while (n < most && n * 2 * (n < 8 ? 1 : 2) <= turns) n *= 2;
  return n;
}

// x may be read sixteen bytes at a time.
inline bool gemv_aligned(const void* x, int64_t stride) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride % 8 == 0;
}

constexpr size_t gemv_shared_bytes(int n_warps) {
  return shared_bytes_of<float4>(static_cast<size_t>(n_warps) * warp_size);
}

// Where a lane's rows of weights and its row of x begin.
struct WideRows {
  const bf16 *low, *high;
};
struct PackedRows {
  const uint32_t *low, *high;  // mxfp4.h
  const uint8_t *low_scales, *high_scales;
};

// Eight elements of x from k on, zeros from n_k on. aligned: sixteen bytes may be read at once.
__device__ inline uint4 load_operand(const bf16* x, int k, int n_k, bool aligned) {
  if (aligned && k + 8 <= n_k) return *reinterpret_cast<const uint4*>(x + k);
  uint32_t pairs[4] = {0, 0, 0, 0};
  for (int i = 0; i < 8; ++i) {
    if (k + i < n_k) pairs[i / 2] |= uint32_t{x[k + i].bits} << i % 2 * 16;
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

__device__ inline void multiply_octet(float (&sums)[4], uint4 low, uint4 high, uint4 x) {
  mma(sums, {low.x, high.x, low.y, high.y}, {x.x, x.y});
  mma(sums, {low.z, high.z, low.w, high.w}, {x.z, x.w});
}

// One turn. whole: all of it lies within n_k and x is aligned. The eight loads of weights stand before the first
// product so that all are in flight together. As ptxas of CUDA 13.0 lays it out for sm_90a, they do in all kernels but
// gemv_experts_hidden, where it is six; without gemv_blocks it is six and four.
template <bool whole>
__device__ inline void multiply_turn(float (&sums)[4], const WideRows& rows, const bf16* x, int first, int n_k,
                                     bool aligned) {
  const int quad = static_cast<int>(threadIdx.x) % 4;
  uint4 low[4], high[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int k = first + i * 32 + quad * 8;
    low[i] = high[i] = make_uint4(0, 0, 0, 0);
    if (whole || k < n_k) {
      low[i] = load_streaming(rows.low + k);
      high[i] = load_streaming(rows.high + k);
    }
  }
  if constexpr (whole) {
    uint4 operand[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) operand[i] = *reinterpret_cast<const uint4*>(x + first + i * 32 + quad * 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_octet(sums, low[i], high[i], operand[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      multiply_octet(sums, low[i], high[i], load_operand(x, first + i * 32 + quad * 8, n_k, aligned));
    }
  }
}

// This warp's share of the sums. Weights are readable, and zero, from n_k to the next multiple of eight.
__device__ inline void multiply_rows(float (&sums)[4], const WideRows& rows, const bf16* x, int n_k, bool aligned) {
  const int part = static_cast<int>(threadIdx.x) / warp_size;
  const int step = static_cast<int>(blockDim.x) / warp_size * gemv_group_k;
  int first = part * gemv_group_k;
  if (aligned) {
    for (; first + gemv_group_k <= n_k; first += step) multiply_turn<true>(sums, rows, x, first, n_k, aligned);
  }
  for (; first < n_k; first += step) multiply_turn<false>(sums, rows, x, first, n_k, aligned);
}

// Two turns, `step` apart: a lane's sixteen bytes are a block of 32 elements, so that a turn is one load of each row.
// Meant to have four loads in flight; ptxas of CUDA 13.0 starts the second turn's within the products of the first.
template <bool whole>
__device__ inline void multiply_turns(float (&sums)[4], const PackedRows& rows, const bf16* x, int first, int step,
                                      int n_k, bool aligned) {
  constexpr int n_turns = 2;
  const int quad = static_cast<int>(threadIdx.x) % 4;
  uint4 low[n_turns], high[n_turns];
  uint8_t low_scale[n_turns], high_scale[n_turns];
#pragma unroll
  for (int i = 0; i < n_turns; ++i) {
    const int k = first + i * step + quad * 32;
    low[i] = high[i] = make_uint4(0, 0, 0, 0);
    low_scale[i] = high_scale[i] = 0;
    if (whole || k < n_k) {
      low[i] = load_streaming(rows.low + k / 8);
      high[i] = load_streaming(rows.high + k / 8);
      low_scale[i] = rows.low_scales[k / 32];
      high_scale[i] = rows.high_scales[k / 32];
    }
  }
#pragma unroll
  for (int i = 0; i < n_turns; ++i) {
    if (!whole && first + i * step >= n_k) break;  // the same for the whole warp
    const int k = first + i * step + quad * 32;
    const uint32_t low_words[4] = {low[i].x, low[i].y, low[i].z, low[i].w};
    const uint32_t high_words[4] = {high[i].x, high[i].y, high[i].z, high[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 operand =
          whole ? *reinterpret_cast<const uint4*>(x + k + j * 8) : load_operand(x, k + j * 8, n_k, aligned);
      uint32_t a[4], b[4];
      unpack_mxfp4(low_words[j], low_scale[i], a);
      unpack_mxfp4(high_words[j], high_scale[i], b);
      multiply_octet(sums, make_uint4(a[0], a[1], a[2], a[3]), make_uint4(b[0], b[1], b[2], b[3]), operand);
    }
  }
}

// Weights are readable, and zero, from n_k to the next multiple of 32.
__device__ inline void multiply_rows(float (&sums)[4], const PackedRows& rows, const bf16* x, int n_k, bool aligned) {
  const int part = static_cast<int>(threadIdx.x) / warp_size;
  const int step = static_cast<int>(blockDim.x) / warp_size * gemv_group_k;
  int first = part * gemv_group_k;
  if (aligned) {
    for (; first + step + gemv_group_k <= n_k; first += 2 * step)
      multiply_turns<true>(sums, rows, x, first, step, n_k, aligned);
  }
  for (; first < n_k; first += 2 * step) multiply_turns<false>(sums, rows, x, first, step, n_k, aligned);
}

// Adds the sums of all warps, in their order. True in the first warp, which then has them.
__device__ inline bool gather_sums(float (&sums)[4]) {
  SharedMemory shared;
  float4* parts = shared.take<float4>(blockDim.x);
  parts[threadIdx.x] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  __syncthreads();
  if (threadIdx.x >= warp_size) return false;
  for (unsigned i = threadIdx.x + warp_size; i < blockDim.x; i += warp_size) {
    const float4 part = parts[i];
    sums[0] += part.x;
    sums[1] += part.y;
    sums[2] += part.z;
    sums[3] += part.w;
  }
  return true;
}

}  // namespace signalbox::kernels::DEVICE_SPACE
