// Sizes and values at which the ops are tested that go through rows: norms, sums, clamps, copies.
#pragma once
#include <cstdint>
#include <limits>

#include "base/namespaces.h"

namespace signalbox::kernels::cases {

// Rows of `cols` elements, gap elements apart.
struct Rows {
  int64_t rows, cols, gap;
};
inline constexpr Rows rows[] = {
    {1, 1, 0},    {1, 4, 0},    {3, 7, 0},    {5, 8, 4},     {2, 9, 3},     {5, 15, 3},   {5, 16, 3},
    {5, 17, 3},   {4, 32, 1},   {1, 40, 8},   {6, 64, 0},    {5, 100, 3},   {33, 12, 0},  {9, 128, 0},
    {40, 129, 2}, {2, 130, 3},  {2, 512, 0},  {3, 513, 0},   {2, 1000, 3},  {3, 1028, 4}, {2, 1030, 6},
    {1, 2048, 0}, {2, 2048, 4}, {1, 5120, 0}, {1, 16384, 0}, {1, 16390, 0},
};

// What a careless comparison, minimum or product loses.
inline constexpr float special_values[] = {std::numeric_limits<float>::quiet_NaN(),
                                           std::numeric_limits<float>::infinity(),
                                           -std::numeric_limits<float>::infinity(),
                                           -0.f,
                                           1e-40f,
                                           3e38f};

}  // namespace signalbox::kernels::cases
