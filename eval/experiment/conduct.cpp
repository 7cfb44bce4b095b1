#include "eval/experiment/conduct.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>

#include "base/files.h"
#include "eval/detect/risk_difference.h"
#include "eval/experiment/collect.h"
#include "eval/experiment/findings.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/schedule.h"
#include "eval/routing/trace_set.h"
#include "eval/routing/usage.h"

namespace signalbox {

namespace {

namespace fs = std::filesystem;

std::string read_whole(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in) throw Error(file.string(), "cannot read the file");
  return text;
}

// A text among the keys of an edit's ranking: "from", "by"; empty where the edit has none.
std::string ranking_text(const json::Value& edit, const char* key) {
  const json::Value* experts = edit.find("experts");
  const json::Value* found = experts && experts->type() == json::Type::object ? experts->find(key) : nullptr;
  return found && found->is_string() ? found->string() : std::string();
}

void make_directory(const fs::path& dir) {
  std::error_code code;
  fs::create_directories(dir, code);
  if (code) throw Error(dir.string(), "cannot make the directory: " + code.message());
}

// Asks for what the metrics look at, and no more.
void choose_work(const ExperimentSpec& spec, Evaluation& evaluation) {
  evaluation.generates = spec.generate.has_value();
  for (const std::string& metric : spec.metrics) {
    const Needs needs = metric_needs(metric);
    evaluation.logprobs |= needs == Needs::logprobs || needs == Needs::divergence;
    evaluation.divergence |= needs == Needs::divergence;
    evaluation.options |= needs == Needs::options;
    const Scorer* scorer = find_scorer(metric);
    if (scorer && scorer->score) evaluation.scorers.push_back(scorer);
  }
  for (const JudgeSpec& judge : spec.judges) evaluation.judges.push_back({judge.name, judge.command, judge.timeout});
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
  generation.sampling.temperature = static_cast<float>(spec.temperature);
  generation.sampling.top_p = static_cast<float>(spec.top_p);
  generation.sampling.top_k = static_cast<int32_t>(spec.top_k);
  if (experiment.program_of.empty()) return generation;
  const Program& program = experiment.spec.programs[static_cast<size_t>(experiment.program_of[record])];
  generation.max_tokens = program.max_tokens.value_or(generation.max_tokens);
  generation.samples = program.samples.value_or(generation.samples);
  if (program.temperature) generation.sampling.temperature = static_cast<float>(*program.temperature);
  if (program.top_p) generation.sampling.top_p = static_cast<float>(*program.top_p);
  if (program.top_k) generation.sampling.top_k = static_cast<int32_t>(*program.top_k);
  return generation;
}

class Conductor {
 public:
  Conductor(const Experiment& experiment, const ExperimentModel& model, const ConductOptions& options,
            const ConductEvents& events)
      : experiment_(experiment),
        spec_(experiment.spec),
        model_(model),
        options_(options),
        events_(events),
        span_names_(span_names(experiment.records)),
        directory_(options.out, manifest()) {}

  RunEnd run() {
    if (directory_.complete()) return RunEnd::was_complete;
    for (const std::string& line : experiment_.notes) note(line);
    try {
      if (!detect() || !tune()) return interrupted();
    } catch (const Stopped&) {
      return interrupted();
    }
    plan_interventions_of_run();
    Evaluation evaluation = evaluation_of(tested_records(), spec_, plans_, true);
    if (spec_.traces.on) check_traces(evaluation);
    directory_.begin(layout_of(evaluation));
    write_records();
    stage("running", directory_.samples().n_lines());
    if (!evaluate(model_, evaluation, directory_.samples(), evaluation_events())) return interrupted();
    stage("writing findings", 0);
    directory_.finish_samples();
    const RunFindings findings = write_findings(directory_.path());
    if (options_.on_findings) options_.on_findings(directory_.path(), findings);
    directory_.finish(RunStatus::complete);
    return RunEnd::complete;
  }

 private:
  struct Stopped {};  // thrown out of long statistics

  Manifest manifest() const {
    Manifest manifest;
    manifest.identity = options_.identity;
    manifest.identity.set("spec", resolved_json(spec_));
    manifest.info = options_.info;
    manifest.shard = options_.shard;
    return manifest;
  }

