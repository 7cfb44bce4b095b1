// MXFP4 by bits: blocks of 32 values, two e2m1 codes a byte (low nibble first), and one exponent byte s for them all:
// value = e2m1 * 2^(s - 127).
#pragma once
#include <cmath>
#include <cstdint>

namespace signalbox {

inline constexpr int64_t mxfp4_block = 32;

// values [32] from codes [16] and scale.
inline void floats_of_mxfp4(const uint8_t* codes, uint8_t scale, float* values) {
  static constexpr float levels[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const float factor = std::ldexp(1.0f, scale - 127);
  for (int i = 0; i < 32; ++i) {
    const int code = codes[i / 2] >> (i % 2 == 0 ? 0 : 4) & 15;
    values[i] = (code & 8 ? -levels[code & 7] : levels[code & 7]) * factor;
  }
}

// codes [16] and the scale that is returned from values [32]: the scale maps the largest to 6 at most (the largest
// e2m1, 6.5 where that loses less), each value takes the nearest code. A block of such values keeps its values.
uint8_t mxfp4_of_floats(const float* values, uint8_t* codes);

}  // namespace signalbox
