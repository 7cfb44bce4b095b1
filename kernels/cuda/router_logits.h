// The router's matrix product, logits = x router^T + bias, for few tokens and for many.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

struct LogitsArgs {
  float* logits;  // [n_tokens, logits_stride]
  int64_t logits_stride;
  const bf16* x;  // [n_tokens, x_stride]
  int64_t x_stride;
  const float* w;  // [n_experts, w_stride]
  int64_t w_stride;
  const float* bias;  // [n_experts] or null
  int64_t n_tokens;
  int n_experts, d_model;
  bool aligned;  // rows of x and w begin at multiples of 16 bytes
};

// ---- few tokens: a block takes a few experts and tokens, its four warps the columns

constexpr int few_warps = 4, few_threads = few_warps * warp_size;
constexpr int lane_columns = 8, warp_columns = lane_columns * warp_size;

// Sums each of v over the lanes: lane i * 32 / n gets that of v[i]. Every sum adds lanes at distances 16, 8, 4, 2, 1,
// whatever n: the bits do not depend on how many sums are made at once.
template <int n, int distance = warp_size / 2>
__device__ inline float sum_lanes(float* v, int lane) {
  if constexpr (distance == 0) {
    return v[0];
  } else if constexpr (n == 1) {
    v[0] += __shfl_xor_sync(all_lanes, v[0], distance);
    return sum_lanes<1, distance / 2>(v, lane);
  } else {
    const bool upper = lane & distance;  // keeps the upper half of the sums
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      const float mine = upper ? v[i + n / 2] : v[i], other = upper ? v[i] : v[i + n / 2];
      v[i] = mine + __shfl_xor_sync(all_lanes, other, distance);
    }
    return sum_lanes<n / 2, distance / 2>(v, lane);
  }
}

__device__ inline void unpack(float (&to)[lane_columns], uint4 packed) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = low_float(words[i]);
    to[2 * i + 1] = high_float(words[i]);
  }
}

// Logits of n_rows experts from first_expert on and of n_columns tokens from first_token on. sums
// [few_warps, n_rows * n_columns] is shared. The order of a sum depends on d_model alone: chunk c of 256 columns
// belongs to warp c % 4, eight of its columns to each lane.
template <int n_rows, int n_columns>
__device__ inline void few_logits(const LogitsArgs& a, float* sums, int first_expert, int64_t first_token) {
  const int lane = lane_index(), warp = static_cast<int>(threadIdx.x) / warp_size;
  const int n_tokens = static_cast<int>(min(static_cast<int64_t>(n_columns), a.n_tokens - first_token));
  const int n_experts = min(n_rows, a.n_experts - first_expert);
  float acc[n_rows * n_columns] = {};
  const bf16* x = a.x + first_token * a.x_stride;
  const float* w[n_rows];
#pragma unroll
  for (int r = 0; r < n_rows; ++r) w[r] = a.w + (first_expert + min(r, n_experts - 1)) * a.w_stride;

  const int n_chunks = static_cast<int>(ceil_div(a.d_model, warp_columns));
  const int n_whole = a.aligned ? a.d_model / warp_columns : 0;
  int c = warp;
#pragma unroll(n_columns == 1 ? 3 : 1)
  for (; c < n_whole; c += few_warps) {
    const int k = c * warp_columns + lane * lane_columns;
    float wv[n_rows][lane_columns];
#pragma unroll
    for (int r = 0; r < n_rows; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 four = load_streaming(w[r] + k + half * 4);
        wv[r][half * 4] = __uint_as_float(four.x);
        wv[r][half * 4 + 1] = __uint_as_float(four.y);
        wv[r][half * 4 + 2] = __uint_as_float(four.z);
        wv[r][half * 4 + 3] = __uint_as_float(four.w);
      }
    }
    // All loads before the first use. Tokens that do not exist read the last one; their sums are dropped.
    uint4 packed[n_columns];
#pragma unroll
    for (int t = 0; t < n_columns; ++t)
      packed[t] = *reinterpret_cast<const uint4*>(x + min(t, n_tokens - 1) * a.x_stride + k);
#pragma unroll
    for (int t = 0; t < n_columns; ++t) {
      float xv[lane_columns];
      unpack(xv, packed[t]);
#pragma unroll
      for (int r = 0; r < n_rows; ++r) {
#pragma unroll
        for (int i = 0; i < lane_columns; ++i) acc[r * n_columns + t] = fmaf(wv[r][i], xv[i], acc[r * n_columns + t]);
      }
    }
  }
  for (; c < n_chunks; c += few_warps) {  // ragged or unaligned
    const int k = c * warp_columns + lane * lane_columns;
    for (int i = k; i < min(k + lane_columns, a.d_model); ++i) {
#pragma unroll
      for (int t = 0; t < n_columns; ++t) {
        if (t >= n_tokens) continue;
        const float xv = to_float(x[t * a.x_stride + i]);
#pragma unroll
        for (int r = 0; r < n_rows; ++r) acc[r * n_columns + t] = fmaf(w[r][i], xv, acc[r * n_columns + t]);
      }
    }
  }

  constexpr int n_sums = n_rows * n_columns;
  const float sum = sum_lanes<n_sums>(acc, lane);
  if (lane % (warp_size / n_sums) == 0) sums[warp * n_sums + lane / (warp_size / n_sums)] = sum;
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x), r = i / n_columns, t = i % n_columns;
  if (r >= n_experts || t >= n_tokens) return;
  float total = 0;
  for (int part = 0; part < few_warps; ++part) total += sums[part * n_sums + i];
  if (a.bias) total += a.bias[first_expert + r];
  a.logits[(first_token + t) * a.logits_stride + first_expert + r] = total;
}

