// What one way of doing something costs over another, from runs that take turns: what else the machine does falls on
// all ways alike, and an interval tells how much of it is left.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::tools {

// The time that a benchmark may take, from when this is made.
class Budget {
 public:
  explicit Budget(double seconds);  // 0: as long as it takes
  double left() const;              // seconds, below 0 where more were taken; infinite without a bound
  double seconds() const { return seconds_; }

 private:
  double seconds_, end_;
};

struct PairedCost {
  double cost = 0;        // time over that of the first way, less 1: the geometric mean of the rounds' ratios
  double lo = 0, hi = 0;  // 95 % interval by Student's t of the ratios' logarithms; NaN of fewer than two rounds
};

struct PairedCosts {
  int64_t rounds = 0;
  std::vector<PairedCost> ways;  // all but the first; empty without a round
};

// Runs every way once a round, in an order that turns from round to round and goes backwards every second time, until
// go_on(rounds, seconds of the last round) says false. run(way) returns the seconds that the way took.
PairedCosts measure_paired(int n_ways, const std::function<double(int)>& run,
                           const std::function<bool(int64_t, double)>& go_on);

}  // namespace signalbox::tools
