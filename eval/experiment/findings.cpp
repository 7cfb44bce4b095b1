#include "eval/experiment/findings.h"

#include <algorithm>

#include "base/files.h"
#include "eval/experiment/evaluate.h"
#include "eval/findings/audit.h"
#include "eval/findings/tables.h"
#include "eval/report/run_report.h"
#include "eval/score/fields.h"
#include "eval/score/sample_lines.h"
#include "eval/score/scorer.h"
#include "eval/store/journal.h"
#include "probes/trace.h"

namespace signalbox {

namespace {

namespace fs = std::filesystem;

const char* control_name(ControlKind kind) {
  switch (kind) {
    case ControlKind::random: return "random";
    case ControlKind::frequency_matched: return "frequency_matched";
    case ControlKind::bottom: return "bottom";
    case ControlKind::none: break;
  }
  return "";
}

ControlKind control_of_name(const json::Ref& name) {
  for (const ControlKind kind :
       {ControlKind::none, ControlKind::random, ControlKind::frequency_matched, ControlKind::bottom})
    if (name.string() == control_name(kind)) return kind;
  name.fail("expected a kind of control, found \"" + name.string() + "\"");
}

json::Value planned_json(const PlannedIntervention& one) {
  json::Value value = json::Value::object();
  value.set("name", one.name).set("entry", one.entry).set("description", one.description);
  if (one.control != ControlKind::none)
    value.set("control", control_name(one.control)).set("control_of", one.control_of);
  if (!one.grid.empty()) {
    json::Value grid = json::Value::object();
    for (const auto& [key, point] : one.grid) grid.set(key, point);
    value.set("grid", std::move(grid));
  }
  if (one.audited)
    value.set("audited",
              json::Value::array().push_back(int64_t{one.audited->first}).push_back(int64_t{one.audited->second}));
  return value.set("edits", one.edits);
}

PlannedIntervention planned_of(const json::Ref& value) {
  PlannedIntervention one;
  one.name = value.at("name").string();
  one.entry = value.at("entry").string();
  one.description = value.at("description").string();
  if (const auto kind = value.find("control")) {
    one.control = control_of_name(*kind);
    one.control_of = value.at("control_of").string();
  }
  if (const auto grid = value.find("grid"))
    for (const auto& [key, point] : grid->members()) one.grid.emplace_back(key, point.value());
  if (const auto audited = value.find("audited"))
    one.audited = {static_cast<int32_t>((*audited)[0].integer(0, INT32_MAX)),
                   static_cast<int32_t>((*audited)[1].integer(0, INT32_MAX))};
  one.edits = value.at("edits").value();
  return one;
}

// Sums of values of one record, and their mean.
struct Mean {
  double sum = 0;
  int64_t n = 0;
};

// The routes of one sample of a trace.
class SampleRoutes {
 public:
  SampleRoutes(const TraceReader& trace, int64_t sample) {
    const TraceReader::Rows rows = trace.rows(sample);
    ids_ = trace.ids(rows);
    if (trace.has("router.weights")) weights_ = trace.weights(rows);
    routes_ = {rows.size(), static_cast<int64_t>(trace.layers().size()), trace.n_slots(), ids_, weights_};
  }
  SampleRoutes(const SampleRoutes&) = delete;
  SampleRoutes& operator=(const SampleRoutes&) = delete;
  const Routes& routes() const { return routes_; }

 private:
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
  Routes routes_;
};

// What is known of the samples while the file is read.
class Collector {
 public:
  Collector(const fs::path& dir, const ExperimentPlan& plan) : dir_(dir), plan_(plan) {
    // A shard may have no record at all.
    if (fs::file_size(dir / records_file) > 0) records_ = read_records((dir / records_file).string());
    for (const std::string& metric : plan.metrics) {
      const Scorer* scorer = find_scorer(metric);
      groups_ |= scorer && (scorer->score_group || scorer->score_routes);
    }
    for (size_t r = 0; r < records_.size(); ++r) record_of_[records_[r].id] = static_cast<int64_t>(r);
    samples_.resize(plan.interventions.at(0).size());
    means_.resize(samples_.size());
  }

