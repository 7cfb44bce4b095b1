#include "eval/experiment/detect_stage.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/csv.h"
#include "base/files.h"
#include "eval/data/prompt_hash.h"
#include "eval/detect/risk_difference.h"
#include "eval/findings/audit.h"
#include "eval/findings/format.h"
#include "eval/routing/recording.h"
#include "eval/routing/trace_set.h"
#include "eval/routing/usage.h"
#include "eval/store/facts.h"
#include "probes/ranking.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// Tokens of a span are given ones.
bool looks_at_generated(const ExperimentSpec& spec, const DetectSpec& one) {
  return one.phase == Phase::generated || (one.phase == Phase::all && spec.generate && one.span.empty());
}

// The records that detection may see.
const std::vector<int64_t>& seen_records(const ExperimentSpec& spec, const Splits& splits) {
  return spec.split && !splits.detect.empty() ? splits.detect : splits.test;
}

struct Stopped {};  // thrown out of long statistics

class DetectStage {
 public:
  explicit DetectStage(const RunContext& run) : run_(run), spec_(run.spec()), dir_(run.directory.path() / "detect") {}

  std::optional<Detected> go() {
    for (const BaselineTrace& trace : baseline_traces(spec_))
      if (!trace_baseline(dir_ / trace.name, trace.records(spec_, run_.experiment.splits), trace.generated))
        return std::nullopt;
    Detected detected;
    for (const DetectSpec& one : spec_.detect) {
      detected.files[one.name] = fs::absolute(dir_ / one.name / "rd.csv");
      rank(one);
      if (one.held_out) hold_out(one);
    }
    if (needs_usage(spec_)) detected.usage = count_usage();
    return detected;
  }

 private:
  bool looks_at_generated(const DetectSpec& one) const { return eval::looks_at_generated(spec_, one); }
  const std::vector<int64_t>& seen_records() const { return eval::seen_records(spec_, run_.experiment.splits); }

  // False when interrupted.
  bool trace_baseline(const fs::path& dir, const std::vector<int64_t>& records, bool generated) const {
    if (is_recorded(dir)) return true;
    Evaluation evaluation = evaluation_of(run_, records, {});
    evaluation.generates = generated;
    BoundIntervention baseline;
    baseline.name = spec_.baseline;
    baseline.plans.resize(spec_.seeds.size());
    evaluation.interventions = {std::move(baseline)};
    evaluation.points = PointSet::parse(detection_points(spec_), run_.session.shape);
    made_directory(dir.parent_path());
    int64_t done = 0, total = 0;
    for (const PreparedRecord& record : evaluation.records) total += generated ? record.generation.samples : 1;
    run_.begin_stage("tracing the baseline for detection", total);
    return trace_evaluation(run_.session, evaluation, 0, 0, dir,
                            [&](int64_t, Result, int64_t) { run_.progress(++done); });
  }

  ContrastOptions contrast_of(const DetectSpec& one) const {
    ContrastOptions options;
    options.a = one.a;
    options.b = one.b;
    options.span = one.span;
    options.phase = one.phase;
    options.length_match = one.length_match;
    options.seed = spec_.seed;
    options.resamples = spec_.resamples;
    if (one.stable_top) options.stable_top = *one.stable_top;
    options.threads = run_.options.threads;
    options.on_progress = [this](int64_t done) {
      if (run_.interrupted()) throw Stopped{};
      run_.progress(done);
    };
    return options;
  }

  void rank(const DetectSpec& one) const {
    const fs::path dir = dir_ / one.name;
    if (fs::exists(dir / "rd.csv")) return;
    made_directory(dir);
    TraceSet set({dir_ / (looks_at_generated(one) ? "trace-generated" : "trace")});
    set.name_prompts(prompts_seen());
    const ContrastOptions options = contrast_of(one);
    const ContrastCounts counts = count_contrast(set, options);
    refuse_no_difference(one, counts, options);
    run_.begin_stage("detecting " + one.name, n_replicates(set, options), 0, "resamples");
    const Detection found = detect(counts, options);
    // rd.csv gets its name last: where it stands, its summary does.
    write_rd_csv(dir / "rd.csv.part", found.rows);
    json::Value summary = detection_summary(set, found, options);
    summary.set("tables", json::Value::object().set("rd.csv", file_hash(dir / "rd.csv.part")));
    write_file_atomically(dir / "summary.json", json::dump(summary, 2) + "\n");
    fs::rename(dir / "rd.csv.part", dir / "rd.csv");
  }

  // Where nothing differs, experts that an intervention wants by how often they are selected will never come: said
  // before the resampling.
  void refuse_no_difference(const DetectSpec& one, const ContrastCounts& counts, const ContrastOptions& options) const {
    const std::string none = no_difference(counts, options);
    if (none.empty()) return;
    for (const InterventionSpec& intervention : spec_.interventions)
      for (const json::Value& edit : intervention.edits.items())
        if (detect_stage_of(edit) == one.name && ranks_by_selection(edit))
          throw Error(spec_.where, "detect." + one.name + ": expected experts to differ for " + intervention.path +
                                       ", found that " + none);
    run_.note("detect " + one.name + ": " + none);
  }

