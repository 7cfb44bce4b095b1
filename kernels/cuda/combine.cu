// The weighted sum of what a token's experts gave.
#include "kernels/cuda/cuda_backend.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr int combine_threads = 128;

template <int width>
struct Columns {
  float values[width];
};

template <int width>
__device__ inline Columns<width> load(const float* p) {
  if constexpr (width == 4) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    return {v.x, v.y, v.z, v.w};
  } else {
    return {*p};
  }
}
template <int width>
__device__ inline void store(float* p, const Columns<width>& x) {
  if constexpr (width == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(x.values[0], x.values[1], x.values[2], x.values[3]);
  } else {
    *p = x.values[0];
  }
}

// One thread `width` columns; block y: tokens. Slots of a chunk are read together and added in their order.
template <int width>
__global__ void combine_kernel(float* out, int64_t out_stride, const float* expert_out, int64_t expert_stride,
                               const int32_t* ids, const float* weights, int n_slots, const float* shared,
                               int64_t shared_stride, int64_t n_tokens, int64_t cols) {
  constexpr int chunk = 8;
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * width;
  if (c >= cols) return;
  for (int64_t t = blockIdx.y; t < n_tokens; t += gridDim.y) {
    Columns<width> sum{};
    for (int first = 0; first < n_slots; first += chunk) {
      Columns<width> rows[chunk];
      float factors[chunk];
#pragma unroll
      for (int i = 0; i < chunk; ++i) {
        const int64_t slot = t * n_slots + min(first + i, n_slots - 1);
        const float weight = weights[slot];  // of an unused slot: not looked at
        factors[i] = first + i < n_slots && ids[slot] >= 0 ? weight : 0.f;
      }
#pragma unroll
      for (int i = 0; i < chunk; ++i) {
        if (factors[i] != 0.f) rows[i] = load<width>(expert_out + (t * n_slots + first + i) * expert_stride + c);
      }
#pragma unroll
      for (int i = 0; i < chunk; ++i) {
        if (factors[i] == 0.f) continue;
        for (int j = 0; j < width; ++j) sum.values[j] = fmaf(rows[i].values[j], factors[i], sum.values[j]);
      }
    }
    if (shared) {
      const Columns<width> more = load<width>(shared + t * shared_stride + c);
      for (int j = 0; j < width; ++j) sum.values[j] += more.values[j];
    }
    store<width>(out + t * out_stride + c, sum);
  }
}

bool in_fours(Tensor x) { return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 4 == 0; }

}  // namespace

void CudaBackend::combine(Tensor out, Tensor expert_out, const Route& route, Tensor shared) {
  // Few tokens: one column per thread, so that there are enough threads.
  const bool fours = in_fours(out) && in_fours(expert_out) && in_fours(shared) && out.cols % 4 == 0 &&
                     out.rows * out.cols >= int64_t{info_.n_processors} * 1024;
  const int64_t n_threads = fours ? out.cols / 4 : out.cols;
  const dim3 grid(static_cast<unsigned>(ceil_div(n_threads, combine_threads)),
                  static_cast<unsigned>(out.rows < 65535 ? out.rows : 65535));
  launch("combine", fours ? combine_kernel<4> : combine_kernel<1>, grid, combine_threads, 0, stream_, out.data,
         out.stride, expert_out.data, expert_out.stride, route.ids, route.weights, route.n_slots, shared.data,
         shared.stride, out.rows, out.cols);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
