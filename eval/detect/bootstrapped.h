// Bootstrap of a contrast: replicates of every expert's risk difference, examples drawn with replacement.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "eval/detect/ratio_table.h"

namespace signalbox::eval {

// What the bootstrap finds for each row (layer, expert).
struct Bootstrapped {
  std::vector<Interval> ci;    // 2.5 and 97.5 percentiles
  std::vector<double> stable;  // share of replicates among the top N by |rd|, ties to the lower row
};

// Complete pairs are drawn among pairs, other records under A among those, and other records under B among those. Both
// results are NaN where a side has no two units of a kind: such a draw gives the same side every time. Of the options
// seed, resamples, stable_top and threads matter. `on_progress(done)` is called now and then and may throw.
Bootstrapped bootstrap_contrast(const ContrastCounts& counts, const ContrastOptions& options,
                                const std::function<void(int64_t)>& on_progress);
// The same of another number of each record and row, drawing the same examples: the difference of the two sides' ratios
// (0 where a replicate has no token), in units of the table's scales.
Bootstrapped bootstrap_contrast(const ContrastCounts& counts, const RatioTable& table, const ContrastOptions& options,
                                const std::function<void(int64_t)>& on_progress);

}  // namespace signalbox::eval
