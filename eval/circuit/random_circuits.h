// Random circuits to compare one with: as many experts of each layer, with nearly the same usage in all, as many heads
// of each layer, and as many parts of any other kind; where parts are told apart by position, at each of them.
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

// What they have in common with the circuit, for files.
inline const char* matched_text(bool by_position) {
  return by_position ? "experts, heads and other parts of each layer and position by number, experts by usage in all"
                     : "experts, heads and other parts of each layer by number, experts by usage in all";
}

}  // namespace signalbox::eval
