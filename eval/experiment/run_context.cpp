#include "eval/experiment/run_context.h"

#include <algorithm>

#include "base/files.h"
#include "eval/data/prompt_hash.h"
#include "eval/experiment/schedule.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// Asks for what the metrics look at, and no more.
void choose_work(const ExperimentSpec& spec, const std::vector<std::string>& metrics, Evaluation& evaluation) {
  evaluation.generates = spec.generate.has_value();
  for (const std::string& metric : metrics) {
    const Needs needs = metric_needs(metric);
    evaluation.logprobs |= needs == Needs::logprobs || needs == Needs::divergence;
    evaluation.divergence |= needs == Needs::divergence;
    evaluation.options |= needs == Needs::options;
    const Scorer* scorer = find_scorer(metric);
    if (scorer && scorer->score) evaluation.scorers.push_back(scorer);
  }
  for (const JudgeSpec& judge : spec.judges)
    if (std::find(metrics.begin(), metrics.end(), "judge:" + judge.name) != metrics.end())
      evaluation.judges.push_back({judge.name, judge.command, judge.timeout, judge.batch});
  if (spec.generate) {
    evaluation.stop = spec.generate->stop;
    evaluation.ignore_eos = spec.generate->ignore_eos;
  }
}

Generation generation_of(const Experiment& experiment, size_t record) {
  Generation generation;
  if (!experiment.spec.generate) return generation;
  const GenerateSpec& spec = *experiment.spec.generate;
  generation.max_tokens = spec.max_tokens;
  generation.samples = spec.samples;
  generation.sampling = spec.sampling;
  if (experiment.program_of.empty()) return generation;
  const Program& program = experiment.spec.programs[static_cast<size_t>(experiment.program_of[record])];
  generation.max_tokens = program.max_tokens.value_or(generation.max_tokens);
  generation.samples = program.samples.value_or(generation.samples);
  generation.sampling = program.sampling_over(generation.sampling);
  return generation;
}

}  // namespace

std::vector<std::optional<PreparedRecord>> prepare_records(const Experiment& experiment, const Session& session,
                                                           const std::vector<std::string>& span_names) {
  Evaluation wanted;
  choose_work(experiment.spec, experiment.spec.metrics, wanted);
  std::vector<std::optional<PreparedRecord>> prepared(experiment.records.size());
  for (const auto* part : {&experiment.splits.detect, &experiment.splits.tune, &experiment.splits.test})
    for (const int64_t r : *part) {
      const size_t at = static_cast<size_t>(r);
      if (!prepared[at])
        prepared[at] = prepare_record(experiment.records[at], session, span_names, generation_of(experiment, at),
                                      wanted.logprobs, wanted.options);
    }
  return prepared;
}

std::vector<std::vector<std::string>> prompt_hashes_of(const std::vector<Record>& records,
                                                       const std::vector<std::optional<PreparedRecord>>& prepared,
                                                       const Session& session) {
  std::vector<std::vector<std::string>> hashes(records.size());
  for (size_t r = 0; r < records.size(); ++r)
    if (prepared[r]) hashes[r] = prompt_hashes(records[r], prepared[r]->prompt, session.encode);
  return hashes;
}

void RunContext::note(const std::string& line) const {
  directory.log(line);
  if (events.on_note) events.on_note(line);
}

void RunContext::begin_stage(const std::string& what, int64_t total, int64_t kept, const std::string& unit) const {
  directory.log(what);
  if (events.on_stage) events.on_stage(what, total, unit);
  if (kept > 0 && events.on_kept) events.on_kept(kept);
}

void RunContext::progress(int64_t done) const {
  if (events.on_progress) events.on_progress(done);
}

bool RunContext::interrupted() const {
  return session.options.interrupted && session.options.interrupted->load(std::memory_order_relaxed);
}

EvaluationEvents RunContext::evaluation_events() const {
  EvaluationEvents out;
  out.on_lines = events.on_progress;
  out.on_stage = [this](const std::string& text) { directory.log(text); };
  return out;
}

Evaluation evaluation_of(const RunInputs& run, const std::vector<int64_t>& records,
                         const std::vector<std::string>& metrics) {
  Evaluation evaluation;
  evaluation.seeds = run.spec().seeds;
  choose_work(run.spec(), metrics, evaluation);
  evaluation.span_names = run.span_names;
  for (const int64_t r : records) evaluation.records.push_back(run.records.at(static_cast<size_t>(r)).value());
  return evaluation;
}

void add_interventions(const RunInputs& run, const std::vector<PlannedIntervention>& planned, Evaluation& evaluation) {
  const ExperimentSpec& spec = run.spec();
  for (size_t i = 0; i < planned.size(); ++i) {
    const PlannedIntervention& one = planned[i];
    BoundIntervention bound{one, {}};
    for (const uint64_t seed : spec.seeds) {
      if (one.edits.items().empty()) {
        bound.plans.push_back(nullptr);
        continue;
      }
      const json::Ref edits(one.edits, spec.where, "interventions." + one.name + ".edits");
      bound.plans.push_back(EditPlan::parse(edits, spec.base_dir, run.session.shape, seed));
    }
    if (bound.name == spec.baseline) evaluation.baseline = static_cast<int64_t>(i);
    evaluation.interventions.push_back(std::move(bound));
  }
  check_evaluation(evaluation);
}

Layout layout_of(const Evaluation& evaluation) {
  Layout layout;
  layout.seeds = evaluation.seeds;
  for (const BoundIntervention& intervention : evaluation.interventions) {
    layout.interventions.push_back(intervention.name);
    layout.first_seed_only.push_back(intervention.first_seed_only);
  }
  for (const PreparedRecord& record : evaluation.records) {
    layout.records.push_back(record.record->id);
    layout.samples.push_back(evaluation.generates ? record.generation.samples : 1);
  }
  layout.index();
  return layout;
}

void write_records(const fs::path& dir, const Evaluation& evaluation) {
  std::string lines;
  for (const PreparedRecord& record : evaluation.records) lines += json::dump(record.record->source) + "\n";
  write_file_atomically(dir / records_file, lines);
}

}  // namespace signalbox::eval