  RunEnd interrupted() {
    directory_.finish(RunStatus::interrupted);
    return RunEnd::interrupted;
  }
  void note(const std::string& line) {
    directory_.log(line);
    if (events_.on_note) events_.on_note(line);
  }
  void stage(const std::string& what, int64_t total) {
    directory_.log(what);
    if (events_.on_stage) events_.on_stage(what, total);
  }
  EvaluationEvents evaluation_events() {
    EvaluationEvents events;
    events.on_lines = events_.on_progress;
    events.on_stage = [this](const std::string& text) { directory_.log(text); };
    return events;
  }

  // The tested records of this shard.
  std::vector<int64_t> tested_records() const {
    std::vector<int64_t> kept;
    for (size_t i = 0; i < experiment_.splits.test.size(); ++i)
      if (options_.shard.has(static_cast<int64_t>(i))) kept.push_back(experiment_.splits.test[i]);
    return kept;
  }

  // Everything but the interventions of a stage.
  Evaluation work_on(const std::vector<int64_t>& records, const ExperimentSpec& spec) {
    Evaluation evaluation;
    evaluation.seeds = spec_.seeds;
    choose_work(spec, evaluation);
    evaluation.span_names = span_names_;
    for (const int64_t r : records) {
      const size_t at = static_cast<size_t>(r);
      evaluation.records.push_back(prepare_record(experiment_.records[at], model_, span_names_,
                                                  generation_of(experiment_, at), evaluation.logprobs,
                                                  evaluation.options));
    }
    return evaluation;
  }

  // [seeds][interventions] to an evaluation of them.
  Evaluation evaluation_of(const std::vector<int64_t>& records, const ExperimentSpec& spec,
                           const std::vector<std::vector<PlannedIntervention>>& planned, bool with_traces) {
    Evaluation evaluation = work_on(records, spec);
    for (size_t i = 0; i < planned[0].size(); ++i) {
      BoundIntervention bound{planned[0][i], {}};
      for (size_t s = 0; s < planned.size(); ++s) {
        const PlannedIntervention& one = planned[s][i];
        if (one.edits.items().empty()) {
          bound.plans.push_back(nullptr);
          continue;
        }
        const json::Ref edits(one.edits, spec_.where, "interventions." + one.name + ".edits");
        bound.plans.push_back(EditPlan::parse(edits, spec_.base_dir, model_.shape, spec_.seeds[s]));
      }
      if (bound.name == spec_.baseline) evaluation.baseline = static_cast<int64_t>(i);
      if (with_traces && spec_.traces.on && spec_.traced(bound.entry, bound.name))
        evaluation.traced.push_back(static_cast<int64_t>(i));
      evaluation.interventions.push_back(std::move(bound));
    }
    evaluation.points = PointSet::parse(spec_.traces.points, model_.shape);
    evaluation.trace_dir = [this](int64_t intervention, int64_t seed) {
      return trace_path(directory_.path(), schedule(), static_cast<size_t>(intervention), static_cast<size_t>(seed));
    };
    check_evaluation(evaluation);
    return evaluation;
  }

  static Layout layout_of(const Evaluation& evaluation) {
    Layout layout;
    layout.seeds = evaluation.seeds;
    for (const BoundIntervention& intervention : evaluation.interventions)
      layout.interventions.push_back(intervention.name);
    for (const PreparedRecord& record : evaluation.records) {
      layout.records.push_back(record.record->id);
      layout.samples.push_back(evaluation.generates ? record.generation.samples : 1);
    }
    layout.index();
    return layout;
  }

  void check_traces(const Evaluation& evaluation) const {
    if (span_names_.size() > 32)
      throw Error(spec_.where, "traces: expected at most 32 names of spans in the data, found " +
                                   std::to_string(span_names_.size()));
    if (evaluation.traced.empty()) throw Error(spec_.where, "traces.of: expected names of interventions, found none");
  }

  // ---- detection

  // The records that detection may see.
  const std::vector<int64_t>& seen_records() const {
    return spec_.split && !experiment_.splits.detect.empty() ? experiment_.splits.detect : experiment_.splits.test;
  }

