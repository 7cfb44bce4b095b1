// Dense matrix products: few rows go to gemv.h, many to cuBLAS where there is one, the others through tiles.
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/operand.h"
#include "kernels/cuda/tile_gemm.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// Rows from which cuBLAS, with the matrix instructions of newer devices, is faster than the tiles.
constexpr int64_t cublas_min_tokens = 256;
constexpr int copy_threads = 256;

// One thread an element; block y: rows.
template <class T>
__global__ void copy_operand_kernel(bf16* to, int64_t part_stride, const T* x, int64_t x_stride, int64_t from_step,
                                    int64_t rows, int64_t n_parts, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n_parts * count) return;
  const int64_t part = i / count, c = i % count;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y)
    to[(r * n_parts + part) * part_stride + c] = to_bf16(to_float(x[r * x_stride + part * from_step + c]));
}

// out[r, h, first_out ..] = x[r, h, first ..], count elements of each head.
__global__ void copy_heads_kernel(float* out, int64_t out_stride, int64_t out_step, int64_t first_out, const float* x,
                                  int64_t x_stride, int64_t x_step, int64_t first, int64_t rows, int64_t n_heads,
                                  int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n_heads * count) return;
  const int64_t h = i / count, c = i % count;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y)
    out[r * out_stride + h * out_step + first_out + c] = x[r * x_stride + h * x_step + first + c];
}

__global__ void fill_rows_kernel(float* out, int64_t out_stride, const float* row, int64_t rows, int64_t cols) {
  const int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= cols) return;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) out[r * out_stride + c] = row[c];
}

dim3 row_grid(int64_t elements, int64_t rows) {
  return dim3(static_cast<unsigned>(ceil_div(elements, copy_threads)),
              static_cast<unsigned>(rows < 65535 ? rows : 65535));
}

void expect_bf16(const Matrix& w) {
  if (w.dtype != DType::bf16)
    throw Error("CUDA matrix product", "expected weights of BF16, found " + std::string(dtype_name(w.dtype)));
}

TileGemm dense(Tensor out, Tensor x, const Matrix& w, Vector bias) {
  expect_bf16(w);
  TileGemm g;
  g.out = out.data;
  g.out_stride = out.stride;
  g.out_bf16 = out.dtype == DType::bf16;
  g.a = x.as<bf16>();
  g.a_stride = static_cast<int32_t>(x.stride);
  g.b[0] = w.data;
  g.b_stride[0] = static_cast<int32_t>(w.row_stride);
  g.bias[0] = bias.data;
  g.m = x.rows;
  g.n = static_cast<int32_t>(w.rows);
  g.k = static_cast<int32_t>(w.cols);
  return g;
}

}  // namespace

void copy_operand(Stream stream, bf16* to, int64_t part_stride, Tensor x, int64_t n_parts, int64_t from_step,
                  int64_t count) {
  const dim3 grid = row_grid(n_parts * count, x.rows);
  if (x.dtype == DType::bf16) {
    launch("copy_operand", copy_operand_kernel<bf16>, grid, copy_threads, 0, stream, to, part_stride, x.as<bf16>(),
           x.stride, from_step, x.rows, n_parts, count);
  } else {
    launch("copy_operand", copy_operand_kernel<float>, grid, copy_threads, 0, stream, to, part_stride, x.data, x.stride,
           from_step, x.rows, n_parts, count);
  }
}

Tensor CudaBackend::aligned_operand(Tensor x) {
  if (is_aligned_operand(x)) return x;
  const int64_t stride = round_up(x.cols, 8);
  bf16* copy = static_cast<bf16*>(scratch(Scratch::absorb, static_cast<size_t>(x.rows * stride) * sizeof(bf16)));
  copy_operand(stream_, copy, stride, x, 1, x.cols, x.cols);
  return Tensor(reinterpret_cast<float*>(copy), x.rows, x.cols, stride, DType::bf16);
}

void CudaBackend::matmul(Tensor out, Tensor x, const Matrix& w, Vector bias) {
  const Product product{out, &w, bias};
  matmul_many(x, {&product, 1});
}

