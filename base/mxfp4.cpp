#include "base/mxfp4.h"

#include <algorithm>

namespace signalbox {

uint8_t mxfp4_of_floats(const float* values, uint8_t* codes) {
  static constexpr float levels[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(values[i]));
  int exponent = 0;
  if (largest > 0) exponent = std::ilogb(largest) - 2;  // 4 <= largest / 2^exponent < 8
  if (largest > 0 && largest / std::ldexp(1.0f, exponent) > 6.5f) ++exponent;
  exponent = std::clamp(exponent, -127, 127);
  const float inverse = std::ldexp(1.0f, -exponent);
  for (int i = 0; i < 32; ++i) {
    const float size = std::fabs(values[i]) * inverse;
    int code = 0;
    while (code < 7 && size > (levels[code] + levels[code + 1]) / 2) ++code;
    if (values[i] < 0) code |= 8;
    if (i % 2 == 0) {
      codes[i / 2] = static_cast<uint8_t>(code);
    } else {
      codes[i / 2] |= static_cast<uint8_t>(code << 4);
    }
  }
  return static_cast<uint8_t>(exponent + 127);
}

}  // namespace signalbox
