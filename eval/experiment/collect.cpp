#include "eval/experiment/collect.h"

#include <algorithm>
#include <array>

#include "eval/data/examples.h"
#include "eval/score/sample_lines.h"
#include "eval/score/scorer.h"
#include "eval/store/journal.h"
#include "probes/trace.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

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

// Whether some edit of a list may change a route: others write to points, or scale the shared expert.
bool edits_routes(const json::Value& edits) {
  constexpr std::array others = {"ablate", "add", "patch", "scale_shared"};
  return std::any_of(edits.items().begin(), edits.items().end(), [&](const json::Value& edit) {
    const json::Value* op = edit.find("op");
    return op && op->is_string() && std::find(others.begin(), others.end(), op->string()) == others.end();
  });
}

// What is known of the samples while the file is read.
class Collector {
 public:
  Collector(const fs::path& dir, const RunSchedule& schedule) : dir_(dir), schedule_(schedule) {
    // A shard may have no record at all.
    if (fs::file_size(dir / records_file) > 0) records_ = read_records((dir / records_file).string());
    for (const std::string& metric : schedule.metrics) {
      const Scorer* scorer = find_scorer(metric);
      groups_ |= scorer && (scorer->score_group || scorer->score_routes);
    }
    for (size_t r = 0; r < records_.size(); ++r) record_of_[records_[r].id] = static_cast<int64_t>(r);
    samples_.resize(schedule.interventions.size());
    means_.resize(samples_.size());
    edits_.resize(samples_.size());
  }

  RunValues collect() {
    read_lines();
    RunValues run;
    run.metrics = schedule_.metrics;
    run.baseline = schedule_.baseline;
    run.primary = schedule_.primary;
    run.margins = schedule_.margins;
    run.seed = schedule_.seed;
    run.resamples = schedule_.resamples;
    run.data = schedule_.data;
    run.data.copies = count_copies(records_);
    for (const size_t first : independent_examples(records_)) run.clusters.push_back(records_[first].id);
    for (const Record& record : records_) run.conditions.push_back(record.condition);
    for (size_t i = 0; i < samples_.size(); ++i) {
      InterventionValues values;
      static_cast<Intervention&>(values) = schedule_.interventions[i];
      values.n_edits = static_cast<int64_t>(schedule_.interventions[i].edits.items().size());
      values.edits_routes = edits_routes(schedule_.interventions[i].edits);
      values.edits = edits_[i];
      for (const std::string& metric : schedule_.metrics) values.metrics[metric] = values_of(i, metric);
      run.interventions.push_back(std::move(values));
    }
    return run;
  }

 private:
  void read_lines() {
    std::map<std::string, size_t> intervention_of;
    for (size_t i = 0; i < samples_.size(); ++i) intervention_of[schedule_.interventions[i].name] = i;
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
    for (size_t i = 0; i < samples_.size(); ++i)
      if (schedule_.interventions[i].first_seed_only) repeat_for_seeds(samples_[i]);
  }

  // What scores that look at several samples see of an intervention that no seed touches: the same under each.
  void repeat_for_seeds(std::vector<Sample>& samples) const {
    const size_t n = samples.size();
    samples.reserve(n * schedule_.seeds.size());
    for (size_t s = 1; s < schedule_.seeds.size(); ++s)
      for (size_t k = 0; k < n; ++k) {
        samples.push_back(samples[k]);
        samples.back().seed = schedule_.seeds[s];
      }
  }

  void add_scores(size_t intervention, int64_t record, const SampleLine& line) {
    if (line.sample.edits) edits_[intervention][record] += *line.sample.edits;
    for (const auto& [metric, value] : line.scores)
      if (value) add_value(intervention, metric, record, *value);
    for (const auto& [judge, value] : line.sample.judged) add_value(intervention, "judge:" + judge, record, value);
  }

  MetricValues values_of(size_t i, const std::string& metric) {
    const Scorer* scorer = find_scorer(metric);
    if (scorer && scorer->score_group) {
      const size_t baseline = schedule_.baseline_index();
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

  // Sample by sample beside the baseline's trace of the same seed, or of the only one.
  void add_routes(size_t i, const std::string& metric, const Scorer& scorer) {
    const size_t baseline = schedule_.baseline_index();
    for (size_t s = 0; s < schedule_.seeds.size() && schedule_.runs(i, s); ++s) {
      const TraceReader mine(trace_path(dir_, schedule_, i, s)),
          theirs(trace_path(dir_, schedule_, baseline, schedule_.runs(baseline, s) ? s : 0));
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
  const RunSchedule& schedule_;
  std::vector<Record> records_;
  std::map<std::string, int64_t> record_of_;
  bool groups_ = false;                                                // some metric looks at more than one sample
  std::vector<std::vector<Sample>> samples_;                           // [interventions], empty unless groups_
  std::vector<std::map<std::string, std::map<int64_t, Mean>>> means_;  // [interventions][metric][record]
  std::vector<std::map<int64_t, EditCounts>> edits_;                   // [interventions][record]
};

}  // namespace

RunValues collect_values(const fs::path& dir, const RunSchedule& schedule) {
  return Collector(dir, schedule).collect();
}

}  // namespace signalbox::eval
