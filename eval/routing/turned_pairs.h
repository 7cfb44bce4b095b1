// The null of pairs of experts across layers: the second layer's routes of every sample turned in a circle.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

// [cells of `observed`]: in how many of the replicates do expert a of a layer and b of the next share at least as many
// tokens as `observed` has, token t of a sample being held against the token Shuffles::shift(replicate) places further
// on? Exact: every replicate's counts are those of the turned routes. Cells that `observed` has 0 of stay 0.
//
// One layer at a time: the tokens of each expert a are listed, the second layer's routes are rows of bytes, one for
// each expert, and the counts of a with all experts at once are the sum of the rows that its tokens meet. Work:
// tokens x slots x experts / 16 additions of 16 bytes a layer and replicate. Memory: a byte a slot (two from 255
// experts on) of the samples at hand, at least the longest one, and 256 MB of counts.
std::vector<int64_t> turned_pair_hits(const TraceSet& set, const RouteOptions& options, const char* table,
                                      const PairCounts& observed);

}  // namespace signalbox::eval
