// Many jobs recorded into one trace directory, so that a killed process loses nothing but the samples in flight.
//
// Rows go to a spool (probes/trace.h) and stay there until the end. A sample whose rows are all there is settled: one
// line, finished.jsonl or journal.jsonl (LineLog), holds its line of texts.jsonl, where its rows lie and their hash. A
// later process takes up the settled samples whose rows are as they were, and runs the others.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/runner.h"
#include "eval/store/manifest.h"
#include "probes/trace.h"

namespace signalbox::eval {

struct TraceRecording {
  TraceOptions trace;                                                // resumable or not: it will be
  std::vector<Job> jobs;                                             // indices 0, 1, ...
  std::function<json::Value(int64_t job)> record;                    // the line of records.jsonl
  std::function<json::Value(int64_t job, const Result& done)> text;  // the line of texts.jsonl (trace_texts.h)
};

// What a recording tells. Any may be empty.
struct RecordingEvents {
  std::function<void(int64_t samples, int64_t tokens)> on_kept;  // what earlier processes have finished, if anything
  std::function<void(int64_t tokens)> on_progress;               // of tokens_to_record(), those of on_kept included
  std::function<void(const Job&, int32_t token, const std::string& text)> on_token;  // as RunEvents'
  // In the order of jobs, those of earlier processes included, which have no times: also where all was complete.
  std::function<void(Result)> on_result;
  std::function<void(const std::string& line)> on_note;  // for a log
  // A sink that is handed everything first and passes it on.
  std::function<ProbeSink*(ProbeSink* next)> in_front;
};

enum class RecordingEnd : uint8_t { complete, was_complete, interrupted };

// Tokens at most, given and generated.
int64_t tokens_to_record(const std::vector<Job>& jobs);

// A recording has come to its end in this directory. Removes what a process that was killed just then left.
bool is_recorded(const std::filesystem::path& dir);

// Records or continues in trace.dir, which nobody else may use meanwhile: trace.safetensors, records.jsonl and
// texts.jsonl, byte by byte what one process would have written. Throws Error as TraceWriter, LineLog and run_jobs do;
// what is settled stays for the next call.
RecordingEnd record_trace(const TraceRecording& recording, Forward& forward, const RunOptions& options,
                          const RecordingEvents& events);

// Samples that the next call with this manifest (below) would not run again; nothing is changed. Throws Error where it
// would refuse the directory, but for a lock that another process holds.
int64_t samples_recorded(const TraceRecording& recording, const Manifest& manifest);

// The same with a lock, and a manifest (of which schema, identity and info are given) that refuses another work: the
// directory is a WorkDirectory, which may hold other files. Throws Error as that does too.
RecordingEnd record_trace(const TraceRecording& recording, const Manifest& manifest, Forward& forward,
                          const RunOptions& options, const RecordingEvents& events);

}  // namespace signalbox::eval
