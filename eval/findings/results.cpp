#include "eval/findings/results.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/no_number.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

namespace {

double defined(double value) { return std::isfinite(value) ? value : no_number; }

Estimate estimate_of(const MeanEstimate& mean) {
  return {defined(mean.mean), defined(mean.ci.lo), defined(mean.ci.hi), mean.n};
}

void check(const RunValues& run) {
  const std::string where = "results";
  if (run.clusters.size() != run.conditions.size())
    throw Error(where, "expected a cluster and a condition for every record, found " +
                           std::to_string(run.clusters.size()) + " and " + std::to_string(run.conditions.size()));
  if (run.resamples < 1) throw Error(where, "expected at least one resample, found " + std::to_string(run.resamples));
  std::set<std::string> names;
  for (const InterventionValues& intervention : run.interventions) {
    if (!names.insert(intervention.name).second)
      throw Error(where, "expected names of interventions to differ, found \"" + intervention.name + "\" twice");
    for (const auto& [metric, values] : intervention.metrics) {
      const std::string at = where + ": " + intervention.name + ": " + metric;
      if (std::find(run.metrics.begin(), run.metrics.end(), metric) == run.metrics.end())
        throw Error(at, "expected a metric of the run, found another");
      if (values.records.size() != values.values.size())
        throw Error(at, "expected a value for every record, found " + std::to_string(values.values.size()) + " for " +
                            std::to_string(values.records.size()));
      for (size_t i = 0; i < values.records.size(); ++i) {
        if (values.records[i] < 0 || values.records[i] >= static_cast<int64_t>(run.clusters.size()))
          throw Error(at, "expected records of the run, found index " + std::to_string(values.records[i]));
        if (i > 0 && values.records[i] <= values.records[i - 1])
          throw Error(at, "expected records in ascending order, found " + std::to_string(values.records[i]) +
                              " after " + std::to_string(values.records[i - 1]));
      }
    }
  }
  if (!names.contains(run.baseline))
    throw Error(where, "expected the baseline \"" + run.baseline + "\" among the interventions, found none");
  for (const InterventionValues& intervention : run.interventions)
    if (!intervention.control_of.empty() && !names.contains(intervention.control_of))
      throw Error(where, intervention.name + ": expected a control of an intervention of the run, found \"" +
                             intervention.control_of + "\"");
}

// Labels 0, 1, ... for equal strings.
std::vector<int64_t> label(const std::vector<std::string>& names) {
  std::map<std::string, int64_t> seen;
  std::vector<int64_t> out;
  for (const std::string& name : names)
    out.push_back(seen.emplace(name, static_cast<int64_t>(seen.size())).first->second);
  return out;
}

MetricValues values_of(const InterventionValues& intervention, const std::string& metric,
                       const std::vector<uint8_t>& kept) {
  MetricValues out;
  const auto found = intervention.metrics.find(metric);
  if (found == intervention.metrics.end()) return out;
  for (size_t i = 0; i < found->second.records.size(); ++i) {
    const int64_t record = found->second.records[i];
    if (!kept[record]) continue;
    out.records.push_back(record);
    out.values.push_back(found->second.values[i]);
  }
  return out;
}

ClusteredValues clustered(const MetricValues& values, const std::vector<int64_t>& cluster_of) {
  std::vector<int64_t> clusters;
  for (int64_t record : values.records) clusters.push_back(cluster_of[record]);
  return cluster_values(values.values, clusters);
}

// Exact two-sided McNemar p from paired values; NaN where one is neither 0 nor 1, or there is none.
double mcnemar_p(const std::vector<std::pair<double, double>>& pairs) {
  int64_t up = 0, down = 0;
  for (const auto& [mine, base] : pairs) {
    if ((mine != 0 && mine != 1) || (base != 0 && base != 1)) return no_number;
    up += mine > base;
    down += mine < base;
  }
  if (pairs.empty()) return no_number;
  if (up + down == 0) return 1;
  const boost::math::binomial_distribution<double> fair(static_cast<double>(up + down), 0.5);
  return std::min(1.0, 2 * boost::math::cdf(fair, static_cast<double>(std::min(up, down))));
}

// Everything over the records that are kept, except q and what compares with controls.
RecordFindings compare(const RunValues& run, size_t baseline, const std::vector<uint8_t>& kept, int n_threads) {
  const std::vector<int64_t> cluster_of = label(run.clusters);
  const size_t n_metrics = run.metrics.size();
  std::vector<ClusteredValues> columns, differences;
  std::vector<double> mcnemar;
  for (const InterventionValues& intervention : run.interventions)
    for (const std::string& metric : run.metrics) {
      const MetricValues mine = values_of(intervention, metric, kept);
      columns.push_back(clustered(mine, cluster_of));
      const MetricValues base = values_of(run.interventions[baseline], metric, kept);
      MetricValues difference;
      std::vector<std::pair<double, double>> pairs;
      for (size_t i = 0, b = 0; i < mine.records.size(); ++i) {
        while (b < base.records.size() && base.records[b] < mine.records[i]) ++b;
        if (b == base.records.size() || base.records[b] != mine.records[i]) continue;
        difference.records.push_back(mine.records[i]);
        difference.values.push_back(mine.values[i] - base.values[b]);
        pairs.emplace_back(mine.values[i], base.values[b]);
      }
      differences.push_back(clustered(difference, cluster_of));
      mcnemar.push_back(mcnemar_p(pairs));
    }
  const std::vector<MeanEstimate> means = bootstrap_means(columns, run.seed, run.resamples, n_threads);
  const std::vector<MeanEstimate> diffs = bootstrap_means(differences, run.seed, run.resamples, n_threads);
  const std::vector<double> p = sign_flip_ps(differences, run.seed, run.resamples, n_threads);
  RecordFindings out;
  for (size_t i = 0; i < run.interventions.size(); ++i) {
    out.means.emplace_back();
    out.contrasts.emplace_back(n_metrics);
    for (size_t m = 0; m < n_metrics; ++m) {
      const size_t at = i * n_metrics + m;
      out.means[i].push_back(estimate_of(means[at]));
      if (i == baseline) continue;
      Contrast& contrast = out.contrasts[i][m];
      contrast.difference = estimate_of(diffs[at]);
      contrast.p = defined(p[at]);
      contrast.mcnemar_p = mcnemar[at];
    }
  }
  return out;
}

// One family over all contrasts of all parts.
void set_q(const std::vector<RecordFindings*>& parts) {
  std::vector<double> p;
  for (const RecordFindings* part : parts)
    for (const auto& row : part->contrasts)
      for (const Contrast& contrast : row) p.push_back(contrast.p);
  const std::vector<double> q = benjamini_hochberg(p);
  size_t at = 0;
  for (RecordFindings* part : parts)
    for (auto& row : part->contrasts)
      for (Contrast& contrast : row) contrast.q = q[at++];
}

ControlBand band_of(std::vector<double> controls, double difference) {
  std::erase_if(controls, [](double value) { return !std::isfinite(value); });
  ControlBand out;
  out.differences.n = static_cast<int64_t>(controls.size());
  if (controls.empty()) return out;
  std::sort(controls.begin(), controls.end());
  double sum = 0;
  for (double value : controls) sum += value;
  out.differences.value = defined(sum / static_cast<double>(controls.size()));
  out.differences.lo = defined(quantile(controls, 0.025));
  out.differences.hi = defined(quantile(controls, 0.975));
  if (!std::isfinite(difference)) return out;
  // Differences that are equal but for rounding count as equal: a tie never makes an effect look special.
  const double bound = std::abs(difference) - 1e-12 * std::max(1.0, std::abs(difference));
  out.rank =
      1 + std::count_if(controls.begin(), controls.end(), [&](double value) { return std::abs(value) >= bound; });
  return out;
}

// The interventions that are controls of another, by that one's name and their kind.
using Controls = std::map<std::pair<std::string, ControlKind>, std::vector<size_t>>;

Controls controls_of(const RunValues& run) {
  Controls out;
  for (size_t i = 0; i < run.interventions.size(); ++i) {
    const Intervention& one = run.interventions[i];
    if (!one.control_of.empty() && one.control != ControlKind::none) out[{one.control_of, one.control}].push_back(i);
  }
  return out;
}

void set_bands(const RunValues& run, size_t baseline, RecordFindings& found) {
  const Controls controls = controls_of(run);
  for (size_t i = 0; i < run.interventions.size(); ++i) {
    if (i == baseline) continue;
    const auto of_kind = [&](ControlKind kind) {
      const auto list = controls.find({run.interventions[i].name, kind});
      return list == controls.end() ? std::vector<size_t>() : list->second;
    };
    const std::vector<size_t> random = of_kind(ControlKind::random), matched = of_kind(ControlKind::frequency_matched),
                              bottom = of_kind(ControlKind::bottom);
    for (size_t m = 0; m < run.metrics.size(); ++m) {
      Contrast& mine = found.contrasts[i][m];
      const auto band = [&](const std::vector<size_t>& list) {
        std::vector<double> differences;
        for (const size_t control : list) differences.push_back(found.contrasts[control][m].difference.value);
        return band_of(std::move(differences), mine.difference.value);
      };
      mine.random = band(random);
      if (!matched.empty()) mine.frequency_matched = band(matched);
      if (!bottom.empty()) mine.bottom = found.contrasts[bottom.front()][m].difference.value;
    }
  }
}

}  // namespace

