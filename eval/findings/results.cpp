#include "eval/findings/results.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <thread>

#include "base/error.h"
#include "eval/statistics/paired.h"

namespace signalbox {

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

json::Value number(double value) { return std::isfinite(value) ? json::Value(value) : json::Value(nullptr); }

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
    if ((mine != 0 && mine != 1) || (base != 0 && base != 1)) return nan;
    up += mine > base;
    down += mine < base;
  }
  if (pairs.empty()) return nan;
  if (up + down == 0) return 1;
  const boost::math::binomial_distribution<double> fair(static_cast<double>(up + down), 0.5);
  return std::min(1.0, 2 * boost::math::cdf(fair, static_cast<double>(std::min(up, down))));
}

struct Contrast {
  MeanEstimate difference;
  double p = nan, q = nan, mcnemar = nan;
};

// Statistics over some of the records: [intervention][metric]. The baseline's contrasts are empty.
struct Findings {
  std::vector<std::vector<MeanEstimate>> means;
  std::vector<std::vector<Contrast>> contrasts;
};

Findings find(const RunValues& run, size_t baseline, const std::vector<uint8_t>& kept, int n_threads) {
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
  Findings out;
  for (size_t i = 0; i < run.interventions.size(); ++i) {
    out.means.emplace_back(means.begin() + static_cast<int64_t>(i * n_metrics),
                           means.begin() + static_cast<int64_t>((i + 1) * n_metrics));
    out.contrasts.emplace_back(n_metrics);
    for (size_t m = 0; m < n_metrics && i != baseline; ++m) {
      const size_t at = i * n_metrics + m;
      out.contrasts[i][m] = {diffs[at], p[at], nan, mcnemar[at]};
    }
  }
  return out;
}

// One family over all contrasts of all parts.
void set_q(std::vector<Findings*> parts) {
  std::vector<double> p;
  for (const Findings* part : parts)
    for (const auto& row : part->contrasts)
      for (const Contrast& contrast : row) p.push_back(contrast.p);
  const std::vector<double> q = benjamini_hochberg(p);
  size_t at = 0;
  for (Findings* part : parts)
    for (auto& row : part->contrasts)
      for (Contrast& contrast : row) contrast.q = q[at++];
}

// Where a difference stands among those of its controls.
struct ControlBand {
  double mean = nan, lo = nan, hi = nan;
  std::optional<int64_t> rank;
  int64_t n = 0;
};

ControlBand band_of(std::vector<double> controls, double difference) {
  std::erase_if(controls, [](double value) { return !std::isfinite(value); });
  ControlBand out;
  out.n = static_cast<int64_t>(controls.size());
  if (controls.empty()) return out;
  std::sort(controls.begin(), controls.end());
  double sum = 0;
  for (double value : controls) sum += value;
  out.mean = sum / static_cast<double>(controls.size());
  out.lo = quantile(controls, 0.025);
  out.hi = quantile(controls, 0.975);
  if (!std::isfinite(difference)) return out;
  // Differences that are equal but for rounding count as equal: a tie never makes an effect look special.
  const double bound = std::abs(difference) - 1e-12 * std::max(1.0, std::abs(difference));
  out.rank =
      1 + std::count_if(controls.begin(), controls.end(), [&](double value) { return std::abs(value) >= bound; });
  return out;
}

json::Value rank_value(const ControlBand& band) { return band.rank ? json::Value(*band.rank) : json::Value(nullptr); }

class Writer {
 public:
  Writer(const RunValues& run, size_t baseline) : run_(run), baseline_(baseline) {
    for (size_t i = 0; i < run.interventions.size(); ++i) {
      const InterventionValues& control = run.interventions[i];
      if (!control.control_of.empty() && control.control != ControlKind::none)
        controls_[{control.control_of, control.control}].push_back(i);
    }
  }

  void write(json::Value& out, const Findings& found) const {
    json::Value means = json::Value::object(), contrasts = json::Value::object();
    for (size_t i = 0; i < run_.interventions.size(); ++i) {
      json::Value by_metric = json::Value::object(), differences = json::Value::object();
      for (size_t m = 0; m < run_.metrics.size(); ++m) {
        by_metric.append_member(run_.metrics[m], estimate(found.means[i][m], "mean"));
        if (i != baseline_) differences.append_member(run_.metrics[m], contrast(found, i, m));
      }
      means.append_member(run_.interventions[i].name, std::move(by_metric));
      if (i != baseline_) contrasts.append_member(run_.interventions[i].name, std::move(differences));
    }
    out.append_member("interventions", std::move(means));
    out.append_member("contrasts", std::move(contrasts));
  }

 private:
  static json::Value estimate(const MeanEstimate& value, const char* name) {
    json::Value out = json::Value::object();
    out.append_member(name, number(value.mean));
    out.append_member("ci_lo", number(value.ci.lo));
    out.append_member("ci_hi", number(value.ci.hi));
    out.append_member("n", value.n);
    return out;
  }

