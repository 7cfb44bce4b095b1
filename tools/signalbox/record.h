// How generate, score, trace and regimes trace run their jobs: into a trace directory where one is asked for, going on
// where an earlier process stopped.
#pragma once
#include <functional>
#include <optional>
#include <string>

#include "base/namespaces.h"
#include "eval/routing/recording.h"
#include "eval/routing/recording_identity.h"
#include "tools/signalbox/prepare.h"

namespace signalbox::tools {

inline constexpr const char* recorded_schema = "signalbox.recorded/1";  // of the manifests of generate, score and trace

// What a command does with its jobs.
struct JobsOfCommand {
  std::string doing;                           // "tracing", for the progress
  std::string schema = recorded_schema;        // of the manifest
  json::Value work = json::Value::object();    // what else decides the trace, beside the common flags
  std::optional<GenerationSettings> generate;  // none: nothing is generated
  RunOptions running;
  bool shows_progress = true;
  // In the order of jobs where a trace is recorded, else as they finish.
  std::function<void(Result)> on_result;
  std::function<void(const Job&, int32_t token, const std::string& text)> on_token;
  std::function<ProbeSink*(ProbeSink* next)> in_front;  // `next` is null where no trace is recorded
};

GenerationSettings settings_of(const SamplingOptions& sampling);

// Where a template prints the date and no flag gives it: the day on which the work in `dir` was begun (none: no work),
// which its manifest then has. Before records are encoded.
void keep_date_of(const std::string& dir, const CommonOptions& options, Session& session,
                  const std::vector<Record>& records, const std::string& schema);
// That of options.trace.
void keep_date(const CommonOptions& options, Session& session, const std::vector<Record>& records,
               const std::string& schema);

// SHA-256 of records as they are read.
std::string records_hash(const std::vector<Record>& records);

// The manifest of work on `records`, which `encoder` makes into tokens, by `session`. `inputs`: what else decides the
// result. Reads every byte of the weights.
Manifest manifest_of_records(const CommonOptions& options, const Session& session, const Session& encoder,
                             const std::vector<Record>& records, RecordingInputs inputs, const std::string& schema,
                             int argc, char** argv);

// The manifest of work that these flags, records and edits decide; its directory is options.trace. Reads every byte of
// the weights.
Manifest manifest_of_work(const CommonOptions& options, const Session& session, const PreparedRun& run,
                          const JobsOfCommand& jobs, int argc, char** argv);

// Runs the jobs and says on standard error how it went on, unless quiet. Throws Error.
RecordingEnd run_jobs_of_command(const CommonOptions& options, const Session& session, PreparedRun& run,
                                 const JobsOfCommand& jobs, int argc, char** argv);

// For --dry-run: samples that run_jobs_of_command would find finished in options.trace. Throws Error where it would
// refuse the directory.
int64_t samples_kept_of(const CommonOptions& options, const Session& session, const PreparedRun& run,
                        const JobsOfCommand& jobs, int argc, char** argv);

// What trace and regimes trace say at the end.
void tell_trace(const CommonOptions& options);

}  // namespace signalbox::tools
