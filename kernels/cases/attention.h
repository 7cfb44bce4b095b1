// Kinds of attention at which the op is tested (kernels/cases/products.h says how).
#pragma once
#include <cstdint>

#include "base/namespaces.h"

namespace signalbox::kernels::cases {

struct Attention {
  int64_t n_heads, n_kv_heads, d_key, d_value, window, block_size;
  bool sinks, latent;  // latent: values are the first d_value elements of the keys
  int64_t gap;         // elements between rows of a cache; a multiple of 8 leaves them aligned where the dims are
};

// Small ones of every kind.
inline constexpr Attention attentions[] = {
    {4, 4, 16, 16, 0, 16, false, false, 8},  // one head a key head
    {6, 2, 20, 12, 0, 8, false, false, 3},   // odd strides
    {10, 2, 24, 40, 0, 32, true, false, 0},  // groups of 5: rows of a device's tile stay empty
    {4, 2, 16, 16, 5, 4, true, false, 8},    // a window of a few keys, blocks before it gone
    {8, 1, 40, 24, 0, 32, false, true, 8},   // small latent heads
    {3, 3, 7, 5, 0, 1, false, false, 1},    {16, 1, 64, 64, 70, 16, true, false, 8},
    {20, 1, 24, 20, 0, 16, true, true, 2},  // more heads per key head than a device's small tile has rows
    {40, 1, 24, 20, 0, 16, true, true, 2},  {2, 2, 64, 64, 128, 16, true, false, 0},
};

// One of each class of head sizes for which a device has code of its own.
inline constexpr Attention head_classes[] = {
    {8, 1, 128, 128, 0, 32, false, false, 0}, {6, 2, 96, 104, 33, 32, true, false, 8},
    {4, 1, 72, 128, 0, 32, false, false, 4},  {2, 1, 192, 128, 0, 32, false, false, 0},
    {4, 1, 256, 256, 40, 32, true, false, 8}, {8, 1, 576, 512, 0, 32, false, true, 0},
    {4, 1, 264, 130, 20, 32, true, true, 1},
};

}  // namespace signalbox::kernels::cases
