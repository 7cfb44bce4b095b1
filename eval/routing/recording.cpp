#include "eval/routing/recording.h"

#include <cstdio>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "eval/store/work_directory.h"
#include "probes/trace_merge.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

bool has_trace(const fs::path& dir) { return fs::exists(dir / trace_file) && fs::exists(dir / records_file); }

// Jobs [begin, end).
struct Part {
  size_t begin = 0, end = 0;
  fs::path dir;
};

std::vector<Part> parts_of(const TraceRecording& recording) {
  std::vector<Part> parts;
  int64_t tokens = 0;
  for (size_t j = 0; j < recording.jobs.size(); ++j) {
    const bool full = !parts.empty() && (static_cast<int64_t>(j - parts.back().begin) >= recording.part_jobs ||
                                         tokens >= recording.part_tokens);
    if (parts.empty() || full) {
      char name[32];
      std::snprintf(name, sizeof name, "%06zu", parts.size());
      parts.push_back({j, j, recording.trace.dir / "parts" / name});
      tokens = 0;
    }
    parts.back().end = j + 1;
    tokens += recording.jobs[j].max_positions();
  }
  // One part is the trace itself.
  if (parts.size() == 1) parts[0].dir = recording.trace.dir;
  return parts;
}

class PartRecorder {
 public:
  PartRecorder(const TraceRecording& recording, Forward& forward, const RunOptions& options,
               const RecordingEvents& events)
      : recording_(recording),
        forward_(forward),
        options_(options),
        events_(events),
        directory_(recording.trace.dir, recording.manifest) {}

  RecordingEnd run() {
    const fs::path& dir = directory_.path();
    if (directory_.complete() && has_trace(dir)) return RecordingEnd::was_complete;
    directory_.reopen();
    if (!has_trace(dir)) {
      const std::vector<Part> parts = parts_of(recording_);
      for (size_t p = 0; p < parts.size(); ++p) {
        if (!has_trace(parts[p].dir) && !record(parts[p])) {
          directory_.finish(RunStatus::interrupted);
          return RecordingEnd::interrupted;
        }
        for (size_t j = parts[p].begin; j < parts[p].end; ++j) done_ += recording_.jobs[j].max_positions();
        directory_.log("part " + std::to_string(p + 1) + " of " + std::to_string(parts.size()));
      }
      if (parts.size() > 1) merge(parts);
    }
    fs::remove_all(dir / "parts");
    directory_.finish(RunStatus::complete);
    return RecordingEnd::complete;
  }

 private:
  // False when interrupted.
  bool record(const Part& part) {
    TraceOptions trace = recording_.trace;
    trace.dir = part.dir;
    TraceWriter writer(std::move(trace));
    std::vector<Job> jobs(recording_.jobs.begin() + static_cast<int64_t>(part.begin),
                          recording_.jobs.begin() + static_cast<int64_t>(part.end));
    std::vector<std::string> ids;
    for (Job& job : jobs) {
      job.index -= static_cast<int64_t>(part.begin);
      ids.push_back(job.prompt->id);
    }
    RunEvents events;
    events.on_progress = [&](int64_t tokens) {
      if (events_.on_progress) events_.on_progress(done_ + tokens);
    };
    if (!run_jobs(forward_, jobs, options_, events, &writer)) return false;
    writer.finish(ids, [&](int64_t sample) { return recording_.record(static_cast<int64_t>(part.begin) + sample); });
    return true;
  }

  void merge(const std::vector<Part>& parts) {
    directory_.log("putting the parts together");
    std::vector<fs::path> dirs;
    std::vector<TracePick> order;
    for (size_t p = 0; p < parts.size(); ++p) {
      dirs.push_back(parts[p].dir);
      for (size_t j = parts[p].begin; j < parts[p].end; ++j)
        order.push_back({static_cast<int32_t>(p), static_cast<int64_t>(j - parts[p].begin)});
    }
    merge_traces(directory_.path(), dirs, order);
  }

  const TraceRecording& recording_;
  Forward& forward_;
  const RunOptions& options_;
  const RecordingEvents& events_;
  WorkDirectory directory_;
  int64_t done_ = 0;  // tokens of parts that are whole
};

}  // namespace

int64_t tokens_to_record(const std::vector<Job>& jobs) {
  int64_t total = 0;
  for (const Job& job : jobs) total += job.max_positions();
  return total;
}

RecordingEnd record_trace(const TraceRecording& recording, Forward& forward, const RunOptions& options,
                          const RecordingEvents& events) {
  return PartRecorder(recording, forward, options, events).run();
}

}  // namespace signalbox::eval
