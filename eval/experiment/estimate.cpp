#include "eval/experiment/estimate.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "base/text.h"
#include "engine/kv_pool.h"
#include "engine/shared_prefixes.h"
#include "eval/experiment/cross_fit.h"
#include "eval/experiment/detect_stage.h"
#include "eval/experiment/evaluation_jobs.h"
#include "eval/experiment/run_context.h"
#include "eval/experiment/speed.h"
#include "eval/experiment/statistics_speed.h"
#include "eval/experiment/stopwatch.h"
#include "eval/experiment/test_stage.h"
#include "eval/experiment/tune_stage.h"
#include "eval/routing/contribution.h"
#include "eval/score/sample_lines.h"
#include "probes/edit_plan.h"

namespace signalbox::eval {

namespace {

// ---- Experts that detection will choose

// As many experts as a ranking is asked for, spread over its layers, from `first` on, which then is the one after them.
// Where a condition on its rows leaves fewer, these
// are too many.
json::Value stand_in(const json::Value& edit, const ModelShape& shape, int32_t& first) {
  const json::Value& ranking = *edit.find("experts");
  std::vector<int32_t> layers = shape.moe_layers();
  if (const json::Value* given = edit.find("layers"); given && given->is_string() && given->string() != "all") {
    const json::Value any = json::Value::object().set("op", "temperature").set("t", 2.0).set("layers", *given);
    layers.clear();
    for (const auto& [layer, experts] : resolve_targets(EditSpec::parse(json::Ref(any, "edit"), ".", 0), shape).layers)
      layers.push_back(layer);
  }
  const auto number = [&](const char* key, int64_t otherwise) {
    const json::Value* value = ranking.find(key);
    return value && value->is_number() ? value->integer() : otherwise;
  };
  const int64_t top = number("top", INT64_MAX), per_layer = number("per_layer", INT64_MAX);
  std::map<int32_t, json::Value> chosen;
  int64_t n = 0;
  int32_t rounds = 0;
  for (; n < top && rounds < per_layer && rounds < shape.n_experts(); ++rounds)
    for (const int32_t layer : layers) {
      const int32_t n_experts = shape.layers[static_cast<size_t>(layer)].n_experts;
      if (n == top || rounds >= n_experts) continue;
      chosen.emplace(layer, json::Value::array()).first->second.push_back(int64_t{(first + rounds) % n_experts});
      ++n;
    }
  first += rounds;
  json::Value experts = json::Value::object();
  for (auto& [layer, list] : chosen) experts.set(std::to_string(layer), std::move(list));
  json::Value out = json::Value::object();
  for (const auto& [key, value] : edit.members())
    if (key != "layers") out.set(key, key == "experts" ? experts : value);
  return out;
}

json::Value stand_ins(const json::Value& edits, const ModelShape& shape, bool& any) {
  json::Value out = json::Value::array();
  for (const json::Value& edit : edits.items()) {
    const bool detected = detect_stage_of(edit).has_value();
    any = any || detected;
    int32_t first = 0;
    out.push_back(detected ? stand_in(edit, shape, first) : edit);
  }
  return out;
}

// The spec with its experts listed, and a usage table in which all are used alike.
struct Known {
  ExperimentSpec spec;
  std::set<std::string> detected;  // entries whose experts are stand-ins
  Detected found;
};

Known known_experts(const ExperimentSpec& spec, const ModelShape& shape) {
  Known known{spec, {}, {}};
  for (InterventionSpec& one : known.spec.interventions) {
    bool any = false;
    one.edits = stand_ins(one.edits, shape, any);
    if (any) known.detected.insert(one.entry);
  }
  if (known.spec.audit) {
    int32_t first = 0;  // several rankings may have no expert in common
    for (json::Value& edit : known.spec.audit->edits)
      if (detect_stage_of(edit)) {
        edit = stand_in(edit, shape, first);
        known.detected.insert("audit");
      }
  }
  for (const LayerShape& layer : shape.layers)
    known.found.usage.emplace_back(static_cast<size_t>(layer.n_experts), 1.0);
  return known;
}

// ---- Counting

struct Counted {
  TokenCount tokens;
  int64_t samples = 0;
};

TokenCount tokens_of(const std::vector<Job>& jobs, bool recorded) {
  TokenCount count;
  for (const Job& job : jobs) count.generated += std::max<int64_t>(0, recorded ? job.max_new() : job.max_new() - 1);
  count.given = planned_tokens(jobs, recorded) - count.generated;
  return count;
}

class Estimator {
 public:
  Estimator(const Experiment& experiment, const Session& session, const Shard& shard, int threads)
      : experiment_(experiment),
        spec_(experiment.spec),
        session_(session),
        shard_(shard),
        threads_(threads),
        names_(span_names(experiment.records)),
        records_(prepare_records(experiment, session, names_)),
        known_(known_experts(experiment.spec, session.shape)),
        inputs_{experiment_, session_, names_, records_} {}

