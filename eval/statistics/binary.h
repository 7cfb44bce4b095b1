// Values that are 0 or 1, and paired differences of such values, where records stand in clusters.
#pragma once
#include <cstdint>
#include <span>

#include "eval/statistics/paired.h"

namespace signalbox::eval {

// Exact two-sided p of "every unit's sum could as well have the other sign", for sums that are whole numbers: the share
// of all sign patterns with a total at least as far from 0, counted and not drawn. For units of one record it is
// McNemar's (exact_change_p). 1 where all sums are 0; NaN for no unit.
double exact_sign_flip_p(std::span<const double> sums);

// How often paired 0/1 values changed, of how many records. With clusters of records, numbers of as many independent
// records as have the same variance: all three divided by the design effect.
struct ClusteredChanges {
  double up = 0, down = 0, n = 0;
};

// `differences` are those of `values` (each -1, 0 or 1), clustered. The design effect is the variance of the mean over
// clusters by that over records, at least 1; without any change the mean number of records in a cluster.
ClusteredChanges clustered_changes(std::span<const double> values, const ClusteredValues& differences);

// The standard error with one change up and one down added (Bonett and Price 2012), which is not 0 without any change.
double paired_standard_error(const ClusteredChanges& changes);

inline constexpr double normal_quantile = 1.959963984540054;  // of 0.975

// Wilson's score interval of the mean of 0/1 values, with the design effect as above.
Interval rate_interval(const ClusteredValues& values, double z);

}  // namespace signalbox::eval
