#include "eval/experiment/evaluation_jobs.h"

#include <algorithm>
#include <utility>

#include "eval/data/record_jobs.h"

namespace signalbox::eval {

namespace {

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

}  // namespace

std::vector<EvaluationPass> passes_of(const Evaluation& evaluation) {
  std::vector<EvaluationPass> passes;
  const auto n_seeds = static_cast<int64_t>(evaluation.seeds.size());
  const auto n_interventions = static_cast<int64_t>(evaluation.interventions.size());
  for (const bool main : {true, false})
    for (int64_t s = 0; s < n_seeds; ++s) {
      const auto runs = [&](int64_t i) {
        const BoundIntervention& one = evaluation.interventions[static_cast<size_t>(i)];
        return (s == 0 || !one.first_seed_only) && one.is_main() == main;
      };
      // A recorded intervention shares nothing with others: its lines follow its trace.
      for (const int64_t i : evaluation.traced)
        if (runs(i)) passes.push_back({s, main, true, {i}});
      EvaluationPass all = {s, main, false, {}};
      if (runs(evaluation.baseline)) all.interventions.push_back(evaluation.baseline);
      for (int64_t i = 0; i < n_interventions; ++i)
        if (i != evaluation.baseline && runs(i)) all.interventions.push_back(i);
      if (!all.interventions.empty()) passes.push_back(std::move(all));
    }
  return passes;
}

void EvaluationJobs::clear() {
  jobs.clear();
  uses.clear();
  units.clear();
}

void EvaluationJobs::add(Job job, Use use) {
  job.index = static_cast<int64_t>(jobs.size());
  if (use.part != Part::reference) ++units[use.unit].pending;
  jobs.push_back(std::move(job));
  uses.push_back(use);
}

// The baseline's jobs first: others are compared with it.
void EvaluationJobs::add_record(const Evaluation& evaluation, int64_t s, int64_t r,
                                const std::vector<int64_t>& interventions, const Has& known, const Has& has_text) {
  const PreparedRecord& record = evaluation.records[static_cast<size_t>(r)];
  std::optional<int64_t> reference;
  const auto missing = [&](int64_t i) { return !known(Place{s, i, r, 0}); };
  const bool compares = evaluation.divergence && std::any_of(interventions.begin(), interventions.end(), missing);
  if (compares && (interventions[0] != evaluation.baseline || !missing(evaluation.baseline))) {
    // The baseline's line is not of this pass, of another seed, or known; its logits are wanted.
    reference = static_cast<int64_t>(jobs.size());
    add(score_job(record.scored, record, record.score_from, plan_of(evaluation, evaluation.baseline, s), reference),
        {0, Part::reference, 0});
  }
  for (const int64_t i : interventions) {
    const auto plan = plan_of(evaluation, i, s);
    for (int64_t k = 0; k < record.generation.samples; ++k) {
      const Place place = {s, i, r, k};
      if (!known(place)) add_unit(evaluation, place, plan, reference, has_text);
    }
  }
}

void EvaluationJobs::add_unit(const Evaluation& evaluation, const Place& place,
                              const std::shared_ptr<const EditPlan>& plan, std::optional<int64_t>& reference,
                              const Has& has_text) {
  const PreparedRecord& record = evaluation.records[static_cast<size_t>(place.record)];
  const size_t unit = units.size();
  units.push_back({place, 0});
  // What is teacher-forced does not depend on the sample, and stands with the first.
  if (place.sample == 0 && evaluation.logprobs) {
    if (evaluation.divergence && !reference) reference = static_cast<int64_t>(jobs.size());  // the baseline: its own
    add(score_job(record.scored, record, record.score_from, plan, reference), {unit, Part::target, 0});
  }
  if (place.sample == 0 && evaluation.options)
    for (size_t o = 0; o < record.options.size(); ++o)
      add(score_job(record.options[o], record, *record.options[o].target_start, plan, {}), {unit, Part::option, o});
  if (evaluation.generates && !has_text(place))
    add(generation_job(record, plan, evaluation.seeds[static_cast<size_t>(place.seed)], place.sample),
        {unit, Part::text, 0});
}

std::vector<Job> trace_jobs(const Evaluation& evaluation, int64_t intervention, int64_t seed,
                            std::vector<std::pair<int64_t, int64_t>>& samples) {
  const auto plan = plan_of(evaluation, intervention, seed);
  std::vector<Job> jobs;
  samples.clear();
  for (size_t r = 0; r < evaluation.records.size(); ++r) {
    const PreparedRecord& record = evaluation.records[r];
    const int64_t n = evaluation.generates ? record.generation.samples : 1;
    for (int64_t k = 0; k < n; ++k) {
      Job job = evaluation.generates ? generation_job(record, plan, evaluation.seeds[static_cast<size_t>(seed)], k)
                                     : job_on(record.scored, record, {}, plan);
      job.index = static_cast<int64_t>(jobs.size());
      jobs.push_back(std::move(job));
      samples.emplace_back(static_cast<int64_t>(r), k);
    }
  }
  return jobs;
}

}  // namespace signalbox::eval
