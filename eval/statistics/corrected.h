// Ends of a bootstrap interval that is corrected for bias, skew and few units.
#pragma once
#include <vector>

#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// BCa (Efron 1987) of an estimate from its replicates, with levels widened for few units: where a normal quantile z
// would stand, sqrt(n / (n - 1)) times Student's t does, n - 1 = `freedom` (Hesterberg, Am Stat 69, 2015): the
// bootstrap spreads sqrt((n - 1) / n) too little, and of few units a spread is not known exactly. `influences`: of each
// unit on the estimate (for a mean its residual), up to a common factor: their skew is corrected. NaN for freedom < 1,
// or no replicate.
Interval corrected_interval(std::vector<double> replicates, double estimate, const std::vector<double>& influences,
                            double freedom, double level = 0.95);

// The p at which an interval from `replicates` with levels widened in this way (without the corrections for bias and
// skew) has 0 for an end: two-sided, at least 2 / (B + 1) before widening. NaN for freedom < 1.
double widened_p(const std::vector<double>& replicates, double freedom);

// The percentile interval with widened levels. NaN for freedom < 1.
Interval widened_interval(std::vector<double> replicates, double freedom, double level = 0.95);

}  // namespace signalbox::eval
