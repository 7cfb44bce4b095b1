// INT8 and INT4 by bits: blocks of 32 values that share a scale. Every value is one that bf16 holds exactly, so that
// kernels which take bf16 see the same weights as those which take f32.
//
// INT8: a byte a value, two's complement; scale byte s: value = code * 2^(s - 127), as MXINT8 of the OCP Microscaling
// formats. INT4: half a byte a value, two's complement, low nibble first; scale a bf16 number of at most five
// significant bits: value = code * scale.
#pragma once
#include <cmath>
#include <cstdint>

#include "base/half.h"

namespace signalbox {

inline void floats_of_int8(const uint8_t* codes, uint8_t scale, float* values) {
  const float factor = std::ldexp(1.0f, scale - 127);
  for (int i = 0; i < 32; ++i) values[i] = static_cast<float>(static_cast<int8_t>(codes[i])) * factor;
}

inline void floats_of_int4(const uint8_t* codes, uint16_t scale, float* values) {
  const float factor = float_of_bf16(scale);
  for (int i = 0; i < 32; ++i) {
    const int code = codes[i / 2] >> (i % 2 == 0 ? 0 : 4) & 15;
    values[i] = static_cast<float>(code < 8 ? code : code - 16) * factor;
  }
}

// Is this bf16 number a scale of INT4: finite, of at most five significant bits, and no subnormal?
inline bool is_int4_scale(uint16_t scale) {
  const int exponent = scale >> 7 & 255;
  return exponent == 0 ? (scale & 0x7f) == 0 : exponent != 255 && (scale & 7) == 0;
}

// codes [32] and the scale that is returned from finite values [32]: the smallest power of two with which all codes are
// within 127, each value to its nearest code (ties to even).
uint8_t int8_of_floats(const float* values, uint8_t* codes);

// codes [16] and the scale that is returned from finite values [32]: of the scales that put the value of largest
// magnitude between -4 and -9 the one with the least sum of squared errors (the smallest of equal ones), each value to
// its nearest code (ties to even) from -8 to 7. A block of such values keeps its values. Blocks whose largest magnitude
// is below 2^-100 become 0.
uint16_t int4_of_floats(const float* values, uint8_t* codes);

}  // namespace signalbox