  RunEstimate estimate() {
    check_edits(spec_, session_.shape);
    check_encoded_prompts(spec_, experiment_.records, experiment_.splits,
                          prompt_hashes_of(experiment_.records, records_, session_));
    out_.seeds = static_cast<int64_t>(spec_.seeds.size());
    count_parts();
    detection();
    tuning();
    tests();
    count_memory();
    return std::move(out_);
  }

 private:
  void count_parts() {
    const auto add = [&](const char* split, const std::vector<int64_t>& records) {
      std::vector<EstimatedPart> parts;
      for (const int64_t r : records) {
        const std::string& condition = experiment_.records[static_cast<size_t>(r)].condition;
        auto found =
            std::find_if(parts.begin(), parts.end(), [&](const auto& part) { return part.condition == condition; });
        if (found == parts.end()) found = parts.insert(parts.end(), {split, condition, 0});
        ++found->records;
      }
      out_.parts.insert(out_.parts.end(), parts.begin(), parts.end());
    };
    if (spec_.split && !experiment_.splits.detect.empty()) add("detect", experiment_.splits.detect);
    if (!experiment_.splits.tune.empty()) add("tune", experiment_.splits.tune);
    add("test", tested_records(experiment_, shard_));
  }

  EstimatedStage& stage(const std::string& name, int64_t interventions, int64_t records) {
    out_.stages.push_back({});
    out_.stages.back().name = name;
    out_.stages.back().interventions = interventions;
    out_.stages.back().records = records;
    return out_.stages.back();
  }

  void detection() {
    for (const BaselineTrace& trace : baseline_traces(spec_)) {
      const std::vector<int64_t>& records = trace.records(spec_, experiment_.splits);
      Evaluation evaluation = evaluation_of(inputs_, records, {});
      evaluation.generates = trace.generated;
      BoundIntervention baseline;
      baseline.name = spec_.baseline;
      baseline.plans.resize(spec_.seeds.size());
      evaluation.interventions = {std::move(baseline)};
      evaluation.points = PointSet::parse(detection_points(spec_), session_.shape);
      std::vector<std::pair<int64_t, int64_t>> samples;
      const std::vector<Job> jobs = trace_jobs(evaluation, 0, 0, samples);
      EstimatedStage& one = stage("tracing the baseline for detection", 1, static_cast<int64_t>(records.size()));
      one.samples = static_cast<int64_t>(jobs.size());
      one.tokens = tokens_of(jobs, true);
      add_trace(evaluation, 0, 0, one.tokens);
      note_blocks(jobs, true);
    }
    for (const DetectSpec& one : spec_.detect) {
      const Clock::time_point start = Clock::now();
      EstimatedStage& ranking = stage("detecting " + one.name, 0, 0);
      // What experts give is compared in the same way as how often they are selected.
      const std::string points = detection_points(spec_);
      const auto compared =
          1 + std::count_if(contribution_names.begin(), contribution_names.end(), [&](const ContributionName& name) {
            return points.find(name.tensor) != std::string::npos;
          });
      ranking.resamples = (one.held_out ? 3 : 2) * spec_.resamples * compared;
      ranking.seconds = ranking.most_seconds =
          static_cast<double>(compared) * detection_seconds(spec_, one, experiment_, session_.shape, threads_);
      measured_ += seconds_since(start);
    }
  }

  void tuning() {
    if (!spec_.tune) return;
    const InterventionChoice choice = points_of_grids(known_.spec);
    Evaluation evaluation = evaluation_of(inputs_, experiment_.splits.tune, {spec_.tune->metric});
    add_interventions(inputs_, plan_interventions(known_.spec, choice, session_.shape, known_.found), evaluation);
    count_passes(evaluation, false, "tuning", "tuning");
    out_.notes.emplace_back("tuning chooses a point of each grid: the first is counted");
  }

