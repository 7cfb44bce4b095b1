#include "eval/experiment/evaluate.h"

#include <algorithm>
#include <map>
#include <memory>

#include "eval/data/record_jobs.h"
#include "eval/routing/recording.h"
#include "eval/routing/trace_texts.h"
#include "eval/score/fields.h"
#include "eval/score/sample_lines.h"
#include "eval/score/verdicts.h"

namespace signalbox::eval {

namespace {

// Jobs handed to the engine at once: enough to keep batches full, few enough to hold.
constexpr size_t jobs_a_slice = 4096;

std::shared_ptr<const EditPlan> plan_of(const Evaluation& evaluation, int64_t intervention, int64_t seed) {
  return evaluation.interventions[static_cast<size_t>(intervention)].plans[static_cast<size_t>(seed)];
}

// A job on one encoding of a record: all jobs of the record begin with its prompt.
Job job_on(const EncodedRecord& encoded, const PreparedRecord& record, std::variant<Generate, Score> task,
           std::shared_ptr<const EditPlan> plan, int64_t sample = 0) {
  Job job = make_job(encoded, std::move(task), std::move(plan), sample);
  job.prefix = record.prompt.prompt;
  return job;
}

Job generation_job(const PreparedRecord& record, std::shared_ptr<const EditPlan> plan, uint64_t seed, int64_t sample) {
  Generate generate = {record.generation.max_tokens, record.generation.sampling};
  generate.sampling.seed = seed;
  return job_on(record.prompt, record, generate, std::move(plan), sample);
}

Job score_job(const EncodedRecord& encoded, const PreparedRecord& record, int64_t score_from,
              std::shared_ptr<const EditPlan> plan, std::optional<int64_t> reference) {
  return job_on(encoded, record, Score{score_from, reference}, std::move(plan));
}

RunOptions run_options(const Session& session, const Evaluation& evaluation) {
  RunOptions options = session.options;
  options.stop_strings = evaluation.stop;
  options.ignore_eos = evaluation.ignore_eos;
  return options;
}

// The widest route that any intervention asks for.
int32_t route_slots(const Evaluation& evaluation) {
  int32_t slots = 0;
  for (const BoundIntervention& intervention : evaluation.interventions)
    for (const auto& plan : intervention.plans)
      if (plan && !plan->empty()) slots = std::max(slots, plan->max_slots());
  return slots;
}

// Turns finished jobs into lines.
class Evaluator {
 public:
  Evaluator(const Session& session, const Evaluation& evaluation, SampleLog& log, const EvaluationEvents& events)
      : session_(session),
        evaluation_(evaluation),
        log_(log),
        events_(events),
        forward_(session.forward(route_slots(evaluation))),
        verdicts_(evaluation.judges) {
    for (const Scorer* scorer : evaluation.scorers) {
      lacks_.emplace_back();
      for (const PreparedRecord& record : evaluation.records)
        lacks_.back().push_back(scorer->lacks && !scorer->lacks(*record.record).empty());
    }
  }

  bool go() {
    tell();
    const bool finished = run_all();
    // Texts of a batch that is not full yet are finished work, after an interruption too.
    verdicts_.flush();
    return finished;
  }

 private:
  bool run_all() {
    for (int64_t s = 0; s < n_seeds(); ++s) {
      // A recorded intervention shares nothing with others: its lines follow its trace.
      for (const int64_t i : evaluation_.traced) {
        if (!runs(i, s)) continue;
        generated_.clear();
        if (!trace(i, s) || !run_records(s, {i})) return false;
      }
      std::vector<int64_t> all;
      if (runs(evaluation_.baseline, s)) all.push_back(evaluation_.baseline);
      for (int64_t i = 0; i < n_interventions(); ++i)
        if (i != evaluation_.baseline && runs(i, s)) all.push_back(i);
      if (!all.empty() && !run_records(s, all)) return false;
    }
    return true;
  }

  enum class Part : uint8_t { text, target, option, reference };
  struct Use {
    size_t unit = 0;
    Part part = Part::text;
    size_t option = 0;
  };
  struct Unit {
    Place place;
    Sample sample;
    int64_t pending = 0;
    EditCounts prompt_edits, later_edits;  // of the prompt, which all texts of the sample begin with, and behind it
  };

