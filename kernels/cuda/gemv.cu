// Few rows of x times dense matrices.
#include <algorithm>

#include "kernels/cuda/activation.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/gemv_tile.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr int max_products = 8;

struct ProductTable {
  struct Entry {
    const bf16* w;
    int64_t w_stride;
    const float* bias;  // or null
    float* out;
    int64_t out_stride;
    int n_rows;
    unsigned first_block;
  } entries[max_products];
  int n;
};

// out = x w^T + bias of several matrices; a block computes sixteen outputs of one of them for all tokens.
__global__ void __launch_bounds__(gemv_bounds, gemv_blocks)
    gemv_kernel(ProductTable products, const bf16* x, int64_t x_stride, bool aligned, int n_tokens, int n_k) {
  int product = 0;
#pragma unroll
  for (int i = 1; i < max_products; ++i) product += i < products.n && blockIdx.x >= products.entries[i].first_block;
  const ProductTable::Entry& p = products.entries[product];
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / 4, column = lane % 4 * 2;
  const int low = static_cast<int>(blockIdx.x - p.first_block) * gemv_rows + group, high = low + 8;
  const int last = p.n_rows - 1;
  const float low_bias = p.bias ? p.bias[min(low, last)] : 0.f, high_bias = p.bias ? p.bias[min(high, last)] : 0.f;
  float sums[4] = {0, 0, 0, 0};
  multiply_rows(sums, WideRows{p.w + min(low, last) * p.w_stride, p.w + min(high, last) * p.w_stride},
                x + (group < n_tokens ? group : 0) * x_stride, n_k, aligned);
  if (!gather_sums(sums)) return;
  for (int i = 0; i < 2; ++i) {
    const int t = column + i;
    if (t >= n_tokens) break;
    float* out = p.out + t * p.out_stride;
    if (low <= last) out[low] = sums[i] + low_bias;
    if (high <= last) out[high] = sums[2 + i] + high_bias;
  }
}

struct DenseRows {
  const bf16* data;
  int64_t stride;
};

// hidden = activate(x gate^T) * (x up^T); a block computes eight outputs: its low rows are gate's, its high rows up's.
__global__ void __launch_bounds__(gemv_bounds, gemv_blocks)
    gemv_gated_kernel(bf16* hidden, int64_t hidden_stride, const bf16* x, int64_t x_stride, bool aligned,
                      DenseRows gate, DenseRows up, Activation activation, int n_tokens, int64_t n_rows, int n_k) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / 4, column = lane % 4 * 2;
  const int64_t row = int64_t{blockIdx.x} * 8 + group, safe = min(row, n_rows - 1);
  float sums[4] = {0, 0, 0, 0};
  multiply_rows(sums, WideRows{gate.data + safe * gate.stride, up.data + safe * up.stride},
                x + (group < n_tokens ? group : 0) * x_stride, n_k, aligned);
  if (!gather_sums(sums) || row >= n_rows) return;
  for (int i = 0; i < 2; ++i) {
    const int t = column + i;
    if (t < n_tokens) hidden[t * hidden_stride + row] = to_bf16(activate(activation, sums[i], sums[2 + i]));
  }
}

// out[t, h, v] = sum_c latent[t, h, c] * kv_b[h, d_nope + v, c]; heads in y.
__global__ void __launch_bounds__(gemv_bounds, gemv_blocks)
    gemv_expand_kernel(bf16* out, int64_t out_stride, const bf16* latent, int64_t latent_stride, bool aligned,
                       DenseRows kv_b, int n_tokens, int64_t d_nope, int64_t d_value, int64_t d_latent) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, group = lane / 4, column = lane % 4 * 2;
  const int64_t h = blockIdx.y, low = int64_t{blockIdx.x} * gemv_rows + group, high = low + 8, last = d_value - 1;
  const bf16* values = kv_b.data + (h * (d_nope + d_value) + d_nope) * kv_b.stride;
  float sums[4] = {0, 0, 0, 0};
  multiply_rows(sums, WideRows{values + min(low, last) * kv_b.stride, values + min(high, last) * kv_b.stride},
                latent + (group < n_tokens ? group : 0) * latent_stride + h * d_latent, static_cast<int>(d_latent),
                aligned);
  if (!gather_sums(sums)) return;
  for (int i = 0; i < 2; ++i) {
    const int t = column + i;
    if (t >= n_tokens) break;
    bf16* to = out + t * out_stride + h * d_value;
    if (low <= last) to[low] = to_bf16(sums[i]);
    if (high <= last) to[high] = to_bf16(sums[2 + i]);
  }
}

