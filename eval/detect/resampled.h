// Resampling a contrast: replicates of every expert's risk difference, under the bootstrap and under the null.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "eval/detect/contrast.h"

namespace signalbox::eval {

// What resampling finds for each row (layer, expert).
struct Resampled {
  std::vector<Interval> ci;    // 2.5 and 97.5 percentiles of the bootstrap
  std::vector<double> stable;  // share of bootstrap replicates among the top N by |rd|, ties to the lower row
  std::vector<int64_t> hits;   // null replicates with |rd| >= |observed| - 1e-12
};

// `observed` are the rows' risk differences. Of the options seed, resamples, stable_top, threads and on_progress
// matter.
Resampled resample_contrast(const ContrastCounts& counts, const std::vector<double>& observed,
                            const ContrastOptions& options);

}  // namespace signalbox::eval