  int64_t n_seeds() const { return static_cast<int64_t>(evaluation_.seeds.size()); }
  int64_t n_records() const { return static_cast<int64_t>(evaluation_.records.size()); }
  int64_t n_interventions() const { return static_cast<int64_t>(evaluation_.interventions.size()); }
  bool runs(int64_t intervention, int64_t s) const { return log_.layout().has(s, intervention); }
  void tell() {
    if (events_.on_lines) events_.on_lines(log_.n_known());
  }

  void add_job(Job job, Use use) {
    job.index = static_cast<int64_t>(jobs_.size());
    if (use.part != Part::reference) ++units_[use.unit].pending;
    jobs_.push_back(std::move(job));
    uses_.push_back(use);
  }

  // What is missing of these interventions of all records.
  bool run_records(int64_t s, const std::vector<int64_t>& interventions) {
    for (int64_t r = 0; r < n_records();) {
      jobs_.clear();
      uses_.clear();
      units_.clear();
      for (; r < n_records() && jobs_.size() < jobs_a_slice; ++r) add_record(s, r, interventions);
      if (!run_slice()) return false;
    }
    verdicts_.flush();  // the next pass asks the log what is missing
    return true;
  }

  // The jobs of one record, the baseline's first: others are compared with it.
  void add_record(int64_t s, int64_t r, const std::vector<int64_t>& interventions) {
    const PreparedRecord& record = evaluation_.records[static_cast<size_t>(r)];
    std::optional<int64_t> reference;
    const auto missing = [&](int64_t i) { return !log_.has(Place{s, i, r, 0}); };
    const bool compares = evaluation_.divergence && std::any_of(interventions.begin(), interventions.end(), missing);
    if (compares && (interventions[0] != evaluation_.baseline || !missing(evaluation_.baseline))) {
      // The baseline's line is not of this pass, of another seed, or known; its logits are wanted.
      reference = static_cast<int64_t>(jobs_.size());
      add_job(
          score_job(record.scored, record, record.score_from, plan_of(evaluation_, evaluation_.baseline, s), reference),
          {0, Part::reference, 0});
    }
    for (const int64_t i : interventions) {
      const auto plan = plan_of(evaluation_, i, s);
      for (int64_t k = 0; k < record.generation.samples; ++k) {
        const Place place = {s, i, r, k};
        if (!log_.has(place)) add_unit(place, record, plan, reference);
      }
    }
  }

  void add_unit(const Place& place, const PreparedRecord& record, const std::shared_ptr<const EditPlan>& plan,
                std::optional<int64_t>& reference) {
    const size_t unit = units_.size();
    units_.push_back({place, {}, 0, {}, {}});
    Sample& sample = units_.back().sample;
    sample.id = record.record->id;
    sample.record = place.record;
    sample.seed = evaluation_.seeds[static_cast<size_t>(place.seed)];
    sample.sample = place.sample;
    // What is teacher-forced does not depend on the sample, and stands with the first.
    if (place.sample == 0 && evaluation_.logprobs) {
      if (evaluation_.divergence && !reference)
        reference = static_cast<int64_t>(jobs_.size());  // the baseline: its own
      add_job(score_job(record.scored, record, record.score_from, plan, reference), {unit, Part::target, 0});
    }
    if (place.sample == 0 && evaluation_.options) {
      sample.options.resize(record.options.size());
      for (size_t o = 0; o < record.options.size(); ++o)
        add_job(score_job(record.options[o], record, *record.options[o].target_start, plan, {}),
                {unit, Part::option, o});
    }
    if (evaluation_.generates) {
      const auto ready = generated_.find(log_.layout().line(place));
      if (ready == generated_.end()) {
        add_job(generation_job(record, plan, sample.seed, place.sample), {unit, Part::text, 0});
      } else {
        count_edits(units_.back(), ready->second);
        take_text(sample, std::move(ready->second));
        generated_.erase(ready);
      }
    }
    if (units_.back().pending == 0) finish(units_.back());
  }

  bool run_slice() {
    if (jobs_.empty()) return true;
    RunEvents events;
    events.on_done = [&](Result result) { take(std::move(result)); };
    return run_jobs(forward_, jobs_, run_options(session_, evaluation_), events, nullptr);
  }

  // The same happens to the prompt in all texts of a sample; the longest run of it counts.
  static void count_edits(Unit& unit, const Result& result) {
    if (result.prefix_edits.tokens > unit.prompt_edits.tokens) unit.prompt_edits = result.prefix_edits;
    unit.later_edits += result.later_edits;
  }