  bool detect() {
    const bool usage = needs_usage(spec_);
    bool given = usage, generated = false;
    for (const DetectSpec& one : spec_.detect) (looks_at_generated(one) ? generated : given) = true;
    const fs::path stage_dir = directory_.path() / "detect";
    if (given && !trace_baseline(stage_dir / "trace", false)) return false;
    if (generated && !trace_baseline(stage_dir / "trace-generated", true)) return false;
    for (const DetectSpec& one : spec_.detect) {
      const fs::path dir = stage_dir / one.name;
      detect_files_[one.name] = fs::absolute(dir / "rd.csv");
      if (fs::exists(dir / "rd.csv")) continue;
      make_directory(dir);
      stage("detecting " + one.name, 2 * spec_.resamples);
      const TraceSet set({stage_dir / (looks_at_generated(one) ? "trace-generated" : "trace")});
      const ContrastOptions options = contrast_of(one);
      const Detection found = signalbox::detect(set, options);
      write_file_atomically(dir / "summary.json", json::dump(detection_summary(set, found, options), 2) + "\n");
      write_rd_csv(dir / "rd.csv", found.rows);
    }
    if (usage) {
      const TraceSet set({stage_dir / "trace"});
      usage_.resize(model_.shape.layers.size());
      for (size_t l = 0; l < usage_.size(); ++l)
        usage_[l].resize(static_cast<size_t>(model_.shape.layers[l].n_experts), 0.0);
      const std::vector<Usage> rows = usage_table(set, {});
      for (const Usage& row : rows)
        if (row.domain.empty() && row.expert < model_.shape.layers[static_cast<size_t>(row.layer)].n_experts)
          usage_[static_cast<size_t>(row.layer)][static_cast<size_t>(row.expert)] = static_cast<double>(row.count);
      if (!fs::exists(stage_dir / "usage.csv")) write_usage_csv(stage_dir / "usage.csv", rows);
    }
    return true;
  }

  // Tokens of a span are given ones.
  bool looks_at_generated(const DetectSpec& one) const {
    return one.phase == Condition::Phase::generated ||
           (one.phase == Condition::Phase::all && spec_.generate && one.span.empty());
  }

  ContrastOptions contrast_of(const DetectSpec& one) {
    ContrastOptions options;
    options.a = one.a;
    options.b = one.b;
    options.span = one.span;
    options.phase = one.phase == Condition::Phase::given       ? Phase::given
                    : one.phase == Condition::Phase::generated ? Phase::generated
                                                               : Phase::all;
    options.length_match = one.length_match;
    options.seed = spec_.seed;
    options.resamples = spec_.resamples;
    if (one.stable_top) options.stable_top = *one.stable_top;
    options.threads = options_.threads;
    options.on_progress = [this](int64_t done) {
      if (model_.options.interrupted && model_.options.interrupted->load(std::memory_order_relaxed)) throw Stopped{};
      if (events_.on_progress) events_.on_progress(done);
    };
    return options;
  }

  // Whether some ranking is by a column that needs the router's logits.
  bool ranks_by_logits() const {
    const auto asks = [](const json::Value& edit) { return ranking_text(edit, "by") == "logit_diff"; };
    return std::any_of(spec_.interventions.begin(), spec_.interventions.end(),
                       [&](const InterventionSpec& one) {
                         return std::any_of(one.edits.items().begin(), one.edits.items().end(), asks);
                       }) ||
           (spec_.audit && asks(spec_.audit->edit));
  }

  bool trace_baseline(const fs::path& dir, bool generated) {
    if (fs::exists(dir / "trace.safetensors") && fs::exists(dir / "records.jsonl")) return true;
    ExperimentSpec nothing_scored = spec_;
    nothing_scored.metrics.clear();
    nothing_scored.judges.clear();
    Evaluation evaluation = work_on(seen_records(), nothing_scored);
    evaluation.generates = generated;
    BoundIntervention baseline;
    baseline.name = spec_.baseline;
    baseline.plans.resize(spec_.seeds.size());
    evaluation.interventions = {std::move(baseline)};
    evaluation.points =
        PointSet::parse(std::string(default_points) + (ranks_by_logits() ? ",*.router.logits" : ""), model_.shape);
    make_directory(dir.parent_path());
    int64_t done = 0, total = 0;
    for (const PreparedRecord& record : evaluation.records) total += generated ? record.generation.samples : 1;
    stage("tracing the baseline for detection", total);
    return trace_evaluation(model_, evaluation, 0, 0, dir, [&](int64_t, Result, int64_t) {
      if (events_.on_progress) events_.on_progress(++done);
    });
  }

  // ---- tuning: of each grid, the point that does best on the tuning records goes on to the test