void CudaBackend::matmul_many(Tensor x, std::span<const Product> products) {
  if (x.rows == 0 || products.empty()) return;
  if (!invariant() && x.rows <= gemv_max_tokens) {
    gemv(stream_, x, products);
    return;
  }
  x = aligned_operand(x);
  for (const Product& p : products) {
    const TileGemm g = dense(p.out, x, *p.w, p.bias);
    if (!invariant() && x.rows >= cublas_min_tokens && p.out.dtype == DType::f32 && cublas_available()) {
      if (p.bias)
        launch("fill_rows", fill_rows_kernel, row_grid(g.n, g.m), copy_threads, 0, stream_, p.out.data, p.out.stride,
               p.bias.data, g.m, g.n);
      if (cublas_matmul(stream_, p.out, x, *p.w, static_cast<bool>(p.bias))) continue;
    }
    run_tile_gemm(stream_, "matmul", g, Weights::rows, false, tile_size(g.m, g.n, 1, info_.n_processors));
  }
}

void CudaBackend::gated_hidden(Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                               const Activation& activation) {
  if (x.rows == 0) return;
  if (!invariant() && x.rows <= gemv_max_tokens) {
    gemv_gated(stream_, hidden, x, gate, up, activation);
    return;
  }
  x = aligned_operand(x);
  expect_bf16(up);
  TileGemm g = dense(hidden, x, gate, {});
  g.b[1] = up.data;
  g.b_stride[1] = static_cast<int32_t>(up.row_stride);
  g.activation = activation;
  run_tile_gemm(stream_, "gated_hidden", g, Weights::rows, true, tile_size(g.m, 2 * g.n, 1, info_.n_processors));
}

void CudaBackend::mla_absorb(Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                             int64_t d_value) {
  if (q.rows == 0) return;
  if (!invariant() && q.rows <= gemv_max_tokens) {
    gemv_mla_absorb(stream_, out, q, kv_b, n_heads, d_nope, d_rope, d_value);
    return;
  }
  expect_bf16(kv_b);
  const int64_t d_latent = kv_b.cols, d_in = d_nope + d_rope, d_out = d_latent + d_rope, part = round_up(d_nope, 8);
  bf16* operand =
      static_cast<bf16*>(scratch(Scratch::absorb, static_cast<size_t>(q.rows * n_heads * part) * sizeof(bf16)));
  copy_operand(stream_, operand, part, q, n_heads, d_in, d_nope);
  if (d_rope > 0)
    launch("copy_heads", copy_heads_kernel, row_grid(n_heads * d_rope, q.rows), copy_threads, 0, stream_, out.data,
           out.stride, d_out, d_latent, q.data, q.stride, d_in, d_nope, q.rows, n_heads, d_rope);
  TileGemm g;
  g.out = out.data;
  g.out_stride = out.stride;
  g.out_batch = d_out;
  g.a = operand;
  g.a_stride = static_cast<int32_t>(n_heads * part);
  g.a_batch = part;
  g.b[0] = kv_b.data;
  g.b_stride[0] = static_cast<int32_t>(kv_b.row_stride);
  g.b_batch = (d_nope + d_value) * kv_b.row_stride;
  g.m = q.rows;
  g.n = static_cast<int32_t>(d_latent);
  g.k = static_cast<int32_t>(d_nope);
  g.n_batches = static_cast<int32_t>(n_heads);
  run_tile_gemm(stream_, "mla_absorb", g, Weights::columns, false, tile_size(g.m, g.n, n_heads, info_.n_processors));
}

void CudaBackend::mla_expand(Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                             int64_t d_value) {
  if (latent.rows == 0) return;
  if (!invariant() && latent.rows <= gemv_max_tokens) {
    gemv_mla_expand(stream_, out, latent, kv_b, n_heads, d_nope, d_value);
    return;
  }
  const int64_t d_latent = kv_b.cols;
  int64_t part = d_latent;
  if (!is_aligned_operand(latent, d_latent)) {
    part = round_up(d_latent, 8);
    bf16* copy =
        static_cast<bf16*>(scratch(Scratch::absorb, static_cast<size_t>(latent.rows * n_heads * part) * sizeof(bf16)));
    copy_operand(stream_, copy, part, latent, n_heads, d_latent, d_latent);
    latent = Tensor(reinterpret_cast<float*>(copy), latent.rows, n_heads * part, n_heads * part, DType::bf16);
  }
  TileGemm g = dense(out, latent, kv_b, {});
  g.out_batch = d_value;
  g.a_batch = part;
  g.b[0] = static_cast<const bf16*>(kv_b.data) + d_nope * kv_b.row_stride;
  g.b_batch = (d_nope + d_value) * kv_b.row_stride;
  g.n = static_cast<int32_t>(d_value);
  g.n_batches = static_cast<int32_t>(n_heads);
  run_tile_gemm(stream_, "mla_expand", g, Weights::rows, false, tile_size(g.m, g.n, n_heads, info_.n_processors));
}

}  // namespace signalbox::kernels::DEVICE_SPACE
