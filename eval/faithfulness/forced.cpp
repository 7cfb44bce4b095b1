#include "eval/faithfulness/forced.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/no_number.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

namespace {

size_t most_probable(const FaithCase& one, const std::vector<size_t>& choices) {
  size_t best = 0;
  for (size_t i = 1; i < choices.size(); ++i)
    if (one.logprobs[choices[i]] > one.logprobs[choices[best]]) best = i;
  return best;
}

// Of option `index`: its share of the options' p.
double log_share(const FaithCase& one, const std::vector<size_t>& choices, size_t index) {
  const double most = one.logprobs[choices[most_probable(one, choices)]];
  double sum = 0;
  for (const size_t choice : choices) sum += std::exp(one.logprobs[choice] - most);
  return one.logprobs[choices[index]] - most - std::log(sum);
}

bool has_logprob(ForcedMeasure measure) { return measure != ForcedMeasure::chosen && measure != ForcedMeasure::right; }

// What is asked in one way: the cases of a row.
struct Way {
  std::string test, policy;
  double fraction = no_number;
  std::vector<const FaithCase*> cases;
};

std::vector<Way> ways_of(const FaithfulnessStudy& study) {
  std::map<std::pair<CaseKind, size_t>, Way> ways;
  for (const FaithCase& one : study.cases()) {
    if (one.logprobs.empty() || (one.kind == CaseKind::early && !study.options().early)) continue;
    Way& way = ways[{one.kind, one.plan}];
    way.test = case_kind_name(one.kind);
    if (one.kind == CaseKind::misroute) {
      way.policy = study.misroutings()[one.plan].policy;
      way.fraction = study.misroutings()[one.plan].fraction;
    }
    way.cases.push_back(&one);
  }
  std::vector<Way> out;
  for (auto& [key, way] : ways) out.push_back(std::move(way));
  return out;
}

std::vector<ForcedRow> rows_of(const FaithfulnessStudy& study) {
  const FaithfulnessOptions& options = study.options();
  std::vector<ForcedRow> rows;
  std::vector<ClusteredValues> columns, drops;  // p, log p and drop of each row; the latter
  for (const Way& way : ways_of(study))
    for (const ForcedMeasure measure : forced_measures) {
      UnitValues p, logprob, drop;
      for (const FaithCase* one : way.cases) {
        const auto value = forced_value(study, *one, measure);
        if (!value) continue;
        const int64_t unit = study.unit(study.explanations()[one->explanation].record);
        p.add(value->p, unit);
        if (!has_logprob(measure)) continue;
        logprob.add(value->logprob, unit);
        const FaithCase& full = study.full(one->explanation);
        if (one != &full) drop.add(forced_value(study, full, measure)->logprob - value->logprob, unit);
      }
      if (p.values.empty()) continue;
      rows.push_back({way.test, way.policy, way.fraction, measure, {}, {}, {}, no_number});
      for (const UnitValues* values : {&p, &logprob, &drop}) columns.push_back(values->clustered());
      drops.push_back(columns.back());
    }
  const auto means = bootstrap_means(columns, options.seed, options.resamples, options.threads);
  const auto ps = sign_flip_ps(drops, options.seed, options.resamples, options.threads);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].p = means[3 * r];
    rows[r].logprob = means[3 * r + 1];
    rows[r].drop = means[3 * r + 2];
    rows[r].p_drop = ps[r];
  }
  return rows;
}

std::optional<ForcedTest> test_of(const FaithfulnessStudy& study, FaithTest test, ForcedMeasure measure) {
  const FaithfulnessOptions& options = study.options();
  ForcedTest out{test, measure, {}, {}, {}};
  std::vector<FaithCurve> curves, drops;
  const auto add = [&](std::vector<FaithCurve>& list, size_t explanation, const auto& value) {
    FaithCurve curve = study.curve(explanation, test, value);
    if (!curve.points.empty()) list.push_back(std::move(curve));
  };
  for (size_t e = 0; e < study.explanations().size(); ++e) {
    add(curves, e, [&](const FaithCase& one) -> std::optional<FaithPoint> {
      const auto value = forced_value(study, one, measure);
      if (!value) return std::nullopt;
      FaithPoint point{0, value->p, {}};
      if (has_logprob(measure)) point.correct = value->logprob;
      return point;
    });
    if (!has_logprob(measure)) continue;
    const auto full = forced_value(study, study.full(e), measure);
    // What is integrated is 1 - same.
    add(drops, e, [&](const FaithCase& one) -> std::optional<FaithPoint> {
      const auto value = forced_value(study, one, measure);
      if (!value || !full) return std::nullopt;
      return FaithPoint{0, 1 - (full->logprob - value->logprob), {}};
    });
  }
  if (curves.empty()) return std::nullopt;
  out.curve = mean_curves(curves, options.seed, options.resamples, options.threads);
  out.areas = mean_areas(curves, options.seed, options.resamples, options.threads);
  out.drops = mean_areas(drops, options.seed, options.resamples, options.threads);
  return out;
}

}  // namespace

const char* forced_measure_name(ForcedMeasure measure) {
  constexpr const char* names[] = {"own", "gold", "choice", "chosen", "right"};
  return names[static_cast<size_t>(measure)];
}

std::optional<ForcedValue> forced_value(const FaithfulnessStudy& study, const FaithCase& one, ForcedMeasure measure) {
  if (one.logprobs.empty()) return std::nullopt;
  const ForcedTargets& targets = study.explanations()[one.explanation].targets;
  const auto of_logprob = [](double logprob) { return ForcedValue{std::exp(logprob), logprob}; };
  switch (measure) {
    case ForcedMeasure::own:
      if (!targets.own) return std::nullopt;
      return of_logprob(one.logprobs[*targets.own]);
    case ForcedMeasure::gold:
      if (targets.golds.empty()) return std::nullopt;
      return of_logprob(one.logprobs[targets.golds[most_probable(one, targets.golds)]]);
    case ForcedMeasure::choice:
    case ForcedMeasure::chosen: {
      if (targets.choices.empty()) return std::nullopt;
      const size_t chosen = most_probable(study.full(one.explanation), targets.choices);
      if (measure == ForcedMeasure::choice) return of_logprob(log_share(one, targets.choices, chosen));
      return ForcedValue{most_probable(one, targets.choices) == chosen ? 1.0 : 0.0, no_number};
    }
    case ForcedMeasure::right:
      if (targets.choices.empty() || !targets.right) return std::nullopt;
      return ForcedValue{most_probable(one, targets.choices) == *targets.right ? 1.0 : 0.0, no_number};
  }
  return std::nullopt;
}

ForcedFindings forced_findings(const FaithfulnessStudy& study) {
  ForcedFindings out;
  if (!study.options().forced) return out;
  for (const FaithTest test : faith_tests)
    for (const ForcedMeasure measure : forced_measures)
      if (auto found = test_of(study, test, measure)) out.tests.push_back(std::move(*found));
  out.rows = rows_of(study);
  return out;
}

}  // namespace signalbox::eval
