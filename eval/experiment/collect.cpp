#include "eval/experiment/collect.h"

#include <algorithm>
#include <array>

#include "eval/data/examples.h"
#include "eval/routing/recording.h"
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
  // `finished`: what there is of a run that is not finished; null: all.
  Collector(const fs::path& dir, const RunSchedule& schedule, const FinishedLines* finished)
      : dir_(dir), schedule_(schedule), finished_(finished) {
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
    repeat_for_seeds();
    RunValues run;
    run.metrics = schedule_.metrics;
    run.baseline = schedule_.baseline;
    run.primary = schedule_.primary;
    run.margins = schedule_.margins;
    run.seed = schedule_.seed;
    run.resamples = schedule_.resamples;
    run.limit = schedule_.limit;
    if (finished_) run.partial = partial();
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
  // Whether the samples of a record under a seed count.
  bool counts(int64_t seed, int64_t intervention, int64_t record) const {
    if (!finished_) return true;
    const auto baseline = static_cast<int64_t>(schedule_.baseline_index());
    return finished_->has_record(seed, intervention, record) &&
           finished_->has_record(finished_->layout().has(seed, baseline) ? seed : 0, baseline, record);
  }

  PartialRun partial() const {
    PartialRun out{finished_->n_known(), finished_->n_lines(), static_cast<int64_t>(records_.size()), {}};
    for (size_t i = 0; i < samples_.size(); ++i) {
      int64_t n = 0;
      for (size_t r = 0; r < records_.size(); ++r) {
        bool any = false;
        for (size_t s = 0; s < schedule_.seeds.size() && !any; ++s)
          any = counts(static_cast<int64_t>(s), static_cast<int64_t>(i), static_cast<int64_t>(r));
        n += any;
      }
      out.compared.push_back(n);
    }
    return out;
  }

  void read_finished() {
    for_each_finished_line(*finished_, [&](SampleLine line, const Place& place, const json::Ref&) {
      if (!counts(place.seed, place.intervention, place.record)) return;
      const size_t i = static_cast<size_t>(place.intervention);
      add_scores(i, place.record, line);
      if (!groups_) return;
      line.sample.record = place.record;
      samples_[i].push_back(std::move(line.sample));
    });
  }

  void read_lines() {
    if (finished_) return read_finished();
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
  }

  void repeat_for_seeds() {
    for (size_t i = 0; i < samples_.size(); ++i)
      if (schedule_.interventions[i].first_seed_only) repeat_samples(samples_[i]);
  }

  // What scores that look at several samples see of an intervention that no seed touches: the same under each.
  void repeat_samples(std::vector<Sample>& samples) const {
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
      const fs::path my_trace = trace_path(dir_, schedule_, i, s),
                     their_trace = trace_path(dir_, schedule_, baseline, schedule_.runs(baseline, s) ? s : 0);
      if (finished_ && (!is_recorded(my_trace) || !is_recorded(their_trace))) continue;
      const TraceReader mine(my_trace), theirs(their_trace);
      if (mine.sample_ids() != theirs.sample_ids())
        throw Error(mine.file(), "expected the samples of " + theirs.file() + ", found others");
      for (int64_t n = 0; n < mine.n_samples(); ++n) {
        const int64_t record = record_of_.at(mine.sample_ids()[static_cast<size_t>(n)]);
        if (!counts(static_cast<int64_t>(s), static_cast<int64_t>(i), record)) continue;
        const SampleRoutes a(mine, n), b(theirs, n);
        const auto value = scorer.score_routes(a.routes(), b.routes());
        if (value) add_value(i, metric, record, *value);
      }
    }
  }

  const fs::path dir_;
  const RunSchedule& schedule_;
  const FinishedLines* finished_;
  std::vector<Record> records_;
  std::map<std::string, int64_t> record_of_;
  bool groups_ = false;                                                // some metric looks at more than one sample
  std::vector<std::vector<Sample>> samples_;                           // [interventions], empty unless groups_
  std::vector<std::map<std::string, std::map<int64_t, Mean>>> means_;  // [interventions][metric][record]
  std::vector<std::map<int64_t, EditCounts>> edits_;                   // [interventions][record]
};

}  // namespace

RunValues collect_values(const fs::path& dir, const RunSchedule& schedule) {
  return Collector(dir, schedule, nullptr).collect();
}

RunValues collect_partial(const fs::path& dir, const RunSchedule& schedule, const FinishedLines& finished) {
  RunValues values = Collector(dir, schedule, &finished).collect();
  const size_t baseline = schedule.baseline_index();
  bool any = false;
  for (size_t i = 0; i < values.partial->compared.size(); ++i)
    any = any || ((i != baseline || values.partial->compared.size() == 1) && values.partial->compared[i] > 0);
  if (!any)
    throw Error(dir.string(), "expected a record that the baseline and an intervention have finished, found none in " +
                                  std::to_string(values.partial->samples) + " of " +
                                  std::to_string(values.partial->of) + " samples (look again later)");
  return values;
}

}  // namespace signalbox::eval