RunFindings run_findings(const RunValues& run, int n_threads) {
  check(run);
  if (n_threads <= 0) n_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  size_t baseline = 0;
  while (run.interventions[baseline].name != run.baseline) ++baseline;

  RunFindings out;
  out.baseline = run.baseline;
  out.resamples = run.resamples;
  out.seed = run.seed;
  out.metrics = run.metrics;
  out.data = run.data;
  out.interventions.assign(run.interventions.begin(), run.interventions.end());
  out.all = compare(run, baseline, std::vector<uint8_t>(run.clusters.size(), 1), n_threads);
  set_q({&out.all});
  set_bands(run, baseline, out.all);

  std::vector<std::string> conditions;  // in order of first appearance
  for (const std::string& condition : run.conditions)
    if (!condition.empty() && std::find(conditions.begin(), conditions.end(), condition) == conditions.end())
      conditions.push_back(condition);
  if (conditions.size() < 2) return out;
  for (const std::string& condition : conditions) {
    std::vector<uint8_t> kept;
    for (const std::string& other : run.conditions) kept.push_back(other == condition);
    out.conditions.push_back({condition, compare(run, baseline, kept, n_threads)});
  }
  std::vector<RecordFindings*> family;
  for (ConditionFindings& condition : out.conditions) family.push_back(&condition.found);
  set_q(family);
  for (RecordFindings* part : family) set_bands(run, baseline, *part);
  return out;
}

}  // namespace signalbox::eval