  RunValues collect() {
    read_lines();
    RunValues run;
    run.metrics = plan_.metrics;
    run.baseline = plan_.baseline;
    run.seed = plan_.seed;
    run.resamples = plan_.resamples;
    for (const Record& record : records_) {
      // A record with those that rephrase it is one example.
      const std::string rephrased = paraphrase_of(record);
      run.clusters.push_back(!record.pair.empty() ? "pair " + record.pair
                                                  : "id " + (rephrased.empty() ? record.id : rephrased));
      run.conditions.push_back(record.condition);
    }
    for (size_t i = 0; i < samples_.size(); ++i) {
      const PlannedIntervention& planned = plan_.interventions[0][i];
      InterventionValues values;
      values.name = planned.name;
      values.description = planned.description;
      values.control_of = planned.control_of;
      values.control = planned.control;
      values.grid = planned.grid;
      for (const std::string& metric : plan_.metrics) values.metrics[metric] = values_of(i, metric);
      run.interventions.push_back(std::move(values));
    }
    return run;
  }

 private:
  void read_lines() {
    std::map<std::string, size_t> intervention_of;
    for (size_t i = 0; i < samples_.size(); ++i) intervention_of[plan_.interventions[0][i].name] = i;
    for_each_sample_line(dir_ / samples_file, [&](SampleLine line, const json::Ref& source) {
      const auto found = intervention_of.find(line.intervention);
      if (found == intervention_of.end())
        source.at("intervention")
            .fail("expected an intervention of " + std::string(plan_file) + ", found \"" + line.intervention + "\"");
      const auto record = record_of_.find(line.sample.id);
      if (record == record_of_.end())
        source.at("id").fail("expected a record of " + std::string(records_file) + ", found \"" + line.sample.id +
                             "\"");
      add_scores(found->second, record->second, line);
      if (!groups_) return;
      line.sample.record = record->second;
      samples_[found->second].push_back(std::move(line.sample));
    });
  }

  void add_scores(size_t intervention, int64_t record, const SampleLine& line) {
    for (const auto& [metric, value] : line.scores)
      if (value) add_value(intervention, metric, record, *value);
    for (const auto& [judge, value] : line.sample.judged) add_value(intervention, "judge:" + judge, record, value);
  }

  MetricValues values_of(size_t i, const std::string& metric) {
    const Scorer* scorer = find_scorer(metric);
    if (scorer && scorer->score_group) {
      const size_t baseline = plan_.baseline_index();
      for (const ScoredUnit& unit : scorer->score_group({records_, samples_[i], samples_[baseline]}))
        add_value(i, metric, unit.record, unit.value);
    } else if (scorer && scorer->score_routes) {
      add_routes(i, metric, *scorer);
    }
    MetricValues values;
    for (const auto& [record, mean] : means_[i][metric]) {
      values.records.push_back(record);
      values.values.push_back(mean.sum / static_cast<double>(mean.n));
    }
    return values;
  }

  void add_value(size_t i, const std::string& metric, int64_t record, double value) {
    Mean& mean = means_[i][metric][record];
    mean.sum += value;
    ++mean.n;
  }

  // Sample by sample beside the baseline's trace of the same seed.
  void add_routes(size_t i, const std::string& metric, const Scorer& scorer) {
    for (size_t s = 0; s < plan_.seeds.size(); ++s) {
      const TraceReader mine(trace_path(dir_, plan_, i, s)), theirs(trace_path(dir_, plan_, plan_.baseline_index(), s));
      if (mine.sample_ids() != theirs.sample_ids())
        throw Error(mine.file(), "expected the samples of " + theirs.file() + ", found others");
      for (int64_t n = 0; n < mine.n_samples(); ++n) {
        const SampleRoutes a(mine, n), b(theirs, n);
        const auto value = scorer.score_routes(a.routes(), b.routes());
        const int64_t record = record_of_.at(mine.sample_ids()[static_cast<size_t>(n)]);
        if (value) add_value(i, metric, record, *value);
      }
    }
  }

