#include "eval/experiment/test_stage.h"

#include <fstream>
#include <iterator>

#include "base/files.h"
#include "eval/experiment/findings.h"
#include "eval/experiment/schedule.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

std::string read_whole(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in) throw Error(file.string(), "cannot read the file");
  return text;
}

// The tested records of this shard.
std::vector<int64_t> tested_records(const RunContext& run) {
  const std::vector<int64_t>& test = run.experiment.splits.test;
  std::vector<int64_t> kept;
  for (size_t i = 0; i < test.size(); ++i)
    if (run.options.shard.has(static_cast<int64_t>(i))) kept.push_back(test[i]);
  return kept;
}

// The ranking that the audit is held against, beside it: the spec's file may change.
void keep_ranking(const RunContext& run) {
  for (const RankingUse& use : rankings_of(run.spec())) {
    const fs::path kept = run.directory.path() / "audit" / "rd.csv";
    if (!use.path.starts_with("audit") || !use.detect.empty() || fs::exists(kept)) continue;
    make_directory(kept.parent_path());
    write_file_atomically(kept, read_whole(use.file));
  }
}

// Traces of the interventions that the spec names.
void add_traces(const RunContext& run, const RunSchedule& schedule, Evaluation& evaluation) {
  const ExperimentSpec& spec = run.spec();
  if (!spec.traces.on) return;
  for (size_t i = 0; i < evaluation.interventions.size(); ++i)
    if (spec.traced(evaluation.interventions[i].entry, evaluation.interventions[i].name))
      evaluation.traced.push_back(static_cast<int64_t>(i));
  if (run.span_names.size() > 32)
    throw Error(spec.where, "traces: expected at most 32 names of spans in the data, found " +
                                std::to_string(run.span_names.size()));
  if (evaluation.traced.empty()) throw Error(spec.where, "traces.of: expected names of interventions, found none");
  evaluation.points = PointSet::parse(spec.traces.points, run.session.shape);
  evaluation.trace_dir = [&run, &schedule](int64_t intervention, int64_t seed) {
    return trace_path(run.directory.path(), schedule, static_cast<size_t>(intervention), static_cast<size_t>(seed));
  };
}

}  // namespace

bool run_tests(const RunContext& run, const Detected& detected, const InterventionChoice& choice) {
  const ExperimentSpec& spec = run.spec();
  RunDirectory& directory = run.directory;
  const RunSchedule schedule = make_schedule(spec, spec.metrics, plan_seeds(spec, choice, run.session.shape, detected));
  keep_ranking(run);
  write_schedule(directory.path(), schedule);
  directory.log(std::to_string(schedule.interventions[0].size()) + " interventions");
  Evaluation evaluation = evaluation_of(run, tested_records(run), spec.metrics);
  add_interventions(run, schedule.interventions, evaluation);
  add_traces(run, schedule, evaluation);
  directory.begin(layout_of(evaluation));
  write_records(directory.path(), evaluation);
  run.begin_stage("running", directory.samples().n_lines());
  if (!evaluate(run.session, evaluation, directory.samples(), run.evaluation_events())) return false;
  run.begin_stage("writing findings", 0);
  directory.finish_samples();
  const RunFindings findings = write_findings(directory.path());
  if (run.options.on_findings) run.options.on_findings(directory.path(), findings);
  return true;
}

}  // namespace signalbox::eval