  void tests() {
    InterventionChoice choice = all_interventions(known_.spec);
    if (spec_.tune) {
      std::set<std::string> seen;
      std::erase_if(choice.interventions,
                    [&](const InterventionSpec* one) { return !one->grid.empty() && !seen.insert(one->entry).second; });
    }
    const std::vector<PlannedIntervention> planned =
        plan_interventions(known_.spec, choice, session_.shape, known_.found);
    count_entries(planned);
    Evaluation evaluation = evaluation_of(inputs_, tested_records(experiment_, shard_), spec_.metrics);
    add_interventions(inputs_, planned, evaluation);
    choose_traces(inputs_, evaluation);
    count_passes(evaluation, true, "baseline and main interventions", "controls and audit");
    const Clock::time_point start = Clock::now();
    EstimatedStage& findings = stage("writing findings", static_cast<int64_t>(planned.size()), 0);
    findings.resamples = spec_.resamples;
    findings.seconds = findings.most_seconds = findings_seconds(spec_, evaluation, threads_);
    measured_ += seconds_since(start);
    time_stages(evaluation);
    count_lines(evaluation);
    out_.logits_bytes = evaluation.divergence ? static_cast<int64_t>(session_.options.max_kept_bytes) : 0;
    for (const PreparedRecord& record : evaluation.records)
      out_.judged +=
          static_cast<int64_t>(evaluation.judges.size()) * record.generation.samples * line_count(evaluation);
  }

  // Interventions times the seeds that they are run with.
  static int64_t line_count(const Evaluation& evaluation) {
    int64_t n = 0;
    for (const BoundIntervention& one : evaluation.interventions)
      n += one.first_seed_only ? 1 : static_cast<int64_t>(evaluation.seeds.size());
    return n;
  }

  void count_entries(const std::vector<PlannedIntervention>& planned) {
    out_.interventions = static_cast<int64_t>(planned.size());
    for (const PlannedIntervention& one : planned) {
      auto found = std::find_if(out_.entries.begin(), out_.entries.end(),
                                [&](const EstimatedEntry& entry) { return entry.entry == one.entry; });
      if (found == out_.entries.end()) {
        found = out_.entries.insert(out_.entries.end(), EstimatedEntry());
        found->entry = one.entry;
        found->detected = known_.detected.contains(one.entry);
      }
      switch (one.control) {
        case ControlKind::none: ++found->points; break;
        case ControlKind::random: ++found->random; break;
        case ControlKind::frequency_matched: ++found->frequency_matched; break;
        case ControlKind::bottom: ++found->bottom; break;
      }
    }
  }

  void count_passes(const Evaluation& evaluation, bool tested, const std::string& main, const std::string& others) {
    std::set<std::pair<int64_t, int64_t>> traced;  // seed, intervention: their lines follow their trace
    const auto known = [&](const Place& place) { return traced.contains({place.seed, place.intervention}); };
    for (const bool is_main : {true, false}) {
      EstimatedStage one;
      one.tested = tested;
      one.name = is_main ? main : others;
      one.records = static_cast<int64_t>(evaluation.records.size());
      for (const EvaluationPass& pass : passes_of(evaluation)) {
        if (pass.main != is_main) continue;
        if (pass.traced) {
          std::vector<std::pair<int64_t, int64_t>> samples;
          const std::vector<Job> jobs = trace_jobs(evaluation, pass.interventions[0], pass.seed, samples);
          const TokenCount tokens = tokens_of(jobs, true);
          one.tokens.given += tokens.given;
          one.tokens.generated += tokens.generated;
          add_trace(evaluation, pass.interventions[0], pass.seed, tokens);
          note_blocks(jobs, true);
        }
        EvaluationJobs slice;
        for (int64_t r = 0; r < one.records;) {
          slice.clear();
          for (; r < one.records && slice.jobs.size() < jobs_a_slice; ++r)
            slice.add_record(evaluation, pass.seed, r, pass.interventions, known,
                             [&](const Place&) { return pass.traced; });
          const TokenCount tokens = tokens_of(slice.jobs, false);
          one.tokens.given += tokens.given;
          one.tokens.generated += tokens.generated;
          one.samples += static_cast<int64_t>(slice.units.size());
          note_blocks(slice.jobs, false);
        }
        for (const int64_t i : pass.interventions) {
          if (pass.seed == 0 && !traced.contains({0, i})) ++one.interventions;
          if (pass.traced) traced.insert({pass.seed, i});
        }
      }
      if (one.interventions > 0) out_.stages.push_back(std::move(one));
    }
  }

