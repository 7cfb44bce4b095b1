// Many jobs recorded into one trace directory, in parts that a killed process does not lose.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/runner.h"
#include "eval/store/manifest.h"
#include "probes/trace.h"

namespace signalbox::eval {

struct TraceRecording {
  TraceOptions trace;                              // its dir is the work directory
  std::vector<Job> jobs;                           // indices 0, 1, ...
  std::function<json::Value(int64_t job)> record;  // the line of records.jsonl
  Manifest manifest;                               // schema, identity and info
  // A part ends with the job that reaches one of these. Where parts end is the same in every process that works on the
  // directory: neither batch nor threads count.
  int64_t part_jobs = 256, part_tokens = int64_t{1} << 17;
};

struct RecordingEvents {
  std::function<void(int64_t tokens)> on_progress;  // of tokens_to_record(), those of earlier processes included
};

enum class RecordingEnd : uint8_t { complete, was_complete, interrupted };

// Tokens at most, given and generated.
int64_t tokens_to_record(const std::vector<Job>& jobs);

// Records or continues in the directory: parts under DIR/parts/, then all of them as DIR/trace.safetensors and
// DIR/records.jsonl, byte by byte what one process would have written. Throws Error as WorkDirectory, TraceWriter and
// run_jobs do.
RecordingEnd record_trace(const TraceRecording& recording, Forward& forward, const RunOptions& options,
                          const RecordingEvents& events);

}  // namespace signalbox::eval
