#include "eval/data/record_jobs.h"

#include <utility>

namespace signalbox::eval {

Job make_job(const EncodedRecord& record, std::variant<Generate, Score> task, std::shared_ptr<const EditPlan> plan,
             int64_t sample) {
  Job job;
  job.prompt = record.prompt;
  job.task = std::move(task);
  job.sample = static_cast<uint32_t>(sample);
  if (plan && !plan->empty()) {
    job.plan = std::move(plan);
    job.spans = record.spans;
  }
  return job;
}

RecordJobs make_jobs(const Session& session, const std::vector<Record>& records,
                     const std::variant<Generate, Score>& task, const std::shared_ptr<const EditPlan>& plan,
                     int64_t samples) {
  RecordJobs out;
  out.span_names = span_names(records);
  if (plan) plan->require_spans(out.span_names);
  for (const Record& record : records) {
    out.encoded.push_back(encode_record(record, session.encode, out.span_names));
    if (std::holds_alternative<Score>(task) && out.encoded.back().target_start == 0)
      throw Error(
          record.where,
          "target: expected a token before it, to predict its first one from, found none (an empty prompt, and a "
          "tokenizer that adds no begin token)");
    for (int64_t s = 0; s < samples; ++s) {
      Job job = make_job(out.encoded.back(), task, plan, s);
      job.index = static_cast<int64_t>(out.jobs.size());
      session.check(record.where, job);
      out.jobs.push_back(std::move(job));
    }
  }
  return out;
}

}  // namespace signalbox::eval
