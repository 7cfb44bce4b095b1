#include "eval/experiment/tune_stage.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/files.h"
#include "eval/experiment/collect.h"
#include "eval/experiment/schedule.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

double mean_of(const RunValues& values, const std::string& name, const std::string& metric) {
  for (const InterventionValues& one : values.interventions) {
    if (one.name != name) continue;
    const auto found = one.metrics.find(metric);
    if (found == one.metrics.end() || found->second.values.empty()) return NAN;
    double sum = 0;
    for (const double value : found->second.values) sum += value;
    return sum / static_cast<double>(found->second.values.size());
  }
  return NAN;
}

using BestPoints = std::map<std::string, std::pair<std::string, double>>;  // entry -> point and its mean

// Writes choice.json.
BestPoints choose_points(const RunContext& run, const fs::path& dir, const RunValues& values) {
  const TuneSpec& tune = *run.spec().tune;
  BestPoints best;
  json::Value points = json::Value::array();
  for (const InterventionSpec& one : run.spec().interventions) {
    if (one.grid.empty()) continue;
    const double mean = mean_of(values, one.name, tune.metric);
    json::Value point = json::Value::object();
    point.set("entry", one.entry).set("name", one.name).set("mean", mean);
    points.push_back(std::move(point));
    if (std::isnan(mean)) continue;
    const auto found = best.find(one.entry);
    const bool better =
        found == best.end() || (tune.higher ? mean > found->second.second : mean < found->second.second);
    if (better) best[one.entry] = {one.name, mean};
  }
  json::Value chosen = json::Value::object(), all = json::Value::object();
  for (const auto& [entry, point] : best) {
    chosen.set(entry, point.first);
    run.note("tuning: " + point.first + " goes on to the test records");
  }
  all.set("metric", tune.metric).set("goal", tune.higher ? "higher" : "lower");
  all.set("chosen", std::move(chosen)).set("points", std::move(points));
  write_file_atomically(dir / "choice.json", json::dump(all, 2) + "\n");
  return best;
}

}  // namespace

InterventionChoice points_of_grids(const ExperimentSpec& spec) {
  InterventionChoice choice;
  choice.with_controls = false;
  for (const InterventionSpec& one : spec.interventions)
    if (!one.grid.empty() || one.name == spec.baseline) choice.interventions.push_back(&one);
  return choice;
}

std::optional<InterventionChoice> run_tuning(const RunContext& run, const Detected& detected) {
  const ExperimentSpec& spec = run.spec();
  InterventionChoice tested = all_interventions(spec);
  if (!spec.tune) return tested;
  const std::vector<std::string> metrics = {spec.tune->metric};
  const fs::path dir = run.directory.path() / "tune";
  made_directory(dir);
  const RunSchedule schedule =
      make_schedule(spec, metrics, plan_interventions(spec, points_of_grids(spec), run.session.shape, detected));
  Evaluation evaluation = evaluation_of(run, run.experiment.splits.tune, metrics);
  add_interventions(run, schedule.interventions, evaluation);
  {
    SampleLog log(dir, layout_of(evaluation));
    run.begin_stage("tuning", log.n_lines(), log.n_known());
    if (!evaluate(run.session, evaluation, log, run.evaluation_events())) return std::nullopt;
    log.finish();
  }
  write_records(dir, evaluation);
  const BestPoints best = choose_points(run, dir, collect_values(dir, schedule));
  std::erase_if(tested.interventions, [&](const InterventionSpec* one) {
    if (one->grid.empty()) return false;
    const auto found = best.find(one->entry);
    if (found == best.end())
      throw Error(spec.where, "tune.metric: expected " + spec.tune->metric +
                                  " to be defined on the tuning records of \"" + one->entry + "\", found no value");
    return found->second.first != one->name;
  });
  return tested;
}

}  // namespace signalbox::eval
