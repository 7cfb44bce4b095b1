#include "eval/experiment/evaluate.h"

#include <algorithm>
#include <map>
#include <memory>

#include "eval/data/record_jobs.h"
#include "eval/experiment/evaluation_jobs.h"
#include "eval/routing/recording.h"
#include "eval/routing/trace_texts.h"
#include "eval/score/fields.h"
#include "eval/score/sample_lines.h"
#include "eval/score/verdicts.h"

namespace signalbox::eval {

namespace {

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
    for (const EvaluationPass& pass : passes_of(evaluation_)) {
      if (pass.traced) {
        generated_.clear();
        if (!trace(pass.interventions[0], pass.seed)) return false;
      }
      if (!run_records(pass)) return false;
    }
    return true;
  }

  using Part = EvaluationJobs::Part;
  struct Unit {
    Place place;
    Sample sample;
    EditCounts prompt_edits, later_edits;  // of the prompt, which all texts of the sample begin with, and behind it
  };

  int64_t n_records() const { return static_cast<int64_t>(evaluation_.records.size()); }
  void tell() {
    if (events_.on_lines) events_.on_lines(log_.n_known());
  }

  // What is missing of a pass.
  bool run_records(const EvaluationPass& pass) {
    const auto known = [&](const Place& place) { return log_.has(place); };
    const auto has_text = [&](const Place& place) { return generated_.contains(log_.layout().line(place)); };
    for (int64_t r = 0; r < n_records();) {
      slice_.clear();
      units_.clear();
      for (; r < n_records() && slice_.jobs.size() < jobs_a_slice; ++r) {
        slice_.add_record(evaluation_, pass.seed, r, pass.interventions, known, has_text);
        while (units_.size() < slice_.units.size()) begin(slice_.units[units_.size()]);
      }
      if (!run_slice()) return false;
    }
    verdicts_.flush();  // the next pass asks the log what is missing
    return true;
  }

  void begin(const EvaluationJobs::Unit& wanted) {
    const Place& place = wanted.place;
    const PreparedRecord& record = evaluation_.records[static_cast<size_t>(place.record)];
    units_.push_back({place, {}, {}, {}});
    Sample& sample = units_.back().sample;
    sample.id = record.record->id;
    sample.record = place.record;
    sample.seed = evaluation_.seeds[static_cast<size_t>(place.seed)];
    sample.sample = place.sample;
    if (place.sample == 0 && evaluation_.options) sample.options.resize(record.options.size());
    const auto ready = generated_.find(log_.layout().line(place));
    if (evaluation_.generates && ready != generated_.end()) {
      count_edits(units_.back(), ready->second);
      take_text(sample, std::move(ready->second));
      generated_.erase(ready);
    }
    if (wanted.pending == 0) finish(units_.back());
  }

  bool run_slice() {
    if (slice_.jobs.empty()) return true;
    RunEvents events;
    events.on_done = [&](Result result) { take(std::move(result)); };
    return run_jobs(forward_, slice_.jobs, run_options(session_, evaluation_), events, nullptr);
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
    const EvaluationJobs::Use use = slice_.uses[static_cast<size_t>(result.index)];
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
    if (--slice_.units[use.unit].pending == 0) finish(unit);
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
  EvaluationJobs slice_;                  // that is run now
  std::vector<Unit> units_;               // [slice_.units]
  Verdicts verdicts_;                     // of judges
  std::vector<std::vector<bool>> lacks_;  // [scorers][records]
  std::map<int64_t, Result> generated_;   // line -> text made while tracing
};

}  // namespace

RunOptions run_options(const Session& session, const Evaluation& evaluation) {
  RunOptions options = session.options;
  options.stop_strings = evaluation.stop;
  options.ignore_eos = evaluation.ignore_eos;
  return options;
}

int32_t route_slots(const Evaluation& evaluation) {
  int32_t slots = 0;
  for (const BoundIntervention& intervention : evaluation.interventions)
    for (const auto& plan : intervention.plans)
      if (plan && !plan->empty()) slots = std::max(slots, plan->max_slots());
  return slots;
}

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
  std::vector<std::pair<int64_t, int64_t>> uses;  // record, sample
  std::vector<Job> jobs = trace_jobs(evaluation, intervention, seed, uses);
  const auto plan = evaluation.interventions[static_cast<size_t>(intervention)].plans[static_cast<size_t>(seed)];
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