  void add_trace(const Evaluation& evaluation, int64_t intervention, int64_t seed, const TokenCount& tokens) {
    const auto plan = evaluation.interventions[static_cast<size_t>(intervention)].plans[static_cast<size_t>(seed)];
    const bool edited = plan && !plan->empty();
    const int32_t slots = std::max(session_.shape.n_active(), edited ? plan->max_slots() : 0);
    int64_t longest = 0;
    double texts = 0;
    for (const PreparedRecord& record : evaluation.records) {
      longest = std::max(longest, static_cast<int64_t>(record.scored.prompt->tokens.size()) +
                                      (evaluation.generates ? record.generation.max_tokens : 0));
      texts += static_cast<double>(json::dump(record.record->source).size() + record.prompt.text.size());
    }
    constexpr double text_bytes = 16;  // of a token in texts.jsonl: its id, its piece, its part of the text
    const double each =
        trace_bytes(evaluation.points, session_.shape, slots, edited, longest) + (session_.tokenizer ? text_bytes : 0);
    traces_.push_back({texts + each * static_cast<double>(tokens.given), each * static_cast<double>(tokens.generated)});
  }

  void note_blocks(const std::vector<Job>& jobs, bool recorded) {
    blocks_ = std::max(blocks_, planned_blocks(jobs, plan_run(jobs, recorded), session_.options.batch));
  }

  void count_memory() {
    out_.cache_bytes = blocks_ * KvPool::block_bytes(session_.model, session_.backend->kv_dtype());
    Weights weights = session_.weights;
    for_each_tensor(session_.model, weights, [&](const TensorPlace& slot) {
      out_.weights_bytes += slot.matrix ? stored_bytes(*slot.matrix) : slot.vector->n * 4;
    });
  }

  // ---- Times

  // Jobs of records from all over the data under interventions from all over the list, in an order of their own.
  std::vector<Job> some_jobs(const Evaluation& evaluation) const {
    constexpr size_t most_interventions = 8;
    constexpr int64_t most_tokens = 20'000;
    std::vector<int64_t> all, chosen;
    for (const EvaluationPass& pass : passes_of(evaluation))
      if (pass.seed == 0) all.insert(all.end(), pass.interventions.begin(), pass.interventions.end());
    std::sort(all.begin(), all.end());
    all.erase(std::remove(all.begin(), all.end(), evaluation.baseline), all.end());
    chosen.push_back(evaluation.baseline);
    const size_t n = std::min(most_interventions, all.size());
    for (size_t i = 0; i < n; ++i) chosen.push_back(all[i * all.size() / n]);
    EvaluationJobs made;
    const auto none = [](const Place&) { return false; };
    const auto n_records = static_cast<int64_t>(evaluation.records.size());
    int64_t tokens = 0;
    constexpr int64_t most_records = 64;
    const int64_t records = std::min(most_records, n_records);
    for (int64_t i = 0; i < records && tokens < most_tokens; ++i) {
      // Evenly spaced ones, of which any beginning is spread too.
      const int64_t at = (i * 19) % records;
      const size_t before = made.jobs.size();
      made.add_record(evaluation, 0, (records % 19 == 0 ? i : at) * n_records / records, chosen, none, none);
      for (size_t j = before; j < made.jobs.size(); ++j) tokens += made.jobs[j].n_given() + made.jobs[j].max_new();
    }
    uses_ = made.uses;
    units_ = made.units;
    return made.jobs;
  }

