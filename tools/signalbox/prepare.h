// What generate, score and trace have in common: records, edits and a trace as the flags say.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/record_jobs.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

using namespace eval;

// Records, encoded and with their edits bound: everything that can be refused has been.
struct PreparedRun {
  std::vector<Record> records;
  RecordJobs made;
  std::shared_ptr<const EditPlan> plan;  // null: no edits
  int64_t total_tokens = 0;              // given tokens and the most that can be generated

  std::vector<Job>& jobs() { return made.jobs; }
  // Other jobs on the same records, in their order.
  void set_jobs(std::vector<Job> jobs);
  // The record of a job, or of a sample of the trace.
  const Record& record_of(int64_t job) const { return records[record_of_job[static_cast<size_t>(job)]]; }
  const EncodedRecord& encoded_of(int64_t job) const { return made.encoded[record_of_job[static_cast<size_t>(job)]]; }

  std::vector<size_t> record_of_job;
};
// --edits as far as they can be judged before a model is opened. `only_given`: why no generated token is run; empty:
// some are.
void check_edits(const CommonOptions& options, const std::vector<Record>& records, const std::string& only_given);

PreparedRun prepare_run(const CommonOptions& options, const Session& session, std::vector<Record> records,
                        const std::variant<Generate, Score>& task, int64_t samples = 1);

// What --trace, --points and --compact ask for.
TraceRequest trace_request(const CommonOptions& options, const Session& session, const PreparedRun& run);

}  // namespace signalbox::tools