  bool tune() {
    tuned_ = spec_;
    if (!spec_.tune) return true;
    ExperimentSpec grids = spec_;
    grids.audit.reset();
    std::erase_if(grids.interventions,
                  [&](const InterventionSpec& one) { return one.grid.empty() && one.name != spec_.baseline; });
    for (InterventionSpec& one : grids.interventions) one.controls = {};
    grids.metrics = {spec_.tune->metric};
    std::erase_if(grids.judges, [&](const JudgeSpec& judge) { return "judge:" + judge.name != spec_.tune->metric; });
    const fs::path dir = directory_.path() / "tune";
    make_directory(dir);
    Evaluation evaluation = evaluation_of(experiment_.splits.tune, grids, plans_of(grids), false);
    {
      SampleLog log(dir, layout_of(evaluation));
      stage("tuning", log.n_lines());
      if (!evaluate(model_, evaluation, log, evaluation_events())) return false;
      log.finish();
    }
    choose_points(dir, grids, evaluation);
    return true;
  }

  void choose_points(const fs::path& dir, const ExperimentSpec& grids, const Evaluation& evaluation) {
    const RunSchedule schedule = make_schedule(spec_, grids.metrics, plans_of(grids));
    std::string lines;
    for (const PreparedRecord& record : evaluation.records) lines += json::dump(record.record->source) + "\n";
    write_file_atomically(dir / records_file, lines);
    const RunValues values = collect_values(dir, schedule);
    std::map<std::string, std::pair<std::string, double>> best;  // entry -> point and mean
    json::Value points = json::Value::array();
    for (const InterventionSpec& one : grids.interventions) {
      if (one.grid.empty()) continue;
      const double mean = mean_of(values, one.name, spec_.tune->metric);
      json::Value point = json::Value::object();
      point.set("entry", one.entry).set("name", one.name).set("mean", mean);
      points.push_back(std::move(point));
      if (std::isnan(mean)) continue;
      const auto found = best.find(one.entry);
      const bool better =
          found == best.end() || (spec_.tune->higher ? mean > found->second.second : mean < found->second.second);
      if (better) best[one.entry] = {one.name, mean};
    }
    json::Value chosen = json::Value::object(), all = json::Value::object();
    for (const auto& [entry, point] : best) {
      chosen.set(entry, point.first);
      note("tuning: " + point.first + " goes on to the test records");
    }
    all.set("metric", spec_.tune->metric).set("goal", spec_.tune->higher ? "higher" : "lower");
    all.set("chosen", std::move(chosen)).set("points", std::move(points));
    write_file_atomically(dir / "choice.json", json::dump(all, 2) + "\n");
    std::erase_if(tuned_.interventions, [&](const InterventionSpec& one) {
      if (one.grid.empty()) return false;
      const auto found = best.find(one.entry);
      if (found == best.end())
        throw Error(spec_.where, "tune.metric: expected " + spec_.tune->metric +
                                     " to be defined on the tuning records of \"" + one.entry + "\", found no value");
      return found->second.first != one.name;
    });
  }

