// Root-mean-square norms, with or without the residual addition before them: each element is read once.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/rows.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

struct NormArgs {
  void* out;  // f32 or bf16
  int64_t out_stride;
  float* x;  // with delta: x += delta first
  int64_t x_stride;
  const float* delta;  // or null
  int64_t delta_stride;
  const float* weight;
  int64_t rows, cols;
  float eps;
  bool out_bf16;
  bool wide, wide_out, wide_weight;
};

// Groups of a row that a thread keeps in registers; further ones are read a second time.
constexpr int kept_groups = 4;

__device__ inline Four load_sum(const NormArgs& a, float* x, const float* delta, int64_t c) {
  const int n = in_group(c, a.cols);
  Four v = load_four(x + c, n, a.wide);
  if (delta) {
    const Four d = load_four(delta + c, n, a.wide);
#pragma unroll
    for (int i = 0; i < 4; ++i) v.v[i] += d.v[i];
    store_four(x + c, v, n, a.wide);
  }
  return v;
}

__device__ inline void store_normed(const NormArgs& a, int64_t r, int64_t c, Four v, float inverse) {
  const int n = in_group(c, a.cols);
  const Four w = load_four(a.weight + c, n, a.wide_weight);
#pragma unroll
  for (int i = 0; i < 4; ++i) v.v[i] = v.v[i] * inverse * w.v[i];
  if (a.out_bf16) {
    store_four(static_cast<bf16*>(a.out) + r * a.out_stride + c, v, n, a.wide_out);
  } else {
    store_four(static_cast<float*>(a.out) + r * a.out_stride + c, v, n, a.wide_out);
  }
}

// blockDim.x = norm_threads(cols) on a row: one warp, then blockDim.y rows a block, or a block of one row.
__global__ void __launch_bounds__(1024) norm_kernel(NormArgs a) {
  SharedMemory memory;
  float* scratch = memory.take<float>(warp_size);
  const int64_t r = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (r >= a.rows) return;  // whole warps, and never in a block of one row
  const int64_t step = 4 * int64_t{blockDim.x}, first = 4 * int64_t{threadIdx.x};
  float* x = a.x + r * a.x_stride;
  const float* delta = a.delta ? a.delta + r * a.delta_stride : nullptr;

  Four kept[kept_groups];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kept_groups; ++i) {
    const int64_t c = first + i * step;
    if (c < a.cols) {
      kept[i] = load_sum(a, x, delta, c);
      squares = add_squares(squares, kept[i]);
    }
  }
  for (int64_t c = first + kept_groups * step; c < a.cols; c += step)
    squares = add_squares(squares, load_sum(a, x, delta, c));

  const float inverse =
      inverse_root(blockDim.x == warp_size ? warp_sum(squares) : block_sum(squares, scratch), a.cols, a.eps);
#pragma unroll
  for (int i = 0; i < kept_groups; ++i) {
    const int64_t c = first + i * step;
    if (c < a.cols) store_normed(a, r, c, kept[i], inverse);
  }
  for (int64_t c = first + kept_groups * step; c < a.cols; c += step)
    store_normed(a, r, c, load_four(x + c, in_group(c, a.cols), a.wide), inverse);
}

void launch_norm(const char* name, Tensor out, Tensor x, Tensor delta, Vector weight, float eps, Stream stream) {
  NormArgs args = {};
  args.out = out.data;
  args.out_stride = out.stride;
  args.x = x.data;
  args.x_stride = x.stride;
  args.delta = delta.data;
  args.delta_stride = delta.stride;
  args.weight = weight.data;
  args.rows = x.rows;
  args.cols = x.cols;
  args.eps = eps;
  args.out_bf16 = out.dtype == DType::bf16;
  args.wide = wide_rows(x) && (!delta || wide_rows(delta));
  args.wide_out = wide_rows(out);
  args.wide_weight = wide_rows(weight.data, 0);
  const int across = norm_threads(x.cols), down = across == warp_size ? 4 : 1;
  launch(name, norm_kernel, dim3(static_cast<unsigned>(ceil_div(x.rows, down))),
         dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), shared_bytes_of<float>(warp_size), stream,
         args);
}

}  // namespace

void CudaBackend::rmsnorm(Tensor out, Tensor x, Vector weight, float eps) {
  launch_norm("rmsnorm", out, x, Tensor(), weight, eps, stream_);
}

void CudaBackend::add_rmsnorm(Tensor x, Tensor delta, Tensor h, Vector weight, float eps) {
  launch_norm("add_rmsnorm", h, x, delta, weight, eps, stream_);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
