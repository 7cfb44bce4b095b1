#include "eval/experiment/test_stage.h"

#include <fstream>
#include <iterator>

#include "base/files.h"
#include "eval/data/prompt_hash.h"
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

// The ranking that the audit is held against, with what says which prompts chose it: the spec's file may change.
void keep_ranking(const RunContext& run) {
  for (const RankingUse& use : rankings_of(run.spec())) {
    const fs::path kept = run.directory.path() / "audit" / "rd.csv";
    if (!use.path.starts_with("audit") || !use.detect.empty() || fs::exists(kept)) continue;
    made_directory(kept.parent_path());
    const fs::path summary = use.file.parent_path() / "summary.json";
    if (fs::exists(summary)) write_file_atomically(kept.parent_path() / "summary.json", read_whole(summary));
    write_file_atomically(kept, read_whole(use.file));
  }
}

// summary.json beside audit.csv, which ranks experts: the prompts that it is measured on, of all shards, and those that
// chose the experts that were audited.
void write_audit_summary(const RunContext& run) {
  if (!run.spec().audit) return;
  PromptList prompts;
  json::Value ids = json::Value::array(), summary = json::Value::object();
  for (const int64_t r : run.experiment.splits.test) {
    const size_t at = static_cast<size_t>(r);
    ids.push_back(run.experiment.records[at].id);
    prompts.add(prompt_hashes(run.experiment.records[at], run.records[at]->prompt, run.session.encode));
  }
  for (const RankingUse& use : rankings_of(run.spec())) {
    if (!use.path.starts_with("audit")) continue;
    const fs::path file =
        run.directory.path() / (use.detect.empty() ? "audit" : "detect/" + use.detect) / "summary.json";
    // Of a ranking of unknown origin nothing is known but what it is measured on here.
    const json::Value chosen = fs::exists(file) ? json::parse_file(file) : json::Value();
    if (chosen.find("prompts")) {
      prompts.add_summary(chosen);
      if (chosen.find("prompts_incomplete")) summary.set("prompts_incomplete", true);
    } else {
      summary.set("prompts_incomplete", true);
    }
  }
  summary.set("schema", "signalbox.audit/1").set("records", std::move(ids));
  prompts.put(summary);
  write_file_atomically(run.directory.path() / "summary.json", json::dump(summary, 2) + "\n");
}

// What an audit will cost, before it begins.
void tell_cost_of_audit(const RunContext& run, const Evaluation& evaluation) {
  int64_t n_audited = 0, n_samples = 0, n_given = 0, n_new = 0;
  for (const BoundIntervention& one : evaluation.interventions) {
    if (!one.audited) continue;
    ++n_audited;
    const auto seeds = one.first_seed_only ? int64_t{1} : static_cast<int64_t>(evaluation.seeds.size());
    for (const PreparedRecord& record : evaluation.records) {
      const int64_t samples = evaluation.generates ? record.generation.samples : 1;
      n_samples += seeds * samples;
      if (evaluation.generates) {
        n_given += seeds * samples * static_cast<int64_t>(record.prompt.prompt->tokens.size());
        n_new += seeds * samples * record.generation.max_tokens;
      }
      if (evaluation.logprobs) n_given += seeds * static_cast<int64_t>(record.scored.prompt->tokens.size());
      if (evaluation.options)
        for (const EncodedRecord& option : record.options)
          n_given += seeds * static_cast<int64_t>(option.prompt->tokens.size());
    }
  }
  if (n_audited == 0) return;
  run.note("audit: " + std::to_string(n_audited) + " experts by themselves: " + std::to_string(n_audited) +
           " interventions, " + std::to_string(n_samples) + " samples, at most " + std::to_string(n_given) +
           " given and " + std::to_string(n_new) +
           " new tokens (the beginnings that samples of a record share are run once)");
}

}  // namespace

std::vector<int64_t> tested_records(const Experiment& experiment, const Shard& shard) {
  const std::vector<int64_t>& test = experiment.splits.test;
  std::vector<int64_t> kept;
  for (size_t i = 0; i < test.size(); ++i)
    if (shard.has(static_cast<int64_t>(i))) kept.push_back(test[i]);
  return kept;
}

void choose_traces(const RunInputs& run, Evaluation& evaluation) {
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
}

bool run_tests(const RunContext& run, const Detected& detected, const InterventionChoice& choice) {
  const ExperimentSpec& spec = run.spec();
  RunDirectory& directory = run.directory;
  RunSchedule schedule =
      make_schedule(spec, spec.metrics, plan_interventions(spec, choice, run.session.shape, detected));
  schedule.data = run.experiment.data;
  schedule.limit = run.experiment.limit;
  keep_ranking(run);
  write_audit_summary(run);
  write_schedule(directory.path(), schedule);
  directory.log(std::to_string(schedule.interventions.size()) + " interventions");
  Evaluation evaluation = evaluation_of(run, tested_records(run.experiment, run.options.shard), spec.metrics);
  add_interventions(run, schedule.interventions, evaluation);
  tell_cost_of_audit(run, evaluation);
  choose_traces(run, evaluation);
  evaluation.trace_dir = [&](int64_t intervention, int64_t seed) {
    return trace_path(directory.path(), schedule, static_cast<size_t>(intervention), static_cast<size_t>(seed));
  };
  write_records(directory.path(), evaluation);  // before the layout: where that is, samples can be read
  directory.begin(layout_of(evaluation));
  run.begin_stage("running", directory.samples().n_lines(), directory.samples().n_known());
  if (!evaluate(run.session, evaluation, directory.samples(), run.evaluation_events())) return false;
  run.begin_stage("writing findings", 0);
  directory.finish_samples();
  const RunFindings findings = write_findings(directory.path());
  if (run.options.on_findings) run.options.on_findings(directory.path(), findings);
  return true;
}

}  // namespace signalbox::eval