  void time_stages(const Evaluation& evaluation) {
    const Clock::time_point start = Clock::now();
    const std::vector<Job> jobs = some_jobs(evaluation);
    Forward forward = session_.forward(route_slots(evaluation));
    RunOptions options = run_options(session_, evaluation);
    constexpr double seconds = 1;  // of each part
    EngineSpeed speed = measure_speed(forward, jobs, options, seconds);
    out_.speed = {speed.given,
                  speed.generated,
                  host_seconds(evaluation, speed.results),
                  speed.length,
                  speed.given_tokens,
                  speed.generated_tokens,
                  speed.texts,
                  0};
    for (EstimatedStage& one : out_.stages) {
      if (one.resamples > 0) continue;
      const double given = static_cast<double>(one.tokens.given) / speed.given,
                   generated = static_cast<double>(one.tokens.generated) / speed.generated,
                   host = static_cast<double>(one.samples) * out_.speed.host;
      one.seconds = given + speed.length * generated + host;
      one.most_seconds = given + generated + host;
    }
    for (const auto& [given, generated] : traces_) {
      out_.traces_bytes += given + speed.length * generated;
      out_.most_traces_bytes += given + generated;
    }
    out_.speed.seconds = measured_ + seconds_since(start);
  }

  // What becomes of results beside the model: scores and lines, made of those that were measured.
  double host_seconds(const Evaluation& evaluation, const std::vector<Result>& results) const {
    if (results.empty()) return 0;
    const Clock::time_point start = Clock::now();
    for (const Result& result : results) {
      const EvaluationJobs::Use& use = uses_[static_cast<size_t>(result.index)];
      const Place place = units_[use.unit].place;
      const PreparedRecord& record = evaluation.records[static_cast<size_t>(place.record)];
      SampleLine line = line_of(evaluation, place, record);
      line.sample.text = result.text;
      line.sample.tokens = result.tokens;
      line.sample.finish_reason = result.finish_reason;
      for (size_t n = 0; n < evaluation.scorers.size(); ++n) {
        const Scorer* scorer = evaluation.scorers[n];
        if (scorer->needs == Needs::text && line.sample.has_text &&
            !(scorer->lacks && !scorer->lacks(*record.record).empty()))
          line.scores.emplace_back(scorer->name, scorer->score(*record.record, line.sample));
      }
      bytes_written_ += json::dump(json::parse(json::dump(sample_line_json(*record.record, line)), "line")).size();
    }
    return seconds_since(start) / static_cast<double>(results.size());
  }

  static SampleLine line_of(const Evaluation& evaluation, const Place& place, const PreparedRecord& record) {
    SampleLine line;
    line.intervention = evaluation.interventions[static_cast<size_t>(place.intervention)].name;
    line.sample.id = record.record->id;
    line.sample.record = place.record;
    line.sample.seed = evaluation.seeds[static_cast<size_t>(place.seed)];
    line.sample.sample = place.sample;
    line.sample.has_text = evaluation.generates;
    return line;
  }

  // ---- Disk

  // Lines as long as they will be, with numbers and letters that stand for others.
  void count_lines(const Evaluation& evaluation) {
    double name_bytes = 0, lines = 0;
    for (const BoundIntervention& one : evaluation.interventions) {
      const double times = one.first_seed_only ? 1 : static_cast<double>(evaluation.seeds.size());
      lines += times;
      name_bytes += times * (static_cast<double>(one.name.size()) -
                             static_cast<double>(evaluation.interventions.front().name.size()));
    }
    for (size_t r = 0; r < evaluation.records.size(); ++r) {
      const PreparedRecord& record = evaluation.records[r];
      const double samples = static_cast<double>(record.generation.samples);
      for (const bool most : {false, true}) {
        const double tokens = static_cast<double>(record.generation.max_tokens) * (most ? 1 : out_.speed.length);
        const double bytes =
            static_cast<double>(line_bytes(evaluation, record, static_cast<int64_t>(tokens + 0.5))) * lines +
            name_bytes;
        (most ? out_.most_samples_bytes : out_.samples_bytes) += bytes * samples;
      }
    }
  }

