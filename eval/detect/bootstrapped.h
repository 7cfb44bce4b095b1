// Bootstrap of a contrast: replicates of every expert's risk difference, examples drawn with replacement.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "eval/detect/contrast.h"

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

}  // namespace signalbox::eval
