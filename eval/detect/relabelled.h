// The null of a contrast: conditions dealt out anew, and what each expert's statistic is then.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "eval/detect/ratio_table.h"

namespace signalbox::eval {

// What relabelling finds for each row (layer, expert). The statistic t is the risk difference divided by its own
// standard error (eval/detect/studentised.h); a hit is a replicate with |t| at least the observed one, to 10^-9 of it.
struct Relabelled {
  std::vector<double> squared_t;  // observed
  std::vector<int64_t> hits;
  // Of step-down max-T (Westfall and Young 1993, algorithm 4.1): replicates in which the largest |t| of the rows whose
  // observed |t| is not above this row's is a hit; as they stand, not yet made monotone.
  std::vector<int64_t> family_hits;
};

// Where there are complete pairs, the sides of each are swapped with probability 1/2, and other records take no part;
// where there are none, conditions are permuted over records. Of the options seed, resamples and threads matter.
// `on_progress(done)` is called now and then and may throw. Throws Error for 2^31 tokens or more.
Relabelled relabel_contrast(const ContrastCounts& counts, const ContrastOptions& options,
                            const std::function<void(int64_t)>& on_progress);
// The same of another number of each record and row, under the same relabellings.
Relabelled relabel_contrast(const ContrastCounts& counts, const RatioTable& table, const ContrastOptions& options,
                            const std::function<void(int64_t)>& on_progress);

// The smallest p that the number of distinct relabellings allows: of n pairs 2^(1 - n), of records the inverse of the
// number of ways to choose those under A (its half where both sides have as many).
double smallest_relabelling_p(const ContrastUnits& units);

}  // namespace signalbox::eval
