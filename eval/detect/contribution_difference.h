// How much more an expert gives under one condition than under another (expert.norm, expert.update_share,
// expert.direct), beside how much more often it is selected.
#pragma once
#include <functional>
#include <vector>

#include "eval/detect/contrast.h"
#include "eval/detect/risk_difference.h"

namespace signalbox::eval {

// Fills RiskDifference::contributions of `rows`, which are all rows of the counts in order, with what is recorded:
// value, the difference A - B of the mean per token (0 where the expert is not selected; tokens of which it is not
// defined do not count); its 95 % percentile interval over the same bootstrap draws as that of rd; and p over the same
// relabellings, the difference divided by its own standard error in each; q over all rows. Undefined where no token of
// a side counts. on_progress(done) counts to 2 * resamples for each that is recorded.
void add_contribution_differences(const ContrastCounts& counts, const ContrastOptions& options,
                                  std::vector<RiskDifference>& rows, const std::function<void(int64_t)>& on_progress);

}  // namespace signalbox::eval
