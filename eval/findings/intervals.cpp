#include "eval/findings/intervals.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "eval/score/scorer.h"
#include "eval/statistics/binary.h"
#include "eval/statistics/changes.h"
#include "eval/statistics/power.h"

namespace signalbox::eval {

double defined(double value) { return std::isfinite(value) ? value : no_number; }

void reach_zero(double& lo, double& hi) {
  if (!std::isfinite(lo)) return;
  lo = std::min(lo, 0.0);
  hi = std::max(hi, 0.0);
}

namespace {

Estimate estimate_of(const MeanEstimate& mean) {
  return {defined(mean.mean), defined(mean.ci.lo), defined(mean.ci.hi), mean.n};
}

void set_interval(Estimate& estimate, const Interval& interval) {
  estimate.lo = defined(interval.lo);
  estimate.hi = defined(interval.hi);
}

std::vector<ClusteredValues> clustered(std::span<const Column> columns) {
  std::vector<ClusteredValues> out;
  for (const Column& column : columns) out.push_back(column.clustered());
  return out;
}

}  // namespace

bool tested_on_logarithms(std::string_view metric) { return metric == "ppl"; }

bool null_is_possible(std::string_view metric) {
  const Scorer* scorer = find_scorer(metric);
  return !scorer || !scorer->against_baseline;
}

std::vector<Estimate> mean_estimates(std::span<const Column> columns, uint64_t seed, int64_t resamples, int n_threads) {
  const std::vector<ClusteredValues> units = clustered(columns);
  std::vector<Estimate> out;
  for (const MeanEstimate& mean : corrected_means(units, seed, resamples, n_threads)) out.push_back(estimate_of(mean));
  for (size_t c = 0; c < columns.size(); ++c)
    if (columns[c].zero_one && units[c].sums.size() > 1) set_interval(out[c], rate_interval(units[c], normal_quantile));
  return out;
}

std::vector<DifferenceFindings> difference_findings(std::span<const DifferenceQuestion> questions, uint64_t seed,
                                                    int64_t resamples, int n_threads) {
  std::vector<ClusteredValues> units, tested;
  for (const DifferenceQuestion& question : questions) {
    units.push_back(question.differences.clustered());
    tested.push_back(question.tested ? question.tested->clustered() : units.back());
  }
  const std::vector<MeanEstimate> means = corrected_means(units, seed, resamples, n_threads);
  const std::vector<double> p = sign_flip_ps(tested, seed, resamples, n_threads);
  std::vector<DifferenceFindings> out(questions.size());
  std::map<int64_t, double> errors_to_see;  // by number of units: so many standard errors are found
  for (size_t q = 0; q < questions.size(); ++q) {
    const DifferenceQuestion& question = questions[q];
    DifferenceFindings& found = out[q];
    found.difference = estimate_of(means[q]);
    found.units = static_cast<int64_t>(units[q].sums.size());
    found.p = defined(p[q]);
    MeanError error = mean_error(units[q]);
    bool rejects = found.p <= test_level;
    double of_equivalence = no_number;
    if (question.differences.zero_one && found.units > 1) {
      const auto [up, down, n] = clustered_changes(question.differences.values, units[q]);
      set_interval(found.difference, effective_change_interval(up, down, n));
      rejects = rejects && exact_sign_flip_p(units[q].sums) <= test_level;
      error.error = paired_standard_error({up, down, n});
      if (question.margin) of_equivalence = effective_change_equivalence_p(up, down, n, *question.margin);
    } else if (question.margin) {
      of_equivalence = equivalence_p(error, *question.margin);
    }
    if (!rejects && !question.tested) reach_zero(found.difference.lo, found.difference.hi);
    const auto [seen, fresh] = errors_to_see.try_emplace(found.units);
    if (fresh) seen->second = minimal_detectable_effect({0, 1, found.units});
    found.detectable = error.error > 0 ? defined(seen->second * error.error) : no_number;
    if (question.margin) found.equivalence = Equivalence{*question.margin, defined(of_equivalence)};
  }
  return out;
}

}  // namespace signalbox::eval