constexpr int absorb_warps = 8, absorb_columns = 64, absorb_slices = absorb_warps * 4;

// out[t, h, c] = sum_n q[t, h, n] * kv_b[h, n, c], and the rest of q's head copied. A block sums 64 columns of one head
// (y): eight lanes take a row, eight columns each, and the rows n go round the 32 slices that remain of the block.
template <int n_max>
__global__ void __launch_bounds__(absorb_warps* warp_size)
    gemv_absorb_kernel(float* out, int64_t out_stride, const float* q, int64_t q_stride, DenseRows kv_b, int n_tokens,
                       int64_t d_nope, int64_t d_rope, int64_t d_value, int64_t d_latent) {
  SharedMemory shared;
  float* parts = shared.take<float>(absorb_warps * n_max * absorb_columns);  // [warp, token, column]
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int slice = warp * 4 + lane / 8;
  const int64_t h = blockIdx.y, c = int64_t{blockIdx.x} * absorb_columns + lane % 8 * 8;
  const bf16* w = kv_b.data + h * (d_nope + d_value) * kv_b.stride + c;
  q += h * (d_nope + d_rope);
  out += h * (d_latent + d_rope);
  float sums[n_max][8] = {};
  if (c < d_latent) {
    constexpr int n_loads = 4;
    for (int64_t first = slice; first < d_nope; first += n_loads * absorb_slices) {
      uint4 loaded[n_loads];
#pragma unroll
      for (int i = 0; i < n_loads; ++i) {
        const int64_t n = first + i * absorb_slices;
        loaded[i] = n < d_nope ? load_streaming(w + n * kv_b.stride) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < n_loads; ++i) {
        const int64_t n = first + i * absorb_slices;
        if (n >= d_nope) break;
        const uint32_t pairs[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
#pragma unroll
        for (int t = 0; t < n_max; ++t) {
          const float factor = t < n_tokens ? q[t * q_stride + n] : 0.f;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sums[t][2 * j] = fmaf(factor, low_float(pairs[j]), sums[t][2 * j]);
            sums[t][2 * j + 1] = fmaf(factor, high_float(pairs[j]), sums[t][2 * j + 1]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < n_max; ++t) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float sum = sums[t][j];
      sum += __shfl_xor_sync(all_lanes, sum, 8);
      sum += __shfl_xor_sync(all_lanes, sum, 16);
      if (lane < 8) parts[(warp * n_max + t) * absorb_columns + lane * 8 + j] = sum;
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n_tokens * absorb_columns; i += static_cast<int>(blockDim.x)) {
    const int t = i / absorb_columns, column = i % absorb_columns;
    const int64_t to = int64_t{blockIdx.x} * absorb_columns + column;
    float sum = 0;
    for (int j = 0; j < absorb_warps; ++j) sum += parts[(j * n_max + t) * absorb_columns + column];
    if (to < d_latent) out[t * out_stride + to] = sum;
  }
  if (blockIdx.x != 0) return;
  for (int t = 0; t < n_tokens; ++t) {
    for (int64_t i = threadIdx.x; i < d_rope; i += blockDim.x)
      out[t * out_stride + d_latent + i] = q[t * q_stride + d_nope + i];
  }
}

DenseRows rows_of(const Matrix& w) { return {static_cast<const bf16*>(w.data), w.row_stride}; }
dim3 grid_of(int64_t x, int64_t y = 1) { return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)); }
dim3 block_of(int n_warps) { return dim3(static_cast<unsigned>(n_warps * warp_size)); }

}  // namespace

void gemv(Stream stream, Tensor x, std::span<const Product> products) {
  if (x.rows == 0) return;
  for (size_t first = 0; first < products.size(); first += max_products) {
    ProductTable table{};
    int64_t n_blocks = 0;
    for (const Product& p : products.subspan(first, std::min<size_t>(max_products, products.size() - first))) {
      if (p.w->rows == 0) continue;
      table.entries[table.n++] = {static_cast<const bf16*>(p.w->data),
                                  p.w->row_stride,
                                  p.bias.data,
                                  p.out.data,
                                  p.out.stride,
                                  static_cast<int>(p.w->rows),
                                  static_cast<unsigned>(n_blocks)};
      n_blocks += ceil_div(p.w->rows, gemv_rows);
    }
    const int n_warps = gemv_warps(x.cols, n_blocks, false);
    launch("gemv", gemv_kernel, grid_of(n_blocks), block_of(n_warps), gemv_shared_bytes(n_warps), stream, table,
           x.as<const bf16>(), x.stride, gemv_aligned(x.data, x.stride), static_cast<int>(x.rows),
           static_cast<int>(x.cols));
  }
}

void gemv_gated(Stream stream, Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                const Activation& activation) {
  if (x.rows == 0) return;
  const int64_t n_blocks = ceil_div(gate.rows, 8);
  const int n_warps = gemv_warps(x.cols, n_blocks, false);
  launch("gemv_gated", gemv_gated_kernel, grid_of(n_blocks), block_of(n_warps), gemv_shared_bytes(n_warps), stream,
         hidden.as<bf16>(), hidden.stride, x.as<const bf16>(), x.stride, gemv_aligned(x.data, x.stride), rows_of(gate),
         rows_of(up), activation, static_cast<int>(x.rows), gate.rows, static_cast<int>(x.cols));
}

void gemv_mla_expand(Stream stream, Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                     int64_t d_value) {
  if (latent.rows == 0) return;
  const int64_t n_blocks = ceil_div(d_value, gemv_rows);
  const int n_warps = gemv_warps(kv_b.cols, n_blocks * n_heads, false);
  const bool aligned = gemv_aligned(latent.data, latent.stride) && kv_b.cols % 8 == 0;
  launch("gemv_mla_expand", gemv_expand_kernel, grid_of(n_blocks, n_heads), block_of(n_warps),
         gemv_shared_bytes(n_warps), stream, out.as<bf16>(), out.stride, latent.as<const bf16>(), latent.stride,
         aligned, rows_of(kv_b), static_cast<int>(latent.rows), d_nope, d_value, kv_b.cols);
}

void gemv_mla_absorb(Stream stream, Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                     int64_t d_rope, int64_t d_value) {
  if (q.rows == 0) return;
  const dim3 grid = grid_of(ceil_div(kv_b.cols, absorb_columns), n_heads);
  const auto run = [&](auto kernel, size_t n_max) {
    launch("gemv_mla_absorb", kernel, grid, block_of(absorb_warps),
           shared_bytes_of<float>(absorb_warps * absorb_columns * n_max), stream, out.data, out.stride, q.data,
           q.stride, rows_of(kv_b), static_cast<int>(q.rows), d_nope, d_rope, d_value, kv_b.cols);
  };
  if (q.rows == 1) {
    run(gemv_absorb_kernel<1>, 1);
  } else {
    run(gemv_absorb_kernel<gemv_max_tokens>, gemv_max_tokens);
  }
}

}  // namespace signalbox::kernels::DEVICE_SPACE
