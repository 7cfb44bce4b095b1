// Means over pairs or questions with intervals, p and q: what the tables of these studies have in common.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/csv.h"
#include "base/namespaces.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

struct Resamples {
  int64_t n = default_resamples;
  uint64_t seed = 0;
  int threads = 0;  // 0: all
};

struct PairedEstimate {
  double mean = 0;  // over values; NaN without any
  Interval ci;      // 95 %, BCa over units (corrected_means); NaN for fewer than two
  double p = 0;     // two-sided, of mean = 0: signs of units flipped; NaN as the mean
  double q = 0;     // Benjamini-Hochberg over the family
  int64_t n = 0;    // units
};
// Of each column; all of them are one family.
std::vector<PairedEstimate> estimate_family(std::span<const UnitValues> columns, const Resamples& resamples);
std::vector<PairedEstimate> estimate_family(std::span<const ClusteredValues> columns, const Resamples& resamples);

// Mean and interval of sum(numerators) / sum(denominators) over units: percentiles of units drawn with replacement,
// levels widened for few units. Undefined (NaN) where the denominators' mean is within two standard errors of 0.
MeanEstimate ratio_of_means(std::span<const double> numerators, std::span<const double> denominators,
                            const Resamples& resamples);

// The cells mean, ci_lo, ci_hi, p, q.
void append_estimate(CsvWriter& table, const PairedEstimate& estimate);

}  // namespace signalbox::eval
