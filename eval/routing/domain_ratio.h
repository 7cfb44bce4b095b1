// Which domain takes to a thing (an expert, a pipeline) most, and whether that is more than chance: rate ratios with
// intervals and a null that knows that the domain was chosen.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// Counts of `n_items` things over units that have a domain and tokens.
struct DomainCounts {
  size_t n_items = 0;
  std::vector<std::string> domains;
  std::vector<size_t> domain_of;             // [units] index into domains
  std::vector<int64_t> tokens;               // [units] > 0
  std::vector<std::vector<int32_t>> counts;  // [units][n_items]
};

// Tokens `here` of n_here against tokens `there` of n_there: the ratio of the two rates. Of none there, half a token is
// counted, so that a thing of one domain alone has a ratio. NaN where there is none in either, or no token on a side.
double rate_ratio(double here, double n_here, double there, double n_there);

struct DomainRatio {
  size_t domain = 0;  // of the highest rate ratio against all other domains together, of equal ones the first
  // NaN: with fewer than two domains, and where no token has the thing. ci: percentiles of a bootstrap of units within
  // their domain, levels widened for few units (widened_interval; degrees of freedom: the smaller side's units less 1).
  double ratio = no_number, ci_lo = no_number, ci_hi = no_number;
  // Domains permuted over units: highest ratio of any domain at least as large, (1 + hits) / (1 + resamples). Where
  // none of the resamples reaches it further ones are drawn, 40 in all for each item (fewer with many units), and p is
  // of all of them: with as many items as a model has experts q could not be small else. P(p <= a) <= a holds for both
  // stages: where a is below 1 / (1 + resamples) by the second alone, above by the first, whose order the second keeps.
  double p = no_number;
  double effective_domains = no_number;  // exp(entropy of the rates over domains)
  std::vector<Interval> by_domain;       // [domains] the interval of each one's ratio
};
// [n_items]. Equal results for any number of threads.
std::vector<DomainRatio> domain_ratios(const DomainCounts& of, uint64_t seed, int64_t resamples, int threads,
                                       const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace signalbox::eval