  static double mean_of(const RunValues& values, const std::string& name, const std::string& metric) {
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

  // ---- the plan of the run

  std::vector<std::vector<PlannedIntervention>> plans_of(const ExperimentSpec& spec) const {
    std::vector<std::vector<PlannedIntervention>> plans;
    for (const uint64_t seed : spec.seeds) {
      plans.push_back(plan_interventions(spec, model_.shape, detect_files_, usage_, seed));
      for (PlannedIntervention& one : plans.back())
        if (ranks_by_detection(one.edits)) one.edits = with_listed_experts(one);
    }
    return plans;
  }

  // Whether some edit takes its experts from a stage of detection.
  bool ranks_by_detection(const json::Value& edits) const {
    for (const json::Value& edit : edits.items())
      for (const auto& [name, file] : detect_files_)
        if (ranking_text(edit, "from") == file.string()) return true;
    return false;
  }

  // The edits with their experts by layer: what a run does must not name files of its own directory, which other shards
  // have elsewhere.
  json::Value with_listed_experts(const PlannedIntervention& one) const {
    const json::Ref edits(one.edits, spec_.where, "interventions." + one.name + ".edits");
    const NamedExperts named(edits, spec_.base_dir, model_.shape);
    Replacement same;
    for (const LayerShape& layer : model_.shape.layers) {
      same.emplace_back(static_cast<size_t>(layer.n_experts));
      std::iota(same.back().begin(), same.back().end(), 0);
    }
    return named.replaced(same);
  }

  RunSchedule schedule() const { return make_schedule(spec_, spec_.metrics, plans_); }

  void plan_interventions_of_run() {
    plans_ = plans_of(tuned_);
    keep_ranking();
    write_schedule(directory_.path(), schedule());
    directory_.log(std::to_string(plans_[0].size()) + " interventions");
  }

  // The ranking that the audit is held against, beside it: the spec's file may change.
  void keep_ranking() {
    for (const RankingUse& use : rankings_of(spec_)) {
      const fs::path kept = directory_.path() / "audit" / "rd.csv";
      if (!use.path.starts_with("audit") || !use.detect.empty() || fs::exists(kept)) continue;
      make_directory(kept.parent_path());
      write_file_atomically(kept, read_whole(use.file));
    }
  }

  void write_records() {
    std::string lines;
    for (const int64_t r : tested_records())
      lines += json::dump(experiment_.records[static_cast<size_t>(r)].source) + "\n";
    write_file_atomically(directory_.path() / records_file, lines);
  }

  const Experiment& experiment_;
  const ExperimentSpec& spec_;
  const ExperimentModel& model_;
  const ConductOptions& options_;
  const ConductEvents& events_;
  const std::vector<std::string> span_names_;
  RunDirectory directory_;
  std::map<std::string, fs::path> detect_files_;
  UsageTable usage_;
  ExperimentSpec tuned_;  // with the chosen points of grids alone
  std::vector<std::vector<PlannedIntervention>> plans_;
};

}  // namespace

Experiment open_experiment(ExperimentSpec parsed) {
  Experiment experiment;
  ExperimentSpec& spec = experiment.spec;
  spec = std::move(parsed);
  std::vector<Record> records = read_records(spec.data.string());
  if (spec.programs.empty()) {
    experiment.records = std::move(records);
  } else {
    for (Derived& derived : apply_programs(spec.programs, records)) {
      experiment.records.push_back(std::move(derived.record));
      experiment.program_of.push_back(static_cast<int64_t>(derived.program));
    }
  }
  experiment.splits = split_records(spec, experiment.records);
  experiment.notes = check_against_records(spec, experiment.records);
  std::vector<Record> tested;
  for (const int64_t r : experiment.splits.test) tested.push_back(experiment.records[static_cast<size_t>(r)]);
  if (!spec.metrics_given) spec.metrics = default_metrics(spec, tested);
  const bool controlled = std::any_of(spec.interventions.begin(), spec.interventions.end(),
                                      [](const auto& one) { return one.names_experts && one.controls.random > 0; });
  if (controlled && spec.seeds.size() > 1)
    experiment.notes.push_back(
        "each seed draws its own controls, so ranks among them are too good: use one seed for ranks");
  if (spec.generate && spec.generate->samples > 1 && spec.generate->temperature == 0 && spec.programs.empty())
    experiment.notes.push_back("samples of one record are alike at temperature 0");
  return experiment;
}

namespace {

// What the model refuses of the interventions that do not wait for detection, and of the records: before anything is
// written.
void check_early(const Experiment& experiment, const ExperimentModel& model) {
  const ExperimentSpec& spec = experiment.spec;
  const auto waits = [](const json::Value& edit) { return ranking_text(edit, "from").starts_with("detect:"); };
  const auto check = [&](const json::Value& edits, const std::string& path) {
    if (!edits.items().empty() && std::none_of(edits.items().begin(), edits.items().end(), waits))
      EditPlan::parse(json::Ref(edits, spec.where, path), spec.base_dir, model.shape, spec.seeds[0]);
  };
  for (const InterventionSpec& one : spec.interventions) check(one.edits, one.path + ".edits");
  if (spec.audit) check(json::Value::array().push_back(spec.audit->edit), spec.audit->path);
  Evaluation wanted;
  choose_work(spec, wanted);
  const std::vector<std::string> names = span_names(experiment.records);
  for (const auto* part : {&experiment.splits.detect, &experiment.splits.tune, &experiment.splits.test})
    for (const int64_t r : *part)
      prepare_record(experiment.records[static_cast<size_t>(r)], model, names,
                     generation_of(experiment, static_cast<size_t>(r)), wanted.logprobs, wanted.options);
}

}  // namespace

RunEnd conduct(const Experiment& experiment, const ExperimentModel& model, const ConductOptions& options,
               const ConductEvents& events) {
  check_early(experiment, model);
  return Conductor(experiment, model, options, events).run();
}

}  // namespace signalbox
