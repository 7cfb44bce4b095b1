// Rows of activations, four elements a thread at a time, and the arithmetic that norms and heads share: a span of ops
// gives the bits of the ops it stands for.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

// `wide` says that the address of each group is aligned for one access of the whole group; else elements are taken one
// by one, in the same places, so that alignment never changes a result.
template <class T>
bool wide_rows(const T* first, int64_t stride, int64_t group = 4) {
  return reinterpret_cast<uintptr_t>(first) % (static_cast<size_t>(group) * sizeof(T)) == 0 && stride % group == 0;
}
inline bool wide_rows(const Tensor& x) {
  return x.dtype == DType::f32 ? wide_rows(x.data, x.stride) : wide_rows(x.as<bf16>(), x.stride);
}

struct Four {
  float v[4];
};

// The first n of four elements; the others are 0.
__device__ inline Four load_four(const float* p, int n, bool wide) {
  if (wide && n == 4) {
    const float4 x = *reinterpret_cast<const float4*>(p);
    return {{x.x, x.y, x.z, x.w}};
  }
  Four x = {};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < n) x.v[i] = p[i];
  return x;
}
__device__ inline Four load_four(const bf16* p, int n, bool wide) {
  if (wide && n == 4) {
    const uint2 x = *reinterpret_cast<const uint2*>(p);
    return {{low_float(x.x), high_float(x.x), low_float(x.y), high_float(x.y)}};
  }
  Four x = {};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < n) x.v[i] = to_float(p[i]);
  return x;
}
__device__ inline void store_four(float* p, const Four& x, int n, bool wide) {
  if (wide && n == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < n) p[i] = x.v[i];
}
__device__ inline void store_four(bf16* p, const Four& x, int n, bool wide) {
  if (wide && n == 4) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < n) p[i] = to_bf16(x.v[i]);
}

// Elements of the group that begins at column c.
__device__ inline int in_group(int64_t c, int64_t cols) { return cols - c < 4 ? static_cast<int>(cols - c) : 4; }

// NaN stays NaN.
__device__ inline float clamped(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }

// A pair turned by an angle. Two products and a sum, never contracted, as on the CPU.
__device__ inline void rotate(float& a, float& b, float cos, float sin) {
#if defined(__CUDA_ARCH__)
  const float turned = __fsub_rn(__fmul_rn(a, cos), __fmul_rn(b, sin));
  b = __fadd_rn(__fmul_rn(b, cos), __fmul_rn(a, sin));
#else
  const float turned = a * cos - b * sin;
  b = b * cos + a * sin;
#endif
  a = turned;
}

// Threads that sum the squares of a row of n elements: a warp, or as many as there are groups. Thread t of them takes
// groups t, t + threads, ...; then the lanes of each warp are added as a tree, and the warps likewise. So the order
// depends on n alone.
__host__ __device__ inline int norm_threads(int64_t n) {
  if (n <= 512) return warp_size;
  const int64_t threads = round_up(ceil_div(n, 4), warp_size);
  return threads < 1024 ? static_cast<int>(threads) : 1024;
}

__device__ inline float add_squares(float sum, const Four& x) {
#pragma unroll
  for (int i = 0; i < 4; ++i) sum = fmaf(x.v[i], x.v[i], sum);
  return sum;
}

__device__ inline float inverse_root(float squares, int64_t n, float eps) {
  return 1.f / sqrtf(squares / static_cast<float>(n) + eps);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