  void take_text(Sample& sample, Result result) const {
    sample.has_text = true;
    sample.decoded = session_.options.tokenizer != nullptr;
    sample.text = std::move(result.text);
    sample.tokens = std::move(result.tokens);
    sample.finish_reason = std::move(result.finish_reason);
  }

  void take(Result result) {
    const Use use = uses_[static_cast<size_t>(result.index)];
    if (use.part == Part::reference) return;
    Unit& unit = units_[use.unit];
    count_edits(unit, result);
    switch (use.part) {
      case Part::text: take_text(unit.sample, std::move(result)); break;
      case Part::target:
        unit.sample.set_logprobs(std::move(result.logprobs));
        unit.sample.divergence = std::move(result.divergence);
        unit.sample.same_top = std::move(result.same_top);
        break;
      case Part::option: {
        OptionScore& option = unit.sample.options[use.option];
        for (const double p : result.logprobs) option.sum_logprob += p;
        option.n_tokens = static_cast<int64_t>(result.logprobs.size());
        const PreparedRecord& record = evaluation_.records[static_cast<size_t>(unit.place.record)];
        option.n_bytes = static_cast<int64_t>(choices_of(*record.record)->options[use.option].size());
        break;
      }
      case Part::reference: break;
    }
    if (--unit.pending == 0) finish(unit);
  }

  // A sample that has everything: its line is written once the judges have spoken.
  void finish(Unit& unit) {
    if (evaluation_.judges.empty()) return write_line(unit);
    const PreparedRecord& record = evaluation_.records[static_cast<size_t>(unit.place.record)];
    // One verdict for one text, however many interventions and samples wrote it.
    JudgedText text{record.record->id,
                    record.record->kind == Record::Kind::messages ? record.prompt.text : record.record->prompt,
                    unit.sample.text};
    auto shared = std::make_shared<Unit>(std::move(unit));
    verdicts_.judge(shared->place.record, text, [this, shared](Judged judged) {
      shared->sample.judged = std::move(judged);
      write_line(*shared);
    });
    unit.sample = {};
  }

  // Scores a sample, and writes its line.
  void write_line(Unit& unit) {
    const PreparedRecord& record = evaluation_.records[static_cast<size_t>(unit.place.record)];
    SampleLine line;
    line.intervention = evaluation_.interventions[static_cast<size_t>(unit.place.intervention)].name;
    for (size_t n = 0; n < evaluation_.scorers.size(); ++n) {
      const Scorer* scorer = evaluation_.scorers[n];
      const bool has = scorer->needs == Needs::text      ? unit.sample.has_text
                       : scorer->needs == Needs::options ? !unit.sample.options.empty()
                                                         : unit.sample.n_logprobs > 0;
      if (!has) continue;
      const bool lacks = lacks_[n][static_cast<size_t>(unit.place.record)];
      line.scores.emplace_back(scorer->name, lacks ? std::nullopt : scorer->score(*record.record, unit.sample));
    }
    unit.sample.edits = unit.prompt_edits;
    *unit.sample.edits += unit.later_edits;
    line.sample = std::move(unit.sample);
    log_.put(unit.place, json::dump(sample_line_json(*record.record, line)));
    unit.sample = {};
    tell();
  }

  // Records one intervention, unless it has been; texts that are still wanted are kept for their lines.
  bool trace(int64_t i, int64_t s) {
    const std::filesystem::path dir = evaluation_.trace_dir(i, s);
    if (is_recorded(dir)) return true;
    if (events_.on_stage) events_.on_stage("tracing " + evaluation_.interventions[static_cast<size_t>(i)].name);
    return trace_evaluation(session_, evaluation_, i, s, dir, [&](int64_t r, Result result, int64_t sample) {
      const Place place = {s, i, r, sample};
      if (evaluation_.generates && !log_.has(place)) generated_[log_.layout().line(place)] = std::move(result);
    });
  }

