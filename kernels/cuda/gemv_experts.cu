// Routed experts for few tokens. Blocks of y p work for pair (token, slot) p and read its expert from the route. The
// first pair of an expert, and every eighth after it, takes the following ones along, whose blocks have nothing to do:
// so the weights of an expert are read once for eight pairs.
#include "kernels/cuda/activation.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/gemv_tile.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr ExpertBlock::Format wide = ExpertBlock::Format::bf16;

// The pair of this lane's column (group): the group-th pair from `first` on whose expert is that of pair `first`, or
// -1. False: another block has `first` among its columns.
__device__ inline bool find_columns(int& pair, const int32_t* ids, int n_pairs, int first, int32_t expert) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, column = lane / 4;
  int before = 0, found = 0;
  pair = -1;
  for (int base = 0; base < n_pairs && found < gemv_columns; base += warp_size) {
    const bool same = base + lane < n_pairs && ids[base + lane] == expert;
    unsigned same_before = __ballot_sync(all_lanes, same && base + lane < first);
    unsigned same_after = __ballot_sync(all_lanes, same && base + lane >= first);
    before += __popc(same_before);
    const int n = __popc(same_after);
    if (column >= found && column < found + n) {
      for (int i = found; i < column; ++i) same_after &= same_after - 1;
      pair = base + __ffs(static_cast<int>(same_after)) - 1;
    }
    found += n;
  }
  return before % gemv_columns == 0;
}

// Weights of one kind, [n_experts, n_rows, stride].
struct ExpertRows {
  const void* data;
  const uint8_t* scales;
  int64_t n_rows, stride;
};

template <ExpertBlock::Format format>
__device__ inline void multiply_expert(float (&sums)[4], const ExpertRows& rows, int32_t expert, int64_t low,
                                       int64_t high, const bf16* x, int n_k, bool aligned) {
  const int64_t first = expert * rows.n_rows;
  if constexpr (format == wide) {
    const bf16* data = static_cast<const bf16*>(rows.data);
    multiply_rows(sums, WideRows{data + (first + low) * rows.stride, data + (first + high) * rows.stride}, x, n_k,
                  aligned);
  } else {
    const uint32_t* data = static_cast<const uint32_t*>(rows.data);
    const int64_t n_words = rows.stride / 8, n_scales = rows.stride / 32;
    multiply_rows(sums,
                  PackedRows{data + (first + low) * n_words, data + (first + high) * n_words,
                             rows.scales + (first + low) * n_scales, rows.scales + (first + high) * n_scales},
                  x, n_k, aligned);
  }
}

// A block computes eight outputs: sixteen rows of gate_up are eight of gate and the eight of up that go with them.
template <ExpertBlock::Format format>
__global__ void __launch_bounds__(gemv_bounds, format == wide ? gemv_blocks : 0)
    gemv_experts_hidden_kernel(bf16* hidden, int64_t hidden_stride, uint64_t* leaks, const bf16* x, int64_t x_stride,
                               bool aligned, const int32_t* ids, const uint8_t* banned, ExpertRows gate_up,
                               const float* gate_bias, const float* up_bias, Activation activation, int n_slots,
                               int n_pairs, int64_t n_experts, int d_model, int d_ff) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / 4;
  const int first = static_cast<int>(blockIdx.y);
  const int64_t row = int64_t{blockIdx.x} * 8 + group;
  const int32_t expert = ids[first];
  if (expert < 0) {
    const int64_t f = int64_t{blockIdx.x} * 8 + threadIdx.x;
    if (threadIdx.x < 8 && f < d_ff) hidden[first * hidden_stride + f] = bf16{0};
    return;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0 && banned && leaks && banned[first / n_slots * n_experts + expert] != 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(leaks), 1ull);
  int pair;
  if (!find_columns(pair, ids, n_pairs, first, expert)) return;
  float low_bias = 0, high_bias = 0;
  if (gate_bias && row < d_ff) {
    low_bias = gate_bias[int64_t{expert} * d_ff + row];
    high_bias = up_bias[int64_t{expert} * d_ff + row];
  }
  const int64_t low = int64_t{blockIdx.x} * gemv_rows + group;
  float sums[4] = {0, 0, 0, 0};
  multiply_expert<format>(sums, gate_up, expert, low, low + 8, x + (pair < 0 ? first : pair) / n_slots * x_stride,
                          d_model, aligned);
  if (!gather_sums(sums)) return;
  for (int i = 0; i < 2; ++i) {
    const int to = __shfl_sync(all_lanes, pair, (lane % 4 * 2 + i) * 4);
    if (to < 0 || row >= d_ff) continue;
    hidden[to * hidden_stride + row] = to_bf16(activate(activation, sums[i] + low_bias, sums[2 + i] + high_bias));
  }
}

