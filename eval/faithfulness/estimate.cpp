#include "eval/faithfulness/estimate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/run_plan.h"

namespace signalbox::eval {

namespace {

// Seconds of measuring: where no text ends in the first time, more.
constexpr double measuring_seconds[] = {0.3, 3};

// Counts the stages of a study of the texts that were tried.
class StageCounter {
 public:
  StageCounter(FaithfulnessStudy pilot, const Tokenizer& tokenizer, const EngineSpeed& speed, double times)
      : study_(std::move(pilot)), tokenizer_(tokenizer), speed_(speed), times_(times) {}

  void count(std::vector<Written> outputs, std::vector<StudyStageEstimate>& to) {
    study_.set_outputs(std::move(outputs));
    to_ = &to;
    std::vector<Written> asked;
    const std::vector<Job> ask_jobs = study_.ask_jobs();
    add("2-ask", ask_jobs);
    // An answer as it was written with the explanation: what is asked again is as long, more or less.
    for (size_t i = 0; i < ask_jobs.size(); ++i) asked.push_back(answer_like(i));
    study_.set_asked(std::move(asked));
    alter(Alteration::mistake, "3-mistakes");
    alter(Alteration::paraphrase, "4-paraphrases");
    study_.make_cases();
    const std::vector<Job> continued = study_.continue_jobs();
    add("5-continue", continued);
    study_.set_continued(std::vector<Written>(continued.size()));
    std::vector<Written> answers;
    if (study_.options().generate) {
      const std::vector<Job> jobs = study_.answer_jobs();
      add("6-answer", jobs);
      answers.resize(jobs.size());
    }
    study_.set_answers(std::move(answers));
    if (study_.options().forced) add("7-score", study_.score_jobs());
    if (study_.options().routes) add("8-route", study_.route_jobs(0, study_.explanations().size()).jobs, true);
  }
  int64_t n_cut() const { return static_cast<int64_t>(study_.explanations().size()); }

 private:
  Written answer_like(size_t asked) const {
    const std::string text =
        " " + study_.explanations()[std::min(asked, study_.explanations().size() - 1)].first_answer;
    return {tokenizer_.encode_target(text).ids, text, "eos"};
  }

  void add(const std::string& name, const std::vector<Job>& jobs, bool recorded = false) {
    if (jobs.empty()) return;
    int64_t generated = 0;
    for (const Job& job : jobs) generated += std::max<int64_t>(0, recorded ? job.max_new() : job.max_new() - 1);
    StudyStageEstimate one;
    one.name = name;
    one.jobs = times_ * static_cast<double>(jobs.size());
    one.generated = times_ * static_cast<double>(generated);
    one.given = times_ * static_cast<double>(planned_tokens(jobs, recorded)) - one.generated;
    // How long answers are was not measured.
    one.seconds = one.most_seconds = one.given / speed_.given + (generated > 0 ? one.generated / speed_.generated : 0);
    to_->push_back(one);
  }

  // As the model or a command would do it; which sentences come back changed is not known: all, here.
  void alter(Alteration alteration, const std::string& name) {
    const AlterSource& source = study_.source(alteration);
    const std::vector<AlterRequest> requests = study_.alter_requests(alteration);
    if (source.kind == AlterSource::Kind::rule || requests.empty()) return;
    if (source.kind == AlterSource::Kind::model) {
      add(name, study_.alter_jobs(alteration));
    } else {
      StudyStageEstimate one;
      one.name = name;
      one.jobs = times_ * static_cast<double>(requests.size());
      to_->push_back(one);
    }
    std::vector<std::string> texts;
    for (const AlterRequest& request : requests) texts.push_back(request.sentence + " Indeed");
    study_.set_altered(alteration, std::move(texts));
  }

  FaithfulnessStudy study_;
  const Tokenizer& tokenizer_;
  const EngineSpeed& speed_;
  double times_;
  std::vector<StudyStageEstimate>* to_ = nullptr;
};

double sum_of(const std::vector<StudyStageEstimate>& stages, double StudyStageEstimate::*of) {
  double sum = 0;
  for (const StudyStageEstimate& stage : stages)
    if (std::isfinite(stage.*of)) sum += stage.*of;
  return sum;
}

}  // namespace

double StudyEstimate::seconds() const { return sum_of(stages, &StudyStageEstimate::seconds); }
double StudyEstimate::most_seconds() const { return sum_of(stages, &StudyStageEstimate::most_seconds); }

StudyEstimate estimate_study(const FaithfulnessStudy& study, const MakeStudy& make, const Tokenizer& tokenizer,
                             Forward& forward, const RunOptions& options) {
  StudyEstimate out;
  const std::vector<Job> jobs = study.write_jobs();
  out.records = static_cast<int64_t>(study.own_records().size());
  out.texts = static_cast<int64_t>(jobs.size());
  for (const double seconds : measuring_seconds) {
    out.speed = measure_speed(forward, jobs, options, seconds);
    if (!out.speed.results.empty() || (options.interrupted && *options.interrupted)) break;
  }
  std::vector<Record> records;
  std::vector<Written> outputs;
  for (const Result& result : out.speed.results) {
    records.push_back(study.records()[study.record_of(static_cast<size_t>(result.index))]);
    outputs.push_back({result.tokens, result.text, result.finish_reason});
  }
  int64_t generated = 0;
  for (const Job& job : jobs) generated += std::max<int64_t>(0, job.max_new() - 1);
  StudyStageEstimate first;
  first.name = "1-write";
  first.jobs = static_cast<double>(jobs.size());
  first.generated = static_cast<double>(generated);
  first.given = static_cast<double>(planned_tokens(jobs, false) - generated);
  if (out.speed.given > 0) {
    first.most_seconds = first.given / out.speed.given + first.generated / out.speed.generated;
    first.seconds = first.given / out.speed.given + out.speed.length * first.generated / out.speed.generated;
  }
  out.stages.push_back(first);
  out.tried = static_cast<int64_t>(outputs.size());
  if (outputs.empty()) return out;
  FaithfulnessOptions own = study.options();
  own.samples = 1;
  own.shard = Shard();
  const double times = static_cast<double>(jobs.size()) / static_cast<double>(outputs.size());
  StageCounter counter(make(std::move(records), own), tokenizer, out.speed, times);
  counter.count(std::move(outputs), out.stages);
  out.cut = counter.n_cut();
  return out;
}

}  // namespace signalbox::eval
