#include "tools/signalbox/prepare.h"

#include <cstdio>

#include "engine/run_plan.h"

namespace signalbox::tools {

using namespace eval;

void PreparedRun::set_jobs(std::vector<Job> jobs) {
  made.jobs = std::move(jobs);
  record_of_job.clear();
  size_t record = 0;
  for (const Job& job : made.jobs) {
    while (made.encoded[record].prompt != job.prompt) ++record;
    record_of_job.push_back(record);
  }
}

void check_edits(const CommonOptions& options, const std::vector<Record>& records, const std::string& only_given) {
  if (options.edits.empty()) return;
  const std::vector<std::string> of_generated = check_edit_file(options.edits, span_names(records));
  if (only_given.empty() || options.quiet) return;
  for (const std::string& edit : of_generated)
    std::fprintf(stderr, "%s: %s acts on generated tokens alone, and %s: it changes nothing here\n",
                 options.edits.c_str(), edit.c_str(), only_given.c_str());
}

PreparedRun prepare_run(const CommonOptions& options, const Session& session, std::vector<Record> records,
                        const std::variant<Generate, Score>& task, int64_t samples) {
  PreparedRun run;
  run.records = std::move(records);
  const size_t n_spans = span_names(run.records).size();
  if (!options.trace.empty() && n_spans > 32)
    throw Error("spans", "expected at most 32 names in a traced input, found " + std::to_string(n_spans));
  if (!options.edits.empty()) run.plan = session.load_edits(options.edits, options.seed);
  run.made = make_jobs(session, run.records, task, run.plan, samples);
  for (Job& job : run.made.jobs) job.adapters = session.beside;
  run.set_jobs(std::move(run.made.jobs));
  run.total_tokens = planned_tokens(run.made.jobs, !options.trace.empty());
  return run;
}

TraceRequest trace_request(const CommonOptions& options, const Session& session, const PreparedRun& run) {
  TraceRequest request;
  request.dir = options.trace;
  request.points =
      PointSet::parse(options.points.empty() ? default_points : std::string_view(options.points), session.shape);
  request.span_names = run.made.span_names;
  request.plan = run.plan;
  request.compact = options.compact;
  return request;
}

}  // namespace signalbox::tools