template <ExpertBlock::Format format>
__global__ void __launch_bounds__(gemv_bounds, format == wide ? gemv_blocks : 0)
    gemv_experts_out_kernel(float* out, int64_t out_stride, const bf16* hidden, int64_t hidden_stride, bool aligned,
                            const int32_t* ids, ExpertRows down, const float* bias, int n_pairs, int d_ff) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / 4;
  const int first = static_cast<int>(blockIdx.y);
  const int64_t low = int64_t{blockIdx.x} * gemv_rows + group, high = low + 8, last = down.n_rows - 1;
  const int32_t expert = ids[first];
  if (expert < 0) {
    const int64_t n = int64_t{blockIdx.x} * gemv_rows + threadIdx.x;
    if (threadIdx.x < gemv_rows && n <= last) out[first * out_stride + n] = 0;
    return;
  }
  int pair;
  if (!find_columns(pair, ids, n_pairs, first, expert)) return;
  const float* biases = bias ? bias + expert * down.n_rows : nullptr;
  const float low_bias = biases ? biases[min(low, last)] : 0.f, high_bias = biases ? biases[min(high, last)] : 0.f;
  float sums[4] = {0, 0, 0, 0};
  multiply_expert<format>(sums, down, expert, min(low, last), min(high, last),
                          hidden + (pair < 0 ? first : pair) * hidden_stride, d_ff, aligned);
  if (!gather_sums(sums)) return;
  for (int i = 0; i < 2; ++i) {
    const int to = __shfl_sync(all_lanes, pair, (lane % 4 * 2 + i) * 4);
    if (to < 0) continue;
    if (low <= last) out[to * out_stride + low] = sums[i] + low_bias;
    if (high <= last) out[to * out_stride + high] = sums[2 + i] + high_bias;
  }
}

dim3 block_of(int n_warps) { return dim3(static_cast<unsigned>(n_warps * warp_size)); }

}  // namespace

void gemv_experts_hidden(Stream stream, Tensor hidden, Tensor x, const Route& route, int64_t n_tokens,
                         const ExpertBlock& experts, const Activation& activation, uint64_t* leaks) {
  const int64_t n_blocks = ceil_div(experts.d_ff, 8), n_pairs = n_tokens * route.n_slots;
  const bool four_bits = experts.format != wide;
  const int n_warps = gemv_warps(experts.d_model, n_blocks, four_bits);
  const ExpertRows rows{experts.gate_up, experts.gate_up_scales, experts.gate_up_rows, experts.gate_up_stride};
  launch("gemv_experts_hidden",
         four_bits ? gemv_experts_hidden_kernel<ExpertBlock::Format::mxfp4> : gemv_experts_hidden_kernel<wide>,
         dim3(static_cast<unsigned>(n_blocks), static_cast<unsigned>(n_pairs)), block_of(n_warps),
         gemv_shared_bytes(n_warps), stream, hidden.as<bf16>(), hidden.stride, leaks, x.as<const bf16>(), x.stride,
         gemv_aligned(x.data, x.stride), route.ids, route.banned, rows, experts.gate_bias, experts.up_bias, activation,
         route.n_slots, static_cast<int>(n_pairs), experts.n_experts, static_cast<int>(experts.d_model),
         static_cast<int>(experts.d_ff));
}

void gemv_experts_out(Stream stream, Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                      const ExpertBlock& experts) {
  const int64_t n_blocks = ceil_div(experts.d_model, gemv_rows), n_pairs = n_tokens * route.n_slots;
  const bool four_bits = experts.format != wide;
  const int n_warps = gemv_warps(experts.d_ff, n_blocks, four_bits);
  const ExpertRows rows{experts.down, experts.down_scales, experts.d_model, experts.down_stride};
  launch("gemv_experts_out",
         four_bits ? gemv_experts_out_kernel<ExpertBlock::Format::mxfp4> : gemv_experts_out_kernel<wide>,
         dim3(static_cast<unsigned>(n_blocks), static_cast<unsigned>(n_pairs)), block_of(n_warps),
         gemv_shared_bytes(n_warps), stream, out.data, out.stride, hidden.as<const bf16>(), hidden.stride,
         gemv_aligned(hidden.data, hidden.stride), route.ids, rows, experts.down_bias, static_cast<int>(n_pairs),
         static_cast<int>(experts.d_ff));
}

}  // namespace signalbox::kernels::DEVICE_SPACE
