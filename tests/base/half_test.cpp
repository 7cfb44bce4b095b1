// 16-bit floats: every value there and back, rounding at the half way, NaN, and the bits that the loaders gave before.
#include "base/half.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

using namespace signalbox;

TEST_CASE("half floats are converted exactly") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = float_of_f16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      CHECK((f16_of_float(value) & 0x7fff) > 0x7c00);
      continue;
    }
    if (f16_of_float(value) != bits) FAIL("f16 " << bits);
  }
  CHECK(float_of_f16(0x0001) == 0x1p-24f);
  CHECK(float_of_f16(0x3c00) == 1);
  CHECK(std::isinf(float_of_f16(0x7c00)));
  CHECK(f16_of_float(65519.996f) == 0x7bff);
  CHECK(f16_of_float(65520.0f) == 0x7c00);
  CHECK(f16_of_float(1.00048828125f) == 0x3c00);  // half way, to even
  CHECK(f16_of_float(1.00146484375f) == 0x3c02);
  CHECK(f16_of_float(0x1p-25f) == 0);
  CHECK(f16_of_float(0x1.000002p-25f) == 1);
}

TEST_CASE("every f16 has the bits that its parts say, NaN with its payload") {
  for (uint32_t half = 0; half < 65536; ++half) {
    const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    uint32_t expected = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    if (exponent == 0) expected = sign | std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f);
    if (std::bit_cast<uint32_t>(float_of_f16(static_cast<uint16_t>(half))) != expected) FAIL("f16 " << half);
  }
}

TEST_CASE("bfloat16 is the upper half of a float, rounded to the nearest") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = float_of_bf16(half);
    if (std::bit_cast<uint32_t>(value) != bits << 16) FAIL("bf16 " << bits);
    if (bf16_of_float(value) != (std::isnan(value) ? 0x7fff : half)) FAIL("bf16 " << bits);
  }
  const auto rounded = [](uint32_t bits) { return bf16_of_float(std::bit_cast<float>(bits)); };
  CHECK(rounded(0x3f808000) == 0x3f80);  // half way, to even
  CHECK(rounded(0x3f818000) == 0x3f82);
  CHECK(rounded(0x3f808001) == 0x3f81);
  CHECK(rounded(0x3f807fff) == 0x3f80);
  CHECK(rounded(0xbf818000) == 0xbf82);
  CHECK(rounded(0x00008000) == 0x0000);
  CHECK(rounded(0x7f7fffff) == 0x7f80);  // to infinity
  CHECK(rounded(0x7f800001) == 0x7fff);
  CHECK(rounded(0xffc00000) == 0x7fff);
}