  const Session& session_;
  const Evaluation& evaluation_;
  SampleLog& log_;
  const EvaluationEvents& events_;
  Forward forward_;
  std::vector<Job> jobs_;
  std::vector<Use> uses_;                 // [jobs]
  std::vector<Unit> units_;               // of this slice
  Verdicts verdicts_;                     // of judges
  std::vector<std::vector<bool>> lacks_;  // [scorers][records]
  std::map<int64_t, Result> generated_;   // line -> text made while tracing
};

}  // namespace

PreparedRecord prepare_record(const Record& record, const Session& session, const std::vector<std::string>& span_names,
                              const Generation& generation, bool scores, bool options) {
  PreparedRecord prepared;
  prepared.record = &record;
  prepared.generation = generation;
  Record variant = record;
  variant.target.reset();
  prepared.prompt = encode_record(variant, session.encode, span_names);
  prepared.scored = record.target ? encode_record(record, session.encode, span_names) : prepared.prompt;
  const int64_t limit = session.model.max_positions;
  const auto n_prompt = static_cast<int64_t>(prepared.prompt.prompt->tokens.size());
  check_length(record.where, n_prompt, generation.max_tokens, limit);
  if (record.target) prepared.score_from = *prepared.scored.target_start;
  const auto n_scored = static_cast<int64_t>(prepared.scored.prompt->tokens.size());
  check_length(record.where, n_scored, 0, limit);
  if (scores && n_scored <= prepared.score_from)
    throw Error(record.where, record.target ? "target: expected text, found none"
                                            : "expected at least two tokens, one to predict, found one");
  const auto choices = options ? choices_of(record) : std::nullopt;
  if (choices) {
    for (const std::string& choice : choices->options) {
      variant.target = choice;
      prepared.options.push_back(encode_record(variant, session.encode, span_names));
      const auto n = static_cast<int64_t>(prepared.options.back().prompt->tokens.size());
      if (n == n_prompt) throw Error(record.where, "choices: expected text in each, found an empty one");
      check_length(record.where, n, 0, limit);
    }
  }
  return prepared;
}

void check_evaluation(const Evaluation& evaluation) {
  for (const BoundIntervention& intervention : evaluation.interventions) {
    for (const auto& plan : intervention.plans) {
      if (!plan || plan->empty()) continue;
      for (const PreparedRecord& record : evaluation.records) {
        auto check = [&](const EncodedRecord& encoded, int64_t sample) {
          plan->check(sequence_info(make_job(encoded, {}, plan, sample)));
        };
        if (evaluation.generates)
          for (int64_t k = 0; k < record.generation.samples; ++k) check(record.prompt, k);
        if (evaluation.logprobs) check(record.scored, 0);
        if (evaluation.options)
          for (const EncodedRecord& option : record.options) check(option, 0);
      }
    }
  }
}

bool trace_evaluation(const Session& session, const Evaluation& evaluation, int64_t intervention, int64_t seed,
                      const std::filesystem::path& dir,
                      const std::function<void(int64_t record, Result result, int64_t sample)>& done) {
  const auto plan = plan_of(evaluation, intervention, seed);
  std::vector<Job> jobs;
  std::vector<std::pair<int64_t, int64_t>> uses;  // record, sample
  for (size_t r = 0; r < evaluation.records.size(); ++r) {
    const PreparedRecord& record = evaluation.records[r];
    const int64_t samples = evaluation.generates ? record.generation.samples : 1;
    for (int64_t k = 0; k < samples; ++k) {
      Job job = evaluation.generates ? generation_job(record, plan, evaluation.seeds[static_cast<size_t>(seed)], k)
                                     : job_on(record.scored, record, {}, plan);
      job.index = static_cast<int64_t>(jobs.size());
      jobs.push_back(std::move(job));
      uses.emplace_back(static_cast<int64_t>(r), k);
    }
  }
  const auto record_of = [&](int64_t i) -> const PreparedRecord& {
    return evaluation.records[static_cast<size_t>(uses[static_cast<size_t>(i)].first)];
  };
  TraceRecording recording;
  recording.trace = session.trace_options(
      {.dir = dir, .points = evaluation.points, .span_names = evaluation.span_names, .plan = plan});
  recording.jobs = std::move(jobs);
  recording.record = [&](int64_t i) { return record_of(i).record->source; };
  recording.text = [&](int64_t i, const Result& result) {
    return text_line(*record_of(i).record, record_of(i).prompt, recording.jobs[static_cast<size_t>(i)], result,
                     session.tokenizer.get());
  };
  RecordingEvents events;
  events.on_result = [&](Result result) {
    const auto [record, sample] = uses[static_cast<size_t>(result.index)];
    if (done) done(record, std::move(result), sample);
  };
  Forward forward = session.forward(widest_route(recording.jobs));
  return record_trace(recording, forward, run_options(session, evaluation), events) != RecordingEnd::interrupted;
}

bool evaluate(const Session& session, const Evaluation& evaluation, SampleLog& log, const EvaluationEvents& events) {
  return Evaluator(session, evaluation, log, events).go();
}

}  // namespace signalbox::eval
