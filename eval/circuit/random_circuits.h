// Random circuits to compare one with: as many experts of each layer, with nearly the same usage in all, as many heads
// of each layer, and as many parts of any other kind.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/scorer.h"

namespace signalbox::eval {

struct RandomCircuits {
  std::vector<NodeMask> circuits;  // with repetitions: draws are independent
  double usage = 0;                // of the experts of the circuit itself
  double mean_usage = 0;           // of theirs
  int64_t unmatched = 0;           // whose usage differs by more than usage_tolerance
};
inline constexpr double usage_tolerance = 0.1;

// The n draws from `draw` on, each a function of seed and its number. Experts that never run are drawn only where the
// circuit has some. Of 200 tries the first within the tolerance is taken, or else the nearest; the circuit itself is
// none, unless there is no other.
RandomCircuits draw_random_circuits(const CircuitScorer& scorer, const NodeMask& circuit, uint64_t seed, int64_t n,
                                    int64_t draw = 0);

}  // namespace signalbox::eval
