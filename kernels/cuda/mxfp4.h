// Four-bit weights as the kernels read them. A 32-bit word holds eight consecutive values of a row, 0 to 7: the even
// ones in its low half, the odd ones in its high half, so that a pair (2i, 2i + 1) comes out packed. Of e2m1 value 2i
// (sign s, magnitude eem), and of value 2i + 1 sixteen bits higher:
//
//   pair 0  eem at bits  8..6, s at bit 15                   already where bf16 wants them
//   pair 1  eem at bits 11..9, s at bit 2 of the other half  one rotation by 3
//   pair 2  eem at bits 14..12, s at bit 1                   two shifts
//   pair 3  eem at bits  5..3, s at bit 0                    two shifts
//
// eem at bits 8..6 of a bf16 is its value times 2^-126, the subnormal 0.5 included; one product with a power of two
// makes it the weight. Sixteen bytes are one block of 32 values with one scale.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Eight values in their stored order, value i at bits 4i..4i+3, to the order above.
__host__ __device__ inline uint32_t pack_mxfp4(uint32_t nibbles) {
  constexpr int magnitude_at[4] = {6, 9, 12, 3};
  constexpr int sign_at[4] = {15, 18, 1, 0};
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) {
    const uint32_t value = nibbles >> 4 * i & 15;
    const int half = i % 2 * 16;
    word |= (value & 7) << (magnitude_at[i / 2] + half) | (value >> 3) << ((sign_at[i / 2] + half) % 32);
  }
  return word;
}

// Both halves times both halves of factor, rounded to bf16.
__device__ inline uint32_t multiply_bf16(uint32_t pair, uint32_t factor) {
#if defined(__CUDA_ARCH__)
  uint32_t product;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(pair), "r"(factor), "r"(0x80008000u));  // + -0
  return product;
#else
  return pack_bf16(low_float(pair) * low_float(factor), high_float(pair) * high_float(factor));
#endif
}

// pairs[i] = values 2i and 2i + 1 of the word times 2^(scale - 127), as packed bf16 (exact but for overflow).
__device__ inline void unpack_mxfp4(uint32_t word, uint8_t scale, uint32_t (&pairs)[4]) {
  constexpr uint32_t magnitude = 0x01c001c0u, sign = 0x80008000u;
  const uint32_t rotated = word >> 3 | word << 29;
  pairs[0] = word & (sign | magnitude);
  pairs[1] = rotated & (sign | magnitude);
  pairs[2] = (word >> 6 & magnitude) | (word << 14 & sign);
  pairs[3] = (word << 3 & magnitude) | (word << 15 & sign);
  // 2^(scale - 1) undoes the 2^-126 too. Above 2^127, which no bf16 holds, the rest is a second product; 255 is an
  // infinite scale.
  const uint32_t first = ((scale < 128 ? scale : 128u) + 126u) << 7;
  for (int i = 0; i < 4; ++i) pairs[i] = multiply_bf16(pairs[i], first | first << 16);
  if (scale > 128) {
    const uint32_t second = scale == 255 ? 0x7f80u : (scale - 1u) << 7;
    for (int i = 0; i < 4; ++i) pairs[i] = multiply_bf16(pairs[i], second | second << 16);
  }
}

}  // namespace signalbox::kernels::DEVICE_SPACE
