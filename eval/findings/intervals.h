// Which interval and which test a metric gets: the one place that decides it (docs/reading-results.md says it to
// readers).
//
// - fewer than two units: no interval
// - values that are 0 or 1: Wilson's score interval of the rate
// - differences of such values: the exact interval of changes (changes.h); in pairs, of as many records as have the
// same
//   variance
// - all others: BCa bootstrap over units, widened for few of them
//
// Differences are tested by sign flips over units; where that does not reject at 0.05 (for differences of 0/1 values
// also where the exact test does not), the interval is widened to hold 0. Perplexities differ by factors: their test is
// that of their logarithms, and has no such bearing on the interval of the plain differences.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/findings/findings.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

// no_number for what is not finite.
double defined(double value);

// An interval never excludes 0 where its test does not reject.
inline constexpr double test_level = 0.05;
void reach_zero(double& lo, double& hi);

// Whether p of the metric's differences is that of differences of logarithms.
bool tested_on_logarithms(std::string_view metric);
// Whether it can happen that an intervention leaves the metric's mean as it is. It cannot where a value compares with
// the baseline, whose own value then is the best there is.
bool null_is_possible(std::string_view metric);

// Values of one metric, record by record, with the unit of each (a pair, or a record).
struct Column {
  std::vector<double> values;
  std::vector<int64_t> units;  // labels >= 0
  bool zero_one = true;        // all values are 0 or 1; of differences: all values on both sides
  ClusteredValues clustered() const { return cluster_values(values, units); }
};

std::vector<Estimate> mean_estimates(std::span<const Column> columns, uint64_t seed, int64_t resamples, int n_threads);

struct DifferenceFindings {
  Estimate difference;
  int64_t units = 0;
  double p = no_number;
  double detectable = no_number;
  std::optional<Equivalence> equivalence;
};

// `tested`: the column whose test is p's, the same one but for logarithms. `margin`: of equivalence; none: not asked.
struct DifferenceQuestion {
  Column differences;
  std::optional<Column> tested;  // none: `differences`
  std::optional<double> margin;
};
std::vector<DifferenceFindings> difference_findings(std::span<const DifferenceQuestion> questions, uint64_t seed,
                                                    int64_t resamples, int n_threads);

}  // namespace signalbox::eval
