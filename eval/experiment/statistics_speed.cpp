#include "eval/experiment/statistics_speed.h"

#include <algorithm>

#include "eval/data/examples.h"
#include "eval/detect/risk_difference.h"
#include "eval/experiment/stopwatch.h"
#include "eval/findings/results.h"

namespace signalbox::eval {

namespace {

// Seconds of what takes `run(replicates)`, for all replicates.
template <class Run>
double seconds_of(Run run, int64_t replicates) {
  constexpr int64_t few = 20, more = 120;
  const auto time = [&](int64_t n) {
    const Clock::time_point start = Clock::now();
    run(n);
    return seconds_since(start);
  };
  const double base = time(few), longer = time(more);
  return base + std::max(0.0, longer - base) / static_cast<double>(more - few) * static_cast<double>(replicates - few);
}

}  // namespace

double detection_seconds(const ExperimentSpec& spec, const DetectSpec& one, const Experiment& experiment,
                         const ModelShape& shape, int threads) {
  const Splits& splits = experiment.splits;
  const std::vector<int64_t>& seen = spec.split && !splits.detect.empty() ? splits.detect : splits.test;
  ContrastCounts counts;
  counts.layers = shape.moe_layers();
  counts.n_experts = shape.n_experts();
  uint32_t made = 1;
  for (const int64_t r : seen) {
    const Record& record = experiment.records[static_cast<size_t>(r)];
    if (record.condition != one.a && record.condition != one.b) continue;
    ContrastRecord counted;
    counted.id = record.id;
    counted.pair = record.pair;
    counted.under_b = record.condition == one.b;
    counted.tokens = 32;
    counts.records.push_back(std::move(counted));
    for (size_t row = 0; row < counts.n_rows(); ++row)
      counts.selected.push_back((made = made * 1664525 + 1013904223) >> 28);
  }
  counts.n_samples = static_cast<int64_t>(counts.records.size());
  return seconds_of(
      [&](int64_t replicates) {
        ContrastOptions options;
        options.a = one.a;
        options.b = one.b;
        options.resamples = replicates;
        options.threads = threads;
        eval::detect(counts, options);
      },
      (one.held_out ? 3 : 2) * spec.resamples / 2);
}

double findings_seconds(const ExperimentSpec& spec, const Evaluation& evaluation, int threads) {
  constexpr size_t some = 4;
  std::vector<const BoundIntervention*> main, others;
  for (const BoundIntervention& one : evaluation.interventions)
    if (one.name != spec.baseline) (one.is_main() ? main : others).push_back(&one);
  if (main.empty()) return 0;
  std::vector<Record> records;
  for (const PreparedRecord& record : evaluation.records) records.push_back(*record.record);
  const std::vector<size_t> examples = independent_examples(records);
  const auto time = [&](size_t n_main) {
    RunValues run;
    run.metrics = {spec.metrics.front()};
    run.baseline = spec.baseline;
    for (size_t r = 0; r < records.size(); ++r) {
      run.clusters.push_back(records[examples[r]].id);
      run.conditions.push_back(records[r].condition);
    }
    uint32_t made = 7;
    for (size_t i = 0; i <= n_main; ++i) {
      InterventionValues values;
      values.name = i == 0 ? spec.baseline : main[i - 1]->name;
      values.entry = i == 0 ? spec.baseline : main[i - 1]->entry;
      MetricValues& of = values.metrics[run.metrics.front()];
      for (size_t r = 0; r < records.size(); ++r) {
        of.records.push_back(static_cast<int64_t>(r));
        of.values.push_back(static_cast<double>(((made = made * 1664525 + 1013904223) >> 24) % 2));
      }
      run.interventions.push_back(std::move(values));
    }
    return seconds_of(
        [&](int64_t replicates) {
          run.resamples = replicates;
          run_findings(run, threads);
        },
        spec.resamples);
  };
  const double single = time(1);
  double contrasts = static_cast<double>(main.size() + others.size()) * single;
  if (main.size() > 1) {
    const size_t several = std::min(some, main.size());
    const double pairs = std::max(0.0, time(several) - static_cast<double>(several) * single);
    contrasts +=
        pairs * static_cast<double>(main.size() * (main.size() - 1)) / static_cast<double>(several * (several - 1));
  }
  return contrasts * static_cast<double>(spec.metrics.size());
}

}  // namespace signalbox::eval
