// Which row goes with which column so that the sum of their scores is the largest: exact, or greedy where exact would
// take too long.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// scores [n, n], row-major and finite. out[row] = column, a permutation whose sum is the largest (the first found of
// several). Shortest augmenting paths (Jonker and Volgenant 1987, with the bookkeeping of Crouse 2016): O(n^3) at
// worst, memory of a few vectors.
std::vector<int32_t> best_assignment(std::span<const float> scores, int64_t n);

// Rows take the best free column each (the lowest of equals), in the order of `order` [n]. `rows(first, count, out)`
// writes the scores [count, n] of rows order[first] ..; blocks of at most `block` rows are asked for. A lower bound.
std::vector<int32_t> greedy_assignment(std::span<const int32_t> order, int64_t block,
                                       const std::function<void(int64_t, int64_t, float*)>& rows);

}  // namespace signalbox::eval