  const fs::path dir_;
  const ExperimentPlan& plan_;
  std::vector<Record> records_;
  std::map<std::string, int64_t> record_of_;
  bool groups_ = false;                                                // some metric looks at more than one sample
  std::vector<std::vector<Sample>> samples_;                           // [interventions], empty unless groups_
  std::vector<std::map<std::string, std::map<int64_t, Mean>>> means_;  // [interventions][metric][record]
};

}  // namespace

ExperimentPlan read_plan(const fs::path& dir) {
  const fs::path file = dir / plan_file;
  const json::Value value = json::parse_file(file);
  return ExperimentPlan::from_json(json::Ref(value, file.string()));
}

size_t ExperimentPlan::baseline_index() const {
  for (size_t i = 0; i < interventions[0].size(); ++i)
    if (interventions[0][i].name == baseline) return i;
  throw Error(plan_file, "expected the baseline \"" + baseline + "\", found none");
}

json::Value ExperimentPlan::to_json() const {
  json::Value names = json::Value::array(), all = json::Value::array(), by_seed = json::Value::array();
  for (const std::string& metric : metrics) names.push_back(metric);
  for (const uint64_t one : seeds) all.push_back(one);
  for (const auto& list : interventions) {
    json::Value planned = json::Value::array();
    for (const PlannedIntervention& one : list) planned.push_back(planned_json(one));
    by_seed.push_back(std::move(planned));
  }
  json::Value value = json::Value::object();
  value.set("schema", "signalbox.plan/1").set("baseline", baseline).set("metrics", std::move(names));
  value.set("seeds", std::move(all)).set("resamples", resamples).set("seed", seed);
  return value.set("interventions", std::move(by_seed));
}

ExperimentPlan ExperimentPlan::from_json(const json::Ref& value) {
  ExperimentPlan plan;
  if (value.at("schema").string() != "signalbox.plan/1")
    value.at("schema").fail("expected \"signalbox.plan/1\", found \"" + value.at("schema").string() + "\"");
  auto whole = [](const json::Ref& number) {
    return static_cast<uint64_t>(number.value().is_unsigned() ? number.value().integer()
                                                              : number.integer(0, INT64_MAX));
  };
  plan.baseline = value.at("baseline").string();
  for (const json::Ref& metric : value.at("metrics").items()) plan.metrics.push_back(metric.string());
  for (const json::Ref& seed : value.at("seeds").items()) plan.seeds.push_back(whole(seed));
  plan.resamples = value.at("resamples").size();
  plan.seed = whole(value.at("seed"));
  for (const json::Ref& list : value.at("interventions").items()) {
    plan.interventions.emplace_back();
    for (const json::Ref& one : list.items()) plan.interventions.back().push_back(planned_of(one));
  }
  if (plan.interventions.size() != plan.seeds.size() || plan.seeds.empty())
    value.at("interventions").fail("expected a list for each seed, found " + std::to_string(plan.interventions.size()));
  return plan;
}

fs::path trace_path(const fs::path& dir, const ExperimentPlan& plan, size_t intervention, size_t seed) {
  const fs::path path = dir / "traces" / plan.interventions.at(seed).at(intervention).name;
  return plan.seeds.size() == 1 ? path : path / ("seed-" + std::to_string(plan.seeds[seed]));
}

RunValues collect_values(const fs::path& dir, const ExperimentPlan& plan) { return Collector(dir, plan).collect(); }

std::string findings_text(const fs::path& dir, const json::Value& metrics) {
  std::string text = table_text(result_rows(metrics, RowChoice::main));
  if (metrics.find("audit")) text += "\n" + audit_text(audit_rows(metrics, ranking_of_audit(dir)), metrics);
  return text;
}

void write_findings(const fs::path& dir) {
  const ExperimentPlan plan = read_plan(dir);
  const RunValues values = collect_values(dir, plan);
  json::Value metrics = metrics_json(values);
  const bool audited = std::any_of(plan.interventions[0].begin(), plan.interventions[0].end(),
                                   [](const PlannedIntervention& one) { return one.audited.has_value(); });
  if (audited) add_audit(dir, metrics);
  write_file_atomically(dir / "metrics.json", json::dump(metrics, 1) + "\n");
  write_tables(dir, metrics);
  write_file_atomically(dir / "report.html", render_run_report(dir));
}

}  // namespace signalbox