  std::vector<double> differences_of_controls(const Findings& found, size_t i, size_t m, ControlKind kind) const {
    std::vector<double> out;
    const auto list = controls_.find({run_.interventions[i].name, kind});
    if (list != controls_.end())
      for (size_t control : list->second) out.push_back(found.contrasts[control][m].difference.mean);
    return out;
  }

  json::Value contrast(const Findings& found, size_t i, size_t m) const {
    const Contrast& mine = found.contrasts[i][m];
    const double difference = mine.difference.mean;
    const ControlBand random = band_of(differences_of_controls(found, i, m, ControlKind::random), difference);
    json::Value out = json::Value::object();
    out.append_member("diff", number(difference));
    out.append_member("ci_lo", number(mine.difference.ci.lo));
    out.append_member("ci_hi", number(mine.difference.ci.hi));
    out.append_member("p", number(mine.p));
    out.append_member("q", number(mine.q));
    out.append_member("control_mean", number(random.mean));
    out.append_member("control_lo", number(random.lo));
    out.append_member("control_hi", number(random.hi));
    out.append_member("control_rank", rank_value(random));
    out.append_member("n_controls", random.n);
    out.append_member("n", mine.difference.n);
    out.append_member("mcnemar_p", number(mine.mcnemar));
    const std::string& name = run_.interventions[i].name;
    if (controls_.contains({name, ControlKind::frequency_matched})) {
      const ControlBand band =
          band_of(differences_of_controls(found, i, m, ControlKind::frequency_matched), difference);
      json::Value matched = json::Value::object();
      matched.append_member("mean", number(band.mean));
      matched.append_member("lo", number(band.lo));
      matched.append_member("hi", number(band.hi));
      matched.append_member("rank", rank_value(band));
      matched.append_member("n", band.n);
      out.append_member("frequency_matched", std::move(matched));
    }
    if (controls_.contains({name, ControlKind::bottom}))
      out.append_member("bottom_diff", number(differences_of_controls(found, i, m, ControlKind::bottom).front()));
    return out;
  }

  const RunValues& run_;
  const size_t baseline_;
  std::map<std::pair<std::string, ControlKind>, std::vector<size_t>> controls_;
};

const char* control_name(ControlKind kind) {
  switch (kind) {
    case ControlKind::random: return "random";
    case ControlKind::frequency_matched: return "frequency_matched";
    case ControlKind::bottom: return "bottom";
    case ControlKind::none: break;
  }
  return nullptr;
}

json::Value about(const RunValues& run) {
  json::Value out = json::Value::object();
  for (const InterventionValues& intervention : run.interventions) {
    json::Value one = json::Value::object();
    one.append_member("description", intervention.description);
    const char* kind = control_name(intervention.control);
    one.append_member("control_of", kind ? json::Value(intervention.control_of) : json::Value(nullptr));
    one.append_member("control", kind ? json::Value(kind) : json::Value(nullptr));
    json::Value grid = json::Value::object();
    for (const auto& [key, value] : intervention.grid) grid.append_member(key, value);
    one.append_member("grid", std::move(grid));
    out.append_member(intervention.name, std::move(one));
  }
  return out;
}

}  // namespace

json::Value metrics_json(const RunValues& run, int n_threads) {
  check(run);
  if (n_threads <= 0) n_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  size_t baseline = 0;
  while (run.interventions[baseline].name != run.baseline) ++baseline;
  const Writer writer(run, baseline);

  json::Value out = json::Value::object(), metrics = json::Value::array();
  for (const std::string& metric : run.metrics) metrics.push_back(metric);
  out.append_member("schema", "signalbox.metrics/1");
  out.append_member("baseline", run.baseline);
  out.append_member("resamples", run.resamples);
  out.append_member("seed", run.seed);
  out.append_member("metrics", std::move(metrics));
  out.append_member("about", about(run));
  Findings all = find(run, baseline, std::vector<uint8_t>(run.clusters.size(), 1), n_threads);
  set_q({&all});
  writer.write(out, all);

  std::vector<std::string> conditions;  // in order of first appearance
  for (const std::string& condition : run.conditions)
    if (!condition.empty() && std::find(conditions.begin(), conditions.end(), condition) == conditions.end())
      conditions.push_back(condition);
  if (conditions.size() < 2) return out;
  std::vector<Findings> parts;
  std::vector<Findings*> family;
  parts.reserve(conditions.size());
  for (const std::string& condition : conditions) {
    std::vector<uint8_t> kept;
    for (const std::string& other : run.conditions) kept.push_back(other == condition);
    parts.push_back(find(run, baseline, kept, n_threads));
    family.push_back(&parts.back());
  }
  set_q(family);
  json::Value by_condition = json::Value::object();
  for (size_t c = 0; c < conditions.size(); ++c) {
    json::Value one = json::Value::object();
    writer.write(one, parts[c]);
    by_condition.append_member(conditions[c], std::move(one));
  }
  out.append_member("conditions", std::move(by_condition));
  return out;
}

}  // namespace signalbox
