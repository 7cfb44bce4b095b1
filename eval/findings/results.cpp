#include "eval/findings/results.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <thread>

#include "base/error.h"
#include "base/no_number.h"
#include "eval/findings/edit_totals.h"
#include "eval/findings/intervals.h"
#include "eval/statistics/changes.h"
#include "eval/statistics/effects.h"

namespace signalbox::eval {

namespace {

// Up to so many main interventions are compared with each other.
constexpr size_t most_versus = 20;

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

bool is_zero_one(double value) { return value == 0 || value == 1; }

// Exact two-sided McNemar p from paired values; NaN where one is neither 0 nor 1, or there is none.
double mcnemar_p(const std::vector<std::pair<double, double>>& pairs) {
  int64_t up = 0, down = 0;
  for (const auto& [mine, base] : pairs) {
    if (!is_zero_one(mine) || !is_zero_one(base)) return no_number;
    up += mine > base;
    down += mine < base;
  }
  if (pairs.empty()) return no_number;
  return exact_change_p({up, down, static_cast<int64_t>(pairs.size())});
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

// A run's values, seen from a set of its records.
class Comparer {
 public:
  Comparer(const RunValues& run, size_t baseline, int n_threads)
      : run_(run), baseline_(baseline), n_threads_(n_threads), cluster_of_(label(run.clusters)) {
    for (const Intervention& one : run.interventions) main_.push_back(one.is_main() && one.name != run.baseline);
    controls_ = controls_of(run);
  }

  // Everything over the records that are kept, except q and the places among controls.
  RecordFindings compare(const std::vector<uint8_t>& kept) const {
    RecordFindings out;
    means(kept, out);
    differences(kept, out);
    versus(kept, out);
    against(kept, out);
    for (const InterventionValues& one : run_.interventions) out.edits.push_back(total_edits(one, kept));
    return out;
  }

  // The difference of each main intervention's effects under two conditions.
  void between(const std::string& a, const std::string& b, RecordFindings& out) const {
    std::vector<uint8_t> of_a, of_b, either;
    for (const std::string& condition : run_.conditions) {
      of_a.push_back(condition == a);
      of_b.push_back(condition == b);
      either.push_back(of_a.back() || of_b.back());
    }
    const Units units = units_of(either);
    for (const bool logarithms : {false, true}) {
      std::vector<std::pair<size_t, size_t>> at;
      std::vector<ClusteredValues> effects;
      for_each_effect(logarithms, [&](size_t i, size_t m) {
        at.emplace_back(i, m);
        effects.push_back(spread(difference(i, baseline_, m, of_a, logarithms), units));
        effects.push_back(spread(difference(i, baseline_, m, of_b, logarithms), units));
      });
      for (size_t k = 0; k < at.size(); ++k) {
        const EffectDifference found =
            difference_of_effects(effects[2 * k], effects[2 * k + 1], run_.seed, run_.resamples, n_threads_);
        auto& list = out.contrasts[at[k].first][at[k].second].by_condition;
        if (logarithms)
          list.back().second.p = defined(found.p);
        else
          list.emplace_back(a + " - " + b, versus_of(found, found.p));
      }
    }
  }

 private:
  // [cluster] its place among those of some records; -1: none.
  struct Units {
    std::vector<int64_t> place;
    size_t n = 0;
  };

  size_t n_metrics() const { return run_.metrics.size(); }

  Units units_of(const std::vector<uint8_t>& kept) const {
    Units out{std::vector<int64_t>(run_.clusters.size(), -1), 0};
    for (size_t r = 0; r < kept.size(); ++r) {
      int64_t& place = out.place[static_cast<size_t>(cluster_of_[r])];
      if (kept[r] && place < 0) place = static_cast<int64_t>(out.n++);
    }
    return out;
  }

  static ClusteredValues spread(const Column& column, const Units& units) {
    ClusteredValues out{std::vector<double>(units.n, 0.0), std::vector<double>(units.n, 0.0)};
    for (size_t i = 0; i < column.values.size(); ++i) {
      const auto at = static_cast<size_t>(units.place[static_cast<size_t>(column.units[i])]);
      out.sums[at] += column.values[i];
      out.counts[at] += 1;
    }
    return out;
  }

  // Where p does not reject, the interval reaches 0.
  static Versus versus_of(const EffectDifference& one, double p) {
    Versus out{defined(one.diff), defined(one.ci.lo), defined(one.ci.hi), defined(p)};
    if (!(p <= test_level)) reach_zero(out.lo, out.hi);
    return out;
  }

  // Main interventions and metrics; or only the metrics that are tested on logarithms.
  template <class F>
  void for_each_effect(bool logarithms, F f) const {
    for (size_t i = 0; i < run_.interventions.size(); ++i)
      for (size_t m = 0; m < n_metrics() && main_[i]; ++m)
        if (!logarithms || tested_on_logarithms(run_.metrics[m])) f(i, m);
  }

  static void add(Column& column, double value, int64_t unit) {
    column.values.push_back(value);
    column.units.push_back(unit);
  }

  Column own(size_t i, size_t m, const std::vector<uint8_t>& kept) const {
    Column out;
    const auto found = run_.interventions[i].metrics.find(run_.metrics[m]);
    if (found == run_.interventions[i].metrics.end()) return out;
    for (size_t k = 0; k < found->second.records.size(); ++k) {
      const auto record = static_cast<size_t>(found->second.records[k]);
      if (!kept[record]) continue;
      add(out, found->second.values[k], cluster_of_[record]);
      out.zero_one = out.zero_one && is_zero_one(out.values.back());
    }
    return out;
  }

  // Both values of the kept records that have both.
  template <class F>
  void for_each_pair(size_t i, size_t j, size_t m, const std::vector<uint8_t>& kept, F f) const {
    const auto mine = run_.interventions[i].metrics.find(run_.metrics[m]),
               other = run_.interventions[j].metrics.find(run_.metrics[m]);
    if (mine == run_.interventions[i].metrics.end() || other == run_.interventions[j].metrics.end()) return;
    const MetricValues &a = mine->second, &b = other->second;
    for (size_t k = 0, l = 0; k < a.records.size(); ++k) {
      while (l < b.records.size() && b.records[l] < a.records[k]) ++l;
      if (l == b.records.size() || b.records[l] != a.records[k]) continue;
      const auto record = static_cast<size_t>(a.records[k]);
      if (kept[record]) f(a.values[k], b.values[l], cluster_of_[record]);
    }
  }

  Column difference(size_t i, size_t j, size_t m, const std::vector<uint8_t>& kept, bool logarithms = false) const {
    Column out;
    for_each_pair(i, j, m, kept, [&](double mine, double other, int64_t unit) {
      add(out, logarithms ? std::log(mine) - std::log(other) : mine - other, unit);
      out.zero_one = out.zero_one && is_zero_one(mine) && is_zero_one(other);
    });
    return out;
  }

  DifferenceQuestion question(size_t i, size_t j, size_t m, const std::vector<uint8_t>& kept) const {
    DifferenceQuestion out{difference(i, j, m, kept), {}, {}};
    if (tested_on_logarithms(run_.metrics[m])) out.tested = difference(i, j, m, kept, true);
    return out;
  }

  void means(const std::vector<uint8_t>& kept, RecordFindings& out) const {
    std::vector<Column> columns;
    for (size_t i = 0; i < run_.interventions.size(); ++i)
      for (size_t m = 0; m < n_metrics(); ++m) columns.push_back(own(i, m, kept));
    const std::vector<Estimate> found = mean_estimates(columns, run_.seed, run_.resamples, n_threads_);
    for (size_t i = 0; i < run_.interventions.size(); ++i)
      out.means.emplace_back(found.begin() + static_cast<int64_t>(i * n_metrics()),
                             found.begin() + static_cast<int64_t>((i + 1) * n_metrics()));
  }

  void differences(const std::vector<uint8_t>& kept, RecordFindings& out) const {
    std::vector<DifferenceQuestion> questions;
    for (size_t i = 0; i < run_.interventions.size(); ++i)
      for (size_t m = 0; m < n_metrics(); ++m) {
        questions.push_back(i == baseline_ ? DifferenceQuestion() : question(i, baseline_, m, kept));
        const auto margin = run_.margins.find(run_.metrics[m]);
        if (margin != run_.margins.end() && main_[i]) questions.back().margin = margin->second;
      }
    const auto found = difference_findings(questions, run_.seed, run_.resamples, n_threads_);
    for (size_t i = 0; i < run_.interventions.size(); ++i) {
      out.contrasts.emplace_back(n_metrics());
      for (size_t m = 0; m < n_metrics() && i != baseline_; ++m) {
        const DifferenceFindings& one = found[i * n_metrics() + m];
        Contrast& contrast = out.contrasts[i][m];
        contrast.difference = one.difference;
        contrast.units = one.units;
        contrast.p = one.p;
        contrast.detectable = one.detectable;
        contrast.equivalence = one.equivalence;
        std::vector<std::pair<double, double>> pairs;
        for_each_pair(i, baseline_, m, kept,
                      [&](double mine, double base, int64_t) { pairs.emplace_back(mine, base); });
        contrast.mcnemar_p = mcnemar_p(pairs);
      }
    }
  }

  // Main interventions with each other: all of them where they are few, else those that the run is about.
  std::vector<size_t> compared() const {
    std::vector<size_t> all, primary;
    for (size_t i = 0; i < main_.size(); ++i) {
      if (!main_[i]) continue;
      all.push_back(i);
      const auto& names = run_.primary ? run_.primary->interventions : std::vector<std::string>();
      if (std::find(names.begin(), names.end(), run_.interventions[i].name) != names.end()) primary.push_back(i);
    }
    if (all.size() <= most_versus) return all;
    return primary.size() <= most_versus ? primary : std::vector<size_t>();
  }

  void versus(const std::vector<uint8_t>& kept, RecordFindings& out) const {
    const std::vector<size_t> list = compared();
    std::vector<DifferenceQuestion> questions;
    for (size_t i = 0; i < list.size(); ++i)
      for (size_t j = i + 1; j < list.size(); ++j)
        for (size_t m = 0; m < n_metrics(); ++m) questions.push_back(question(list[i], list[j], m, kept));
    const auto found = difference_findings(questions, run_.seed, run_.resamples, n_threads_);
    const size_t n = list.size();
    const auto place = [&](size_t i, size_t j) {  // of the pair i < j
      return i * n - i * (i + 1) / 2 + j - i - 1;
    };
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j)
        for (size_t m = 0; m < n_metrics() && i != j; ++m) {
          const DifferenceFindings& one = found[place(std::min(i, j), std::max(i, j)) * n_metrics() + m];
          const Estimate& d = one.difference;
          // 0 - x, so that no difference is no "-0".
          const Versus versus =
              i < j ? Versus{d.value, d.lo, d.hi, one.p} : Versus{0 - d.value, 0 - d.hi, 0 - d.lo, one.p};
          out.contrasts[list[i]][m].versus.emplace_back(run_.interventions[list[j]].name, versus);
        }
  }

  // Main interventions with the mean of their random controls.
  void against(const std::vector<uint8_t>& kept, RecordFindings& out) const {
    const Units units = units_of(kept);
    for (const bool logarithms : {false, true}) {
      std::vector<std::pair<size_t, size_t>> at;
      std::vector<std::vector<ClusteredValues>> effects;
      for_each_effect(logarithms, [&](size_t i, size_t m) {
        const auto controls = controls_.find({run_.interventions[i].name, ControlKind::random});
        if (controls == controls_.end()) return;
        at.emplace_back(i, m);
        effects.push_back({spread(difference(i, baseline_, m, kept, logarithms), units)});
        for (const size_t control : controls->second) {
          ClusteredValues effect = spread(difference(control, baseline_, m, kept, logarithms), units);
          // As in the band of the controls: those without a value are no control.
          if (std::any_of(effect.counts.begin(), effect.counts.end(), [](double count) { return count > 0; }))
            effects.back().push_back(std::move(effect));
        }
      });
      // p is not below that of sign flips over units with the sets as they are, which is exact where few records
      // change.
      std::vector<ClusteredValues> shares;
      for (const auto& list : effects) shares.push_back(shares_of(list));
      const std::vector<double> flips = sign_flip_ps(shares, run_.seed, run_.resamples, n_threads_);
      for (size_t k = 0; k < at.size(); ++k) {
        const EffectDifference found = effect_over_controls(effects[k][0], std::span(effects[k]).subspan(1), run_.seed,
                                                            run_.resamples, n_threads_);
        const double p = std::isnan(flips[k]) ? found.p : std::max(found.p, flips[k]);
        std::optional<Versus>& vs = out.contrasts[at[k].first][at[k].second].vs_controls;
        if (logarithms)
          vs->p = defined(p);
        else
          vs = versus_of(found, p);
      }
    }
  }

  // The first effect minus the mean of the others, unit by unit: their sum is the difference.
  static ClusteredValues shares_of(const std::vector<ClusteredValues>& effects) {
    ClusteredValues out{std::vector<double>(effects[0].sums.size(), 0.0),
                        std::vector<double>(effects[0].sums.size(), 1.0)};
    if (effects.size() < 2) return {};
    for (size_t e = 0; e < effects.size(); ++e) {
      double total = 0;
      for (const double count : effects[e].counts) total += count;
      const double weight = e == 0 ? 1 / total : -1 / (total * static_cast<double>(effects.size() - 1));
      for (size_t u = 0; u < out.sums.size(); ++u) out.sums[u] += weight * effects[e].sums[u];
    }
    return out;
  }

  const RunValues& run_;
  const size_t baseline_;
  const int n_threads_;
  const std::vector<int64_t> cluster_of_;  // [record]
  std::vector<uint8_t> main_;              // [intervention] is_main() and not the baseline
  Controls controls_;
};

// One family over the contrasts of all parts that `belongs(intervention, metric)`.
template <class Belongs>
void set_q(const std::vector<RecordFindings*>& parts, Belongs belongs) {
  std::vector<double> p;
  std::vector<Contrast*> family;
  for (RecordFindings* part : parts)
    for (size_t i = 0; i < part->contrasts.size(); ++i)
      for (size_t m = 0; m < part->contrasts[i].size(); ++m)
        if (belongs(i, m)) {
          family.push_back(&part->contrasts[i][m]);
          p.push_back(family.back()->p);
        }
  const std::vector<double> q = benjamini_hochberg(p);
  for (size_t k = 0; k < family.size(); ++k) family[k]->q = q[k];
}

// Controls have no q: nobody claims anything of them.
void set_families(const RunFindings& run, const std::vector<RecordFindings*>& parts) {
  set_q(parts, [&](size_t i, size_t m) { return run.primary.has(run.interventions[i].name, run.metrics[m]); });
  set_q(parts, [&](size_t i, size_t m) {
    return run.interventions[i].audited.has_value() && null_is_possible(run.metrics[m]);
  });
}

PrimaryContrasts primary_of(const RunValues& run) {
  PrimaryContrasts out = run.primary.value_or(PrimaryContrasts());
  if (run.primary) return out;
  for (const Intervention& one : run.interventions)
    if (one.is_main() && one.name != run.baseline) out.interventions.push_back(one.name);
  for (const std::string& metric : run.metrics)
    if (null_is_possible(metric)) out.metrics.push_back(metric);
  return out;
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
  out.partial = run.partial;
  out.limit = run.limit;
  out.interventions.assign(run.interventions.begin(), run.interventions.end());
  out.primary = primary_of(run);
  const Comparer comparer(run, baseline, n_threads);
  out.all = comparer.compare(std::vector<uint8_t>(run.clusters.size(), 1));
  set_families(out, {&out.all});
  set_bands(run, baseline, out.all);

  std::vector<std::string> conditions;  // in order of first appearance
  for (const std::string& condition : run.conditions)
    if (!condition.empty() && std::find(conditions.begin(), conditions.end(), condition) == conditions.end())
      conditions.push_back(condition);
  if (conditions.size() < 2) return out;
  for (const std::string& condition : conditions) {
    std::vector<uint8_t> kept;
    for (const std::string& other : run.conditions) kept.push_back(other == condition);
    out.conditions.push_back({condition, comparer.compare(kept)});
  }
  for (size_t a = 0; a < conditions.size(); ++a)
    for (size_t b = a + 1; b < conditions.size(); ++b) comparer.between(conditions[a], conditions[b], out.all);
  std::vector<RecordFindings*> family;
  for (ConditionFindings& condition : out.conditions) family.push_back(&condition.found);
  set_families(out, family);
  for (RecordFindings* part : family) set_bands(run, baseline, *part);
  return out;
}

}  // namespace signalbox::eval
