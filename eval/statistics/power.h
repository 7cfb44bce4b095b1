// What a number of examples can show: the smallest effect that a test finds, and whether an effect is small enough.
#pragma once
#include <cstdint>

#include "eval/statistics/paired.h"

namespace signalbox::eval {

// A mean with its standard error over units: of the ratio sum / count, n / (n - 1) sum (s - mean c)^2 / (sum c)^2
// (Cochran, Sampling Techniques, 6.4); for one value per unit the usual standard error.
struct MeanError {
  double mean, error;  // error: NaN for fewer than two units
  int64_t n_units;
};
MeanError mean_error(const ClusteredValues& values);

// The smallest true mean that a two-sided t test at `alpha` with this standard error (n - 1 degrees of freedom) finds
// with probability `power`: the error times the noncentrality at which the test has that power (noncentral t, both
// tails). NaN where the error is NaN or 0: no spread was seen, so that nothing is known of it.
double minimal_detectable_effect(const MeanError& of, double power = 0.8, double alpha = 0.05);

// Two one-sided t tests (Schuirmann 1987): p of |true mean| >= margin. Small: the mean lies within the margin, which is
// the same as the 90 % interval lying within it where p < 0.05. NaN where the error is NaN or 0.
double equivalence_p(const MeanError& of, double margin);

}  // namespace signalbox::eval
