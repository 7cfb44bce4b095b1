// wgmma m64nNk16, bf16 into f32, by 128 threads, and the descriptors of its operands in shared memory.
#pragma once
#include <cstdint>

#include "kernels/cuda/kit/tiles.h"

namespace signalbox::kernels::cuda {

__device__ inline uint64_t descriptor(uint64_t bits, uint32_t shared) { return bits | (shared >> 4 & 0x3fff); }

// Before the first wgmma that reads registers which other instructions wrote.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int n>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

// Operand lists of inline assembly: ten registers at a time, by their first digits.
// clang-format off
#define KIT_NAMES4(d) "%" #d "0,%" #d "1,%" #d "2,%" #d "3"
#define KIT_NAMES10(d) KIT_NAMES4(d) ",%" #d "4,%" #d "5,%" #d "6,%" #d "7,%" #d "8,%" #d "9"
#define KIT_SUMS4(d) "+f"(sums[d##0]), "+f"(sums[d##1]), "+f"(sums[d##2]), "+f"(sums[d##3])
#define KIT_SUMS10(d) KIT_SUMS4(d), "+f"(sums[d##4]), "+f"(sums[d##5]), "+f"(sums[d##6]), "+f"(sums[d##7]), "+f"(sums[d##8]), "+f"(sums[d##9])
#define KIT_NAMES8(d) KIT_NAMES4(d) ",%" #d "4,%" #d "5,%" #d "6,%" #d "7"
#define KIT_SUMS8(d) KIT_SUMS4(d), "+f"(sums[d##4]), "+f"(sums[d##5]), "+f"(sums[d##6]), "+f"(sums[d##7])
#define KIT_NAMES6(d) KIT_NAMES4(d) ",%" #d "4,%" #d "5"
#define KIT_SUMS6(d) KIT_SUMS4(d), "+f"(sums[d##4]), "+f"(sums[d##5])
#define KIT_NAMES2(d) "%" #d "0,%" #d "1"
#define KIT_SUMS2(d) "+f"(sums[d##0]), "+f"(sums[d##1])
#define KIT_NAMES30 KIT_NAMES10() "," KIT_NAMES10(1) "," KIT_NAMES10(2)
#define KIT_SUMS30 KIT_SUMS10(), KIT_SUMS10(1), KIT_SUMS10(2)
#define KIT_NAMES90 KIT_NAMES30 "," KIT_NAMES10(3) "," KIT_NAMES10(4) "," KIT_NAMES10(5) "," KIT_NAMES10(6) "," KIT_NAMES10(7) "," KIT_NAMES10(8)
#define KIT_SUMS90 KIT_SUMS30, KIT_SUMS10(3), KIT_SUMS10(4), KIT_SUMS10(5), KIT_SUMS10(6), KIT_SUMS10(7), KIT_SUMS10(8)

// n_sums = N / 2 registers a thread. With g = lane / 4, c = lane % 4 * 2 and w the warp of the four: sums[4 j] and the
// next are D[16 w + g][8 j + c, + 1], sums[4 j + 2] and the next are D[16 w + g + 8][the same].
template <int n>
struct Wgmma;

#define KIT_WGMMA(n, names, sums_list, p0, p1, p2, p3, p4, p5)                                                            \
  template <>                                                                                                             \
  struct Wgmma<n> {                                                                                                       \
    /* sums = a b, or sums + a b; a and b by descriptors, B [N, K] along K (transposed 0) or along N (1) */               \
    template <int transposed>                                                                                             \
    __device__ static void shared(float (&sums)[n / 2], uint64_t a, uint64_t b, int add) {                                \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p2 ", 0; wgmma.mma_async.sync.aligned.m64n" #n                      \
                   "k16.f32.bf16.bf16 {" names "}, %" #p0 ", %" #p1 ", p, 1, 1, 0, %" #p3 "; }"                           \
                   : sums_list                                                                                            \
                   : "l"(a), "l"(b), "r"(add), "n"(transposed)                                                            \
                   : "memory");                                                                                           \
    }                                                                                                                     \
    /* a from registers, each warp's 16 rows as mma takes them */                                                         \
    __device__ static void registers(float (&sums)[n / 2], const uint32_t (&a)[4], uint64_t b, int add) {                 \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p5 ", 0; wgmma.mma_async.sync.aligned.m64n" #n                      \
                   "k16.f32.bf16.bf16 {" names "}, {%" #p0 ",%" #p1 ",%" #p2 ",%" #p3 "}, %" #p4 ", p, 1, 1, 0; }"        \
                   : sums_list                                                                                            \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add)                                         \
                   : "memory");                                                                                           \
    }                                                                                                                     \
  };

#define KIT_COMMA ,
KIT_WGMMA(8, KIT_NAMES4(), KIT_SUMS4(), 4, 5, 6, 7, 8, 9)
KIT_WGMMA(16, KIT_NAMES8(), KIT_SUMS8(), 8, 9, 10, 11, 12, 13)
KIT_WGMMA(32, KIT_NAMES10() "," KIT_NAMES6(1), KIT_SUMS10() KIT_COMMA KIT_SUMS6(1), 16, 17, 18, 19, 20, 21)
KIT_WGMMA(64, KIT_NAMES30 "," KIT_NAMES2(3), KIT_SUMS30 KIT_COMMA KIT_SUMS2(3), 32, 33, 34, 35, 36, 37)
KIT_WGMMA(96, KIT_NAMES30 "," KIT_NAMES10(3) "," KIT_NAMES8(4), KIT_SUMS30 KIT_COMMA KIT_SUMS10(3) KIT_COMMA KIT_SUMS8(4), 48, 49, 50, 51, 52, 53)
KIT_WGMMA(128, KIT_NAMES30 "," KIT_NAMES10(3) "," KIT_NAMES10(4) "," KIT_NAMES10(5) "," KIT_NAMES4(6),
          KIT_SUMS30 KIT_COMMA KIT_SUMS10(3) KIT_COMMA KIT_SUMS10(4) KIT_COMMA KIT_SUMS10(5) KIT_COMMA KIT_SUMS4(6), 64, 65, 66, 67, 68, 69)
KIT_WGMMA(192, KIT_NAMES90 "," KIT_NAMES6(9), KIT_SUMS90 KIT_COMMA KIT_SUMS6(9), 96, 97, 98, 99, 100, 101)
KIT_WGMMA(256, KIT_NAMES90 "," KIT_NAMES10(9) "," KIT_NAMES10(10) "," KIT_NAMES10(11) "," KIT_NAMES8(12),
          KIT_SUMS90 KIT_COMMA KIT_SUMS10(9) KIT_COMMA KIT_SUMS10(10) KIT_COMMA KIT_SUMS10(11) KIT_COMMA KIT_SUMS8(12), 128, 129, 130, 131, 132, 133)
// clang-format on

#undef KIT_WGMMA
#undef KIT_COMMA
#undef KIT_NAMES2
#undef KIT_NAMES4
#undef KIT_NAMES6
#undef KIT_NAMES8
#undef KIT_NAMES10
#undef KIT_NAMES30
#undef KIT_NAMES90
#undef KIT_SUMS2
#undef KIT_SUMS4
#undef KIT_SUMS6
#undef KIT_SUMS8
#undef KIT_SUMS10
#undef KIT_SUMS30
#undef KIT_SUMS90

}  // namespace signalbox::kernels::cuda
