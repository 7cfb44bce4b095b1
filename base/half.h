// 16-bit floats by bits, converted exactly (to f32, the bits of a NaN kept) or to nearest, ties to even (from f32).
// Kernels have instructions of their own for them where the processor or the device has some.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace signalbox {

inline float float_of_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

inline float float_of_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t rest = bits & 0x7fff;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Moving exponent and mantissa up leaves the exponent 112 too low; the product sets it right, subnormals included.
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112f));
}

// NaN becomes 0x7fff, as the conversion of NVIDIA GPUs has it.
inline uint16_t bf16_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline uint16_t f16_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return sign | 0x7e00;
  if (rest >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (rest < 0x38800000) {
    // Below the smallest normal number: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    const float shifted = std::bit_cast<float>(rest) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  const uint32_t odd = rest >> 13 & 1;
  return static_cast<uint16_t>(sign | ((rest - 0x38000000 + 0xfff + odd) >> 13));
}

// What is left of a value that is stored as f32, f16 or bf16.
inline float kept_by(DType dtype, float value) {
  return dtype == DType::f16    ? float_of_f16(f16_of_float(value))
         : dtype == DType::bf16 ? float_of_bf16(bf16_of_float(value))
                                : value;
}

// Stores it: dtype_size(dtype) bytes, which need not be aligned.
inline void put_float(std::byte* out, DType dtype, float value) {
  if (dtype == DType::f32) {
    std::memcpy(out, &value, 4);
    return;
  }
  const uint16_t half = dtype == DType::f16 ? f16_of_float(value) : bf16_of_float(value);
  std::memcpy(out, &half, 2);
}

}  // namespace signalbox
