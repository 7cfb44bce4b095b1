// Groups of equal size of vectors that point the same way: K-means in which every group has as many members.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "train/namespaces.h"

namespace signalbox::train {

// costs [n, k], finite; k divides n. [item] its group, n / k items each, so that the sum of costs is the least: exact,
// by shortest augmenting paths between groups (the transportation problem). Of several, one that is a function of the
// costs alone.
std::vector<int32_t> balanced_assignment(std::span<const double> costs, int64_t n, int64_t k);

// gram [n, n]: inner products of n vectors. [vector] its group of n / k members, numbered by their first member. The
// sum of squared distances to the groups' means is a local minimum: the best of `restarts` K-means with balanced
// assignments, begun by k-means++ from the seed.
std::vector<int32_t> balanced_clusters(std::span<const double> gram, int64_t n, int64_t k, uint64_t seed,
                                       ThreadPool& pool, int64_t restarts = 4);

}  // namespace signalbox::train