  // What the model saw of the records, by id.
  std::map<std::string, std::vector<std::string>> prompts_seen() const {
    std::map<std::string, std::vector<std::string>> prompts;
    for (const int64_t r : seen_records()) {
      const size_t at = static_cast<size_t>(r);
      const Record& record = run_.experiment.records[at];
      prompts[record.id] = prompt_hashes(record, run_.records[at]->prompt, run_.session.encode);
    }
    return prompts;
  }

  // The contrast on the records of the test split, beside the top of the ranking.
  void hold_out(const DetectSpec& one) const {
    constexpr size_t n_shown = 10;
    const fs::path dir = dir_ / one.name;
    if (fs::exists(dir / "held_out.csv")) return;
    run_.begin_stage("measuring " + one.name + " on the test records", spec_.resamples, 0, "resamples");
    const TraceSet set({dir_ / (looks_at_generated(one) ? "trace-test-generated" : "trace-test")});
    const ContrastOptions options = contrast_of(one);
    const Detection found = measure(count_contrast(set, options), options);
    std::map<std::pair<int64_t, int64_t>, const RiskDifference*> rows;
    CsvWriter csv({"layer", "expert", "rd", "ci_lo", "ci_hi"});
    for (const RiskDifference& row : found.rows) {
      rows[{row.layer, row.expert}] = &row;
      csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.value()).cell(row.ci.lo).cell(row.ci.hi);
      csv.end_row();
    }
    write_file_atomically(dir / "held_out.csv", csv.text());
    run_.note("detect " + one.name + ": the first experts by |rd|, there and on the test records, 95 % intervals");
    const std::vector<RankedExpert> ranking = by_magnitude(read_ranking(dir / "rd.csv"));
    for (size_t i = 0; i < std::min(n_shown, ranking.size()); ++i) {
      const RankedExpert& expert = ranking[i];
      const auto row = rows.find({expert.layer, expert.expert});
      if (row == rows.end()) continue;
      run_.note("  layer " + std::to_string(expert.layer) + ", expert " + std::to_string(expert.expert) + ": " +
                format_difference(expert.rd, 4) + " " + format_interval(expert.ci_lo, expert.ci_hi, 4, true) + ", " +
                format_difference(row->second->value(), 4) + " " +
                format_interval(row->second->ci.lo, row->second->ci.hi, 4, true));
    }
  }

  // How often the baseline selects each expert of the model.
  UsageTable count_usage() const {
    const std::vector<LayerShape>& layers = run_.session.shape.layers;
    UsageTable counts;
    for (const LayerShape& layer : layers) counts.emplace_back(static_cast<size_t>(layer.n_experts), 0.0);
    const std::vector<Usage> rows = usage_table(TraceSet({dir_ / "trace"}), {});
    for (const Usage& row : rows)
      if (row.domain.empty() && row.expert < layers[static_cast<size_t>(row.layer)].n_experts)
        counts[static_cast<size_t>(row.layer)][static_cast<size_t>(row.expert)] = static_cast<double>(row.count);
    if (!fs::exists(dir_ / "usage.csv")) write_usage_csv(dir_ / "usage.csv", rows);
    return counts;
  }

  const RunContext& run_;
  const ExperimentSpec& spec_;
  const fs::path dir_;
};

}  // namespace

const std::vector<int64_t>& BaselineTrace::records(const ExperimentSpec& spec, const Splits& splits) const {
  return tested ? splits.test : seen_records(spec, splits);
}

std::vector<BaselineTrace> baseline_traces(const ExperimentSpec& spec) {
  bool given = needs_usage(spec), generated = false, test_given = false, test_generated = false;
  for (const DetectSpec& one : spec.detect) {
    (looks_at_generated(spec, one) ? generated : given) = true;
    if (one.held_out) (looks_at_generated(spec, one) ? test_generated : test_given) = true;
  }
  std::vector<BaselineTrace> traces;
  if (given) traces.push_back({"trace", false, false});
  if (generated) traces.push_back({"trace-generated", false, true});
  if (test_given) traces.push_back({"trace-test", true, false});
  if (test_generated) traces.push_back({"trace-test-generated", true, true});
  return traces;
}

// An audit of all experts is held against all that can rank.
std::string detection_points(const ExperimentSpec& spec) {
  std::set<std::string> more;
  const auto look = [&](const json::Value& edit) {
    const std::string by = ranking_text(edit, "by");
    if (by == "logit_diff") more.insert("*.router.logits");
    if (const std::string_view point = contribution_point(by); !point.empty()) more.insert(std::string(point));
  };
  for (const InterventionSpec& one : spec.interventions)
    for (const json::Value& edit : one.edits.items()) look(edit);
  bool all = spec.audit && spec.audit->all;
  if (spec.audit)
    for (const json::Value& edit : spec.audit->edits) look(edit);
  for (const DetectSpec& one : spec.detect) all = all || one.contributions;
  if (all)
    for (const ContributionName& one : contribution_names) more.insert(std::string(one.tensor));
  std::string out(default_points);
  for (const std::string& one : more) out += "," + one;
  return out;
}

std::optional<Detected> run_detection(const RunContext& run) {
  try {
    return DetectStage(run).go();
  } catch (const Stopped&) {
    return std::nullopt;
  }
}

}  // namespace signalbox::eval
