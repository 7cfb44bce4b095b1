// Operands of the instruction kit, made from a seed alone, so that whoever reads a result can make them again:
// tools/bench/instructions.py has the same formulas.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

// The i-th word of a seed: SplitMix64 (Steele, Lea, Flood, 2014) entered at any place.
inline uint64_t draw(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0xd1342543de82ef95u + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// What values an operand has.
enum class Values : uint8_t {
  zeros,       // +0 and -0
  integers,    // -8 to 8: every sum of products is exact
  ordinary,    // exponents -3 to 2
  wide,        // exponents -30 to 30
  subnormal,   // exponents -127 (that is, subnormal) to -124
  special,     // ordinary, every eighth one of infinities, NaN, zeros, the smallest, f32: the largest
  cancelling,  // ordinary; the second half of a row is the first half with the other sign (rows of A; B repeats)
};

// bf16 bits by a word.
inline uint16_t bf16_of(Values values, uint64_t word) {
  const auto sign_and_fraction = static_cast<uint16_t>(word & 0x807fu);
  const auto with_exponent = [&](uint64_t first, uint64_t n) {
    return static_cast<uint16_t>(sign_and_fraction | (first + (word >> 16 & 0xffff) % n) << 7);
  };
  switch (values) {
    case Values::zeros: return static_cast<uint16_t>(word & 0x8000u);
    case Values::integers: return to_bf16(static_cast<float>(static_cast<int>(word % 17) - 8)).bits;
    case Values::wide: return with_exponent(97, 61);
    case Values::subnormal: return with_exponent(0, 4);
    case Values::special: {
      static constexpr uint16_t list[] = {0x7f80, 0xff80, 0x7fc0, 0x0000, 0x8000, 0x4000, 0x8001, 0x0001};
      if ((word >> 32) % 8 == 0) return list[(word >> 40) % 8];
      return with_exponent(124, 6);
    }
    case Values::ordinary:
    case Values::cancelling: break;
  }
  return with_exponent(124, 6);
}

// f32 bits by a word: as above with 23 bits of fraction; integers from -64 to 64.
inline uint32_t f32_of(Values values, uint64_t word) {
  const auto sign_and_fraction = static_cast<uint32_t>(word & 0x807fffffu);
  const auto with_exponent = [&](uint64_t first, uint64_t n) {
    return sign_and_fraction | static_cast<uint32_t>(first + (word >> 32 & 0xffff) % n) << 23;
  };
  switch (values) {
    case Values::zeros: return static_cast<uint32_t>(word & 0x80000000u);
    case Values::integers: {
      const float x = static_cast<float>(static_cast<int>(word % 129) - 64);
      uint32_t bits;
      __builtin_memcpy(&bits, &x, 4);
      return bits;
    }
    case Values::wide: return with_exponent(97, 61);
    case Values::subnormal: return with_exponent(0, 4);
    case Values::special: {
      static constexpr uint32_t list[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x00000000,
                                          0x80000000, 0x7f7fffff, 0xff7fffff, 0x00000001};
      if ((word >> 48) % 8 == 0) return list[(word >> 51) % 8];
      return with_exponent(124, 6);
    }
    case Values::ordinary:
    case Values::cancelling: break;
  }
  return with_exponent(124, 6);
}

// [rows, cols] row-major.
inline std::vector<uint16_t> bf16_operand(Values values, uint64_t seed, int64_t rows, int64_t cols) {
  std::vector<uint16_t> made;
  for (int64_t i = 0; i < rows * cols; ++i) made.push_back(bf16_of(values, draw(seed, static_cast<uint64_t>(i))));
  return made;
}
inline std::vector<uint32_t> f32_operand(Values values, uint64_t seed, int64_t n) {
  std::vector<uint32_t> made;
  for (int64_t i = 0; i < n; ++i) made.push_back(f32_of(values, draw(seed, static_cast<uint64_t>(i))));
  return made;
}
inline std::vector<uint32_t> word_operand(uint64_t seed, int64_t n) {
  std::vector<uint32_t> made;
  for (int64_t i = 0; i < n; ++i) made.push_back(static_cast<uint32_t>(draw(seed, static_cast<uint64_t>(i))));
  return made;
}

}  // namespace signalbox::kernels::DEVICE_SPACE
