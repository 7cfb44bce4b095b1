#include "base/int_blocks.h"

#include <algorithm>

namespace signalbox {

namespace {

// To the nearest integer, ties to even, of |x| < 2^22.
float nearest(float x) {
  constexpr float magic = 12582912.f;  // 1.5 * 2^23: the sum has no bits below 1
  return x + magic - magic;
}

float largest_of(const float* values) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(values[i]));
  return largest;
}

float int4_code(float value, float inverse) { return std::clamp(nearest(value * inverse), -8.f, 7.f); }

}  // namespace

uint8_t int8_of_floats(const float* values, uint8_t* codes) {
  const float largest = largest_of(values);
  int exponent = largest > 0 ? std::ilogb(largest) - 6 : -127;  // 64 <= largest / 2^exponent < 128
  if (largest > 0 && nearest(std::ldexp(largest, -exponent)) > 127) ++exponent;
  exponent = std::max(exponent, -127);
  for (int i = 0; i < 32; ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int8_t>(nearest(std::ldexp(values[i], -exponent))));
  return static_cast<uint8_t>(exponent + 127);
}

uint16_t int4_of_floats(const float* values, uint8_t* codes) {
  std::fill_n(codes, 16, uint8_t{0});
  const float largest = largest_of(values);
  if (largest < 0x1p-100f) return 0;
  // The scale's sign brings the first of the largest to the negative side, which has a step more.
  int at = 0;
  while (std::fabs(values[at]) != largest) ++at;
  const float sign = values[at] < 0 ? 1.f : -1.f;

  const float least = largest / 9;
  const int exponent = std::ilogb(least) - 4;  // 16 <= least / 2^exponent < 32
  const int first = static_cast<int>(std::ceil(std::ldexp(least, -exponent)));
  float best = 0, best_error = 0;
  for (int step = first;; ++step) {
    const float size = step < 32 ? std::ldexp(static_cast<float>(step), exponent)
                                 : std::ldexp(static_cast<float>(step - 16), exponent + 1);
    if (size > largest / 4) break;
    const float scale = sign * size;
    const float inverse = 1 / scale;
    float error = 0;
    for (int j = 0; j < 32; ++j) {
      const float off = values[j] * inverse - int4_code(values[j], inverse);
      error += off * off;
    }
    error *= scale / largest * (scale / largest);  // in units that neither overflow nor vanish
    if (step == first || error < best_error) {
      best = scale;
      best_error = error;
    }
  }
  for (int i = 0; i < 32; ++i) {
    const int code = static_cast<int>(int4_code(values[i], 1 / best)) & 15;
    codes[i / 2] = static_cast<uint8_t>(codes[i / 2] | code << (i % 2 == 0 ? 0 : 4));
  }
  return bf16_of_float(best);
}

}  // namespace signalbox
