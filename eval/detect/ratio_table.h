// What detection resamples: a whole number of each record and row (layer, expert), over that record's tokens. Sums of
// whole numbers are exact, so that no result depends on threads, blocks or instruction sets.
#pragma once
#include <cstdint>
#include <vector>

#include "eval/detect/contrast.h"

namespace signalbox::eval {

struct RatioTable {
  int64_t n_rows = 0;
  std::vector<int64_t> tokens;      // [record]
  std::vector<int32_t> numerators;  // [record][row]; magnitudes of a row add up to less than 2^31
  std::vector<double> scales;       // [row] what a numerator of 1 stands for; empty: 1
  double scale(int64_t row) const { return scales.empty() ? 1 : scales[static_cast<size_t>(row)]; }
};

// Tokens that selected the expert.
RatioTable selection_table(const ContrastCounts& counts);

// Sums of what the expert gave, in units of 2^-30 of the sum of their magnitudes over all records: rounded to that.
// Tokens: those of which it is defined. Must be recorded (ContrastCounts::has).
RatioTable contribution_ratio_table(const ContrastCounts& counts, Contribution which);

}  // namespace signalbox::eval
