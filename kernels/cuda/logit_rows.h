// Reading rows of logits: in order of size, and shared out to the threads of a block.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/rows.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Ascending like the float; -0 is 0.
__device__ inline uint32_t order_key(float z) {
  const uint32_t bits = __float_as_uint(z + 0.f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float logit_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// f(logit, id) for the logits first .. last of a row, shared out to the threads of the block.
template <class F>
__device__ inline void visit(const float* row, int64_t first, int64_t last, bool wide, F f) {
  for (int64_t i = first + 4 * int64_t{threadIdx.x}; i < last; i += 4 * int64_t{blockDim.x}) {
    const int n = in_group(i, last);
    const Four z = load_four(row + i, n, wide);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < n) f(z.v[j], static_cast<uint32_t>(i + j));
  }
}

// The largest logit and its lowest id as one number: key high, ~id low. 0: no logits; all ones: a NaN.
constexpr uint64_t has_nan = ~uint64_t{0};

}  // namespace signalbox::kernels::DEVICE_SPACE