// ---- many tokens: tiles on tensor cores

constexpr int tile_tokens = 64, tile_experts = 32, tile_columns = 64, tile_threads = 128;
constexpr int tile_pitch = tile_columns + 8;  // elements; rows begin in other banks
constexpr int n_parts = 3;                    // a router weight is the sum of three bf16: 24 bits

// Eight elements of a row of `n` from column k on; zeros behind the end.
__device__ inline uint4 load_eight(const bf16* row, int k, int n, bool aligned) {
  if (aligned && k + 8 <= n) return *reinterpret_cast<const uint4*>(row + k);
  uint32_t words[4] = {};
  for (int i = 0; i < min(8, n - k); ++i) words[i / 2] |= static_cast<uint32_t>(row[k + i].bits) << i % 2 * 16;
  return make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ inline float4 load_four(const float* row, int k, int n, bool aligned) {
  if (aligned && k + 4 <= n) return *reinterpret_cast<const float4*>(row + k);
  return make_float4(k < n ? row[k] : 0.f, k + 1 < n ? row[k + 1] : 0.f, k + 2 < n ? row[k + 2] : 0.f,
                     k + 3 < n ? row[k + 3] : 0.f);
}

// Takes the largest bf16 part out of each of four numbers.
__device__ inline uint2 take_part(float4& v) {
  const uint2 part = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
  v.x -= low_float(part.x);
  v.y -= high_float(part.x);
  v.z -= low_float(part.y);
  v.w -= high_float(part.y);
  return part;
}

// logits of 64 tokens and 32 experts a block; a warp has 16 tokens. Router weights are split into bf16 parts, so that
// products are exact as they would be in f32. Each chunk of 64 columns is summed by itself before it is added: the sums
// inside tensor cores are cut off, not rounded, and short ones lose little.
__global__ void __launch_bounds__(tile_threads) router_tile_logits(LogitsArgs a) {
  SharedMemory shared;
  bf16* xs = shared.take<bf16>(tile_tokens * tile_pitch);
  bf16* ws = shared.take<bf16>(n_parts * tile_experts * tile_pitch);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * tile_tokens;
  const int first_expert = static_cast<int>(blockIdx.y) * tile_experts;
  constexpr int x_loads = tile_tokens * tile_columns / 8 / tile_threads;
  constexpr int w_loads = tile_experts * tile_columns / 4 / tile_threads;
  uint4 next_x[x_loads];
  float4 next_w[w_loads];

  const auto load = [&](int k) {
#pragma unroll
    for (int i = 0; i < x_loads; ++i) {
      const int at = thread + i * tile_threads, row = at / (tile_columns / 8), column = k + at % (tile_columns / 8) * 8;
      next_x[i] = make_uint4(0, 0, 0, 0);
      if (first_token + row < a.n_tokens && column < a.d_model)
        next_x[i] = load_eight(a.x + (first_token + row) * a.x_stride, column, a.d_model, a.aligned);
    }
#pragma unroll
    for (int i = 0; i < w_loads; ++i) {
      const int at = thread + i * tile_threads, row = at / (tile_columns / 4), column = k + at % (tile_columns / 4) * 4;
      next_w[i] = make_float4(0, 0, 0, 0);
      if (first_expert + row < a.n_experts && column < a.d_model)
        next_w[i] = load_four(a.w + (first_expert + row) * a.w_stride, column, a.d_model, a.aligned);
    }
  };
  const auto store = [&] {
#pragma unroll
    for (int i = 0; i < x_loads; ++i) {
      const int at = thread + i * tile_threads, row = at / (tile_columns / 8), column = at % (tile_columns / 8) * 8;
      *reinterpret_cast<uint4*>(xs + row * tile_pitch + column) = next_x[i];
    }
#pragma unroll
    for (int i = 0; i < w_loads; ++i) {
      const int at = thread + i * tile_threads, row = at / (tile_columns / 4), column = at % (tile_columns / 4) * 4;
#pragma unroll
      for (int part = 0; part < n_parts; ++part)
        *reinterpret_cast<uint2*>(ws + (part * tile_experts + row) * tile_pitch + column) = take_part(next_w[i]);
    }
  };

  float total[tile_experts / 8][4] = {};
  load(0);
  for (int k = 0; k < a.d_model; k += tile_columns) {
    __syncthreads();
    store();
    __syncthreads();
    if (k + tile_columns < a.d_model) load(k + tile_columns);
    float chunk[tile_experts / 8][4] = {};
#pragma unroll
    for (int step = 0; step < tile_columns / 16; ++step) {
      uint32_t x[4];
      load_matrices(x, xs + (warp * 16 + lane % 16) * tile_pitch + step * 16 + lane / 16 * 8);
#pragma unroll
      for (int part = n_parts - 1; part >= 0; --part) {
#pragma unroll
        for (int pair = 0; pair < tile_experts / 16; ++pair) {
          uint32_t w[4];
          const int row = part * tile_experts + pair * 16 + lane / 16 * 8 + lane % 8;
          load_matrices(w, ws + row * tile_pitch + step * 16 + lane / 8 % 2 * 8);
          mma(chunk[pair * 2], x, {w[0], w[1]});
          mma(chunk[pair * 2 + 1], x, {w[2], w[3]});
        }
      }
    }
#pragma unroll
    for (int i = 0; i < tile_experts / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) total[i][j] += chunk[i][j];
    }
  }
#pragma unroll
  for (int i = 0; i < tile_experts / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t t = first_token + warp * 16 + lane / 4 + j / 2 * 8;
      const int e = first_expert + i * 8 + lane % 4 * 2 + j % 2;
      if (t < a.n_tokens && e < a.n_experts)
        a.logits[t * a.logits_stride + e] = total[i][j] + (a.bias ? a.bias[e] : 0.f);
    }
  }
}

inline void launch_tile_logits(const LogitsArgs& a, Stream stream) {
  const size_t bytes =
      shared_bytes_of<bf16>(tile_tokens * tile_pitch) + shared_bytes_of<bf16>(n_parts * tile_experts * tile_pitch);
  const dim3 grid(static_cast<unsigned>(ceil_div(a.n_tokens, tile_tokens)),
                  static_cast<unsigned>(ceil_div(a.n_experts, tile_experts)));
  launch("router_tile_logits", router_tile_logits, grid, dim3(tile_threads), bytes, stream, a);
}

}  // namespace

}  // namespace signalbox::kernels::DEVICE_SPACE
