// The null of everything that speaks of neighbours: the tokens of each sample that count, in an order drawn at random.
// Which tokens a sample has, and so how often it selects each expert, stays as it is.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

// Orders of the tokens of one sample, drawn by (seed, sample, replicate).
class Shuffles {
 public:
  Shuffles(uint64_t seed, size_t sample, int64_t n_tokens);
  // [n] which token stands in each place. Valid until the next call.
  const std::vector<int64_t>& order(int64_t replicate);
  // How far a circle of the tokens is turned: 0 .. n - 1.
  int64_t shift(int64_t replicate);

 private:
  uint64_t seed_;
  std::vector<int64_t> order_;
  std::vector<uint32_t> bits_;
};

// Replicates of a null that need `cells` counts each, in turns that keep to some hundred megabytes: for each turn
// count(first, n, counts, routes), which adds to counts [n, cells], is called for every sample, then
// done(first, n, counts). A turn's samples are shared out among threads in parts that do not depend on their number.
// Each thread holds the routes of one whole sample, 4 bytes a slot; with `top_alone` one slot a layer, that of
// SampleRoutes::top_expert.
void run_null(const TraceSet& set, const RouteOptions& options, const char* table, size_t cells,
              const std::function<void(int64_t first, int64_t n, int32_t* counts, const SampleRoutes& routes)>& count,
              const std::function<void(int64_t first, int64_t n, const int32_t* counts)>& done, bool top_alone = false);

}  // namespace signalbox::eval