  static size_t line_bytes(const Evaluation& evaluation, const PreparedRecord& record, int64_t tokens) {
    SampleLine line = line_of(evaluation, {0, 0, 0, 0}, record);
    line.sample.edits = EditCounts{100 + tokens, tokens, 1000, 100};
    constexpr double some_number = -1.2345678901234567;
    if (evaluation.generates) {
      line.sample.tokens.assign(static_cast<size_t>(tokens), 1000);
      line.sample.text.assign(static_cast<size_t>(4 * tokens), 'x');
      line.sample.finish_reason = "length";
    }
    if (evaluation.logprobs) {
      const size_t n =
          record.scored.prompt->tokens.size() - static_cast<size_t>(std::max<int64_t>(record.score_from, 1));
      line.sample.set_logprobs(std::vector<double>(n, some_number));
      if (evaluation.divergence) {
        line.sample.divergence.assign(n, some_number);
        line.sample.same_top.assign(n, 1);
      }
    }
    if (evaluation.options) line.sample.options.assign(record.options.size(), {some_number, 4, 16});
    for (const JudgeCommand& judge : evaluation.judges) line.sample.judged.emplace_back(judge.name, 0.5);
    for (const Scorer* scorer : evaluation.scorers)
      line.scores.emplace_back(scorer->name, scorer->needs == Needs::text ? 0.5 : some_number);
    return json::dump(sample_line_json(*record.record, line)).size() + 1;
  }

  const Experiment& experiment_;
  const ExperimentSpec& spec_;
  const Session& session_;
  const Shard& shard_;
  const int threads_;
  const std::vector<std::string> names_;
  const std::vector<std::optional<PreparedRecord>> records_;
  const Known known_;
  const RunInputs inputs_;
  RunEstimate out_;
  std::vector<std::pair<double, double>> traces_;  // bytes of given and of generated tokens
  int64_t blocks_ = 0;                             // of keys and values
  double measured_ = 0;                            // seconds
  mutable std::vector<EvaluationJobs::Use> uses_;  // of some_jobs
  mutable std::vector<EvaluationJobs::Unit> units_;
  mutable size_t bytes_written_ = 0;  // keeps the compiler from leaving the lines out
};

}  // namespace

int64_t RunEstimate::samples() const {
  int64_t n = 0;
  for (const EstimatedStage& one : stages) n += one.tested ? one.samples : 0;
  return n;
}

double RunEstimate::seconds() const {
  double sum = 0;
  for (const EstimatedStage& one : stages) sum += one.seconds;
  return sum;
}

double RunEstimate::most_seconds() const {
  double sum = 0;
  for (const EstimatedStage& one : stages) sum += one.most_seconds;
  return sum;
}

RunEstimate estimate_run(const Experiment& experiment, const Session& session, const Shard& shard, int threads) {
  if (!experiment.spec.cross_fit) return Estimator(experiment, session, shard, threads).estimate();
  if (experiment.deals.empty()) throw Error(experiment.spec.where, "cross_fit: expected deals, found none");
  if (!shard.whole()) throw UsageError("--shard", "expected none for a run with \"cross_fit\", found " + shard.text());
  // Deals are of one size.
  RunEstimate one =
      Estimator(experiment_of_deal(experiment, experiment.deals.front()), session, shard, threads).estimate();
  const auto deals = static_cast<int64_t>(experiment.deals.size());
  one.deals = deals;
  for (EstimatedStage& stage : one.stages) {
    stage.name += ", all deals";
    for (int64_t* number : {&stage.samples, &stage.tokens.given, &stage.tokens.generated, &stage.resamples})
      *number *= deals;
    stage.seconds *= static_cast<double>(deals);
    stage.most_seconds *= static_cast<double>(deals);
  }
  for (double* bytes : {&one.samples_bytes, &one.most_samples_bytes, &one.traces_bytes, &one.most_traces_bytes})
    *bytes *= static_cast<double>(deals);
  one.judged *= deals;
  one.notes.push_back("counted for the first of " + std::to_string(deals) + " deals, and taken so often");
  return one;
}

double trace_bytes(const PointSet& points, const ModelShape& shape, int32_t n_slots, bool edited, int64_t longest) {
  const double ids = shape.n_experts() >= 256 ? 2 : 1;
  double bytes = 4 + 4 + 1 + 4;  // token, position, phase, spans
  for (const PointAt& at : points.all()) {
    const double width = static_cast<double>(point_width(at.point, at.layer, shape, n_slots));
    if (at.point == Point::router_ids)
      bytes += width * ids * (edited ? 2 : 1);
    else
      bytes += 4 * width * (point_info(at.point).positions() ? static_cast<double>(longest) : 1);
  }
  return bytes;
}

}  // namespace signalbox::eval
