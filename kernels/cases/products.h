// Sizes at which the ops of dense products are tested: on the CPU against double (tests/ops), on a device against the
// CPU (tests/device). Written once, so that a size that was hard for one is tried on all. They stand here and not with
// the tests because they belong to the ops, and because tools may read them too.
#pragma once
#include <cstdint>

#include "base/namespaces.h"

namespace signalbox::kernels::cases {

// out [m, n] = x [m, k] * w [n, k]^T + bias. Rows of x and out lie k + x_gap and n + out_gap elements apart.
struct Product {
  int64_t m, n, k, x_gap, out_gap;
  bool bias;
};
inline constexpr Product products[] = {
    // A device takes up to 16, 17 to 64 and more rows in tiles of other sizes; 2100 rows are more row tiles than share
    // a
    // raster group.
    {1, 1, 1, 0, 0, false},
    {1, 40, 130, 6, 1, true},
    {9, 33, 72, 8, 3, false},
    {16, 70, 257, 3, 0, true},
    {17, 31, 64, 0, 2, true},
    {20, 300, 40, 5, 5, false},
    {33, 65, 100, 4, 1, true},
    {64, 129, 24, 8, 0, false},
    {65, 390, 33, 7, 1, true},
    {130, 258, 96, 0, 0, true},
    {131, 257, 200, 8, 4, false},
    {2100, 130, 8, 0, 0, true},
    {40, 8, 1, 1, 2, false},
    {200, 513, 31, 1, 1, false},
    {5, 66, 520, 0, 0, true},
    // The CPU takes 16 inputs at a time, a few rows and columns together, and long sums in pieces.
    {1, 7, 16, 0, 3, false},
    {2, 9, 33, 3, 0, true},
    {3, 5, 15, 3, 3, false},
    {4, 64, 48, 0, 0, true},
    {5, 6, 31, 1, 3, false},
    {6, 4, 16, 0, 1, true},
    {7, 13, 65, 3, 3, false},
    {13, 66, 96, 8, 0, true},
    {33, 130, 64, 0, 3, false},
    {1, 257, 512, 0, 0, true},
    {3, 40, 1056, 3, 3, false},
    {17, 37, 544, 0, 1, true},
    {200, 70, 130, 3, 0, false},
    {20, 5, 4133, 3, 3, true},
    {12, 30, 64, 8, 8, false},
    {11, 19, 40, 0, 3, true},
    {0, 8, 16, 0, 0, false},
};

// hidden [m, n] = activation(x * gate^T, x * up^T), gate and up [n, k].
struct Gated {
  int64_t m, n, k, x_gap, out_gap;
};
inline constexpr Gated gated[] = {
    {1, 37, 48, 3, 1},    {12, 16, 130, 8, 2}, {40, 70, 33, 0, 0},  {66, 260, 40, 8, 3},
    {129, 129, 64, 0, 4}, {9, 70, 33, 3, 3},   {200, 19, 64, 0, 1}, {1, 40, 9, 0, 5},
    {3, 8, 130, 3, 5},    {8, 21, 264, 0, 5},  {5, 3, 1025, 0, 5},  {0, 4, 16, 0, 0},
};

// Latent attention: queries absorbed into and values expanded from kv_b [heads * (nope + value), latent].
struct Latent {
  int64_t tokens, heads, nope, rope, value, latent, gap;
};
inline constexpr Latent latents[] = {
    {1, 2, 8, 4, 6, 20, 0},       {11, 3, 17, 6, 17, 64, 3}, {40, 2, 24, 0, 24, 136, 8}, {70, 3, 130, 5, 33, 41, 1},
    {135, 2, 40, 8, 140, 152, 0}, {7, 3, 16, 6, 17, 64, 3},  {130, 2, 24, 8, 24, 40, 0}, {1, 4, 32, 16, 32, 512, 0},
    {1, 2, 16, 4, 8, 64, 3},      {8, 3, 130, 6, 17, 72, 3}, {3, 2, 33, 0, 40, 13, 3},   {2, 1, 1, 2, 1, 200, 1},
    {5, 4, 24, 8, 16, 128, 3},
};

}  // namespace signalbox::kernels::cases
