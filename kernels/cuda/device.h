// What kernels are written in: CUDA C++, and a few wrappers of instructions that have no C++ form. Kernels include this
// and nothing else of CUDA, so that the same sources compile against kernels/shim, which runs them on the host.
//
// Rules that make that work:
//  - code lives in namespace kernels::DEVICE_SPACE (cuda or shim), kernels are launched by launch(), never <<<>>>;
//  - shared memory comes from SharedMemory::take, in the same order in every thread; no __shared__ variables;
//  - blocks never wait for other blocks ("the last block finishes" is fine);
//  - all 32 lanes of a warp take part in shuffles, votes, ldmatrix and mma.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/namespaces.h"
#include "kernels/backend.h"

#if defined(SIGNALBOX_SHIM)
#define DEVICE_SPACE shim  // kernels/shim/simt.h has been included before: see kernels/shim/CMakeLists.txt
#else
#define DEVICE_SPACE cuda
#include <cuda_runtime.h>
#endif

namespace signalbox::kernels::DEVICE_SPACE {

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffu;

// ---- bfloat16

struct bf16 {
  uint16_t bits;
};

__host__ __device__ inline float to_float(bf16 x) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
#else
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, 4);
  return value;
#endif
}
__host__ __device__ inline float to_float(float x) { return x; }

// To the nearest, ties to even. NaN stays NaN.
__host__ __device__ inline bf16 to_bf16(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}
// Two at once, `low` in the low half.
__host__ __device__ inline uint32_t pack_bf16(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return static_cast<uint32_t>(to_bf16(low).bits) | static_cast<uint32_t>(to_bf16(high).bits) << 16;
#endif
}
__host__ __device__ inline float low_float(uint32_t packed) { return to_float(bf16{static_cast<uint16_t>(packed)}); }
__host__ __device__ inline float high_float(uint32_t packed) {
  return to_float(bf16{static_cast<uint16_t>(packed >> 16)});
}
template <class T>
__host__ __device__ inline T from_float(float x);
template <>
__host__ __device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__host__ __device__ inline bf16 from_float<bf16>(float x) {
  return to_bf16(x);
}

// ---- shared memory

constexpr size_t shared_alignment = 16;
__host__ __device__ constexpr size_t shared_bytes(size_t bytes) {
  return (bytes + shared_alignment - 1) / shared_alignment * shared_alignment;
}
// Bytes that take<T>(n) uses up.
template <class T>
__host__ __device__ constexpr size_t shared_bytes_of(size_t n) {
  return shared_bytes(n * sizeof(T));
}

// Hands out the block's dynamic shared memory. Every thread makes its own and takes the same arrays in the same order;
// the launch's shared_memory is the sum of shared_bytes_of.
class SharedMemory {
 public:
  template <class T>
  __device__ T* take(size_t n) {
#if defined(SIGNALBOX_SHIM)
    return static_cast<T*>(::simt::shared_array(n_taken_++, n * sizeof(T)));
#else
    extern __shared__ __align__(128) unsigned char memory[];
    T* array = reinterpret_cast<T*>(memory + used_);
    used_ += shared_bytes_of<T>(n);
    return array;
#endif
  }

 private:
#if defined(SIGNALBOX_SHIM)
  int n_taken_ = 0;
#else
  size_t used_ = 0;
#endif
};

// ---- asynchronous copies and matrix instructions

#if !defined(SIGNALBOX_SHIM)

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Copies `bytes` (0 to 16) of global memory to shared memory and zeroes the rest of the 16. Both addresses are 16-byte
// aligned; `from` must be a valid address even for 0 bytes. Done after wait_copies and a barrier.
__device__ inline void copy_async(void* to_shared, const void* from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from), "r"(bytes)
               : "memory");
}
// Closes the group of copies that this thread has begun.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the last `n` groups of this thread are done.
template <int n>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// Four 8x8 matrices of 16-bit values: lane i gives the address of a row of 8 (lanes 0-7 matrix 0, 8-15 matrix 1, ...);
// lane i gets of each matrix the two values at row i / 4, columns i % 4 * 2 and the next.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same of the transposed matrices: lane i gets rows i % 4 * 2 and the next of column i / 4.
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b for a [16, 16] row-major, b [16, 8] column-major, bf16, d [16, 8] f32. With g = lane / 4 and c = lane % 4 *
// 2: a[0] = A[g][c, c+1], a[1] = A[g+8][c, c+1], a[2] = A[g][c+8, c+9], a[3] = A[g+8][c+8, c+9]; b[0] = B[c, c+1][g],
// b[1] = B[c+8, c+9][g]; d[0], d[1] = D[g][c, c+1], d[2], d[3] = D[g+8][c, c+1].
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 16 bytes that are read once: they do not displace others from the first-level cache.
__device__ inline uint4 load_streaming(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

#endif  // !SIGNALBOX_SHIM

// ---- reductions. All lanes get the same bits.

__device__ inline float warp_sum(float x) {
  for (int m = warp_size / 2; m > 0; m /= 2) x += __shfl_xor_sync(all_lanes, x, m);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int m = warp_size / 2; m > 0; m /= 2) x = fmaxf(x, __shfl_xor_sync(all_lanes, x, m));
  return x;
}
// Over the whole block (a multiple of 32 threads, 1024 at most); scratch [32] in shared memory, free again on return.
__device__ inline float block_sum(float x, float* scratch) {
  x = warp_sum(x);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int n_warps = static_cast<int>(blockDim.x) / warp_size;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = warp_sum(lane < n_warps ? scratch[lane] : 0.f);
  __syncthreads();
  return x;
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace signalbox::kernels::DEVICE_SPACE
