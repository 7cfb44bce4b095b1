// A run directory: lock, manifest, samples, log; begun, continued and ended.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "eval/store/journal.h"
#include "eval/store/lock.h"
#include "eval/store/manifest.h"

namespace signalbox {

class RunDirectory {
 public:
  // Makes or continues the run in `dir`. Of `manifest` the caller gives identity, info, shard and, when it knows it,
  // the layout. Throws Error: another process holds the directory; it has files but no run; it holds a run of another
  // identity, shard or layout (every difference in one line); a complete run's lines are not those of its layout. A
  // directory whose run is complete is left as it is, byte by byte; otherwise the manifest now says "running" and has
  // one attempt more.
  RunDirectory(std::filesystem::path dir, Manifest manifest);
  // Without finish() the attempt ends as "failed" (an Error is on its way).
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return dir_; }
  const Manifest& manifest() const { return manifest_; }
  // Nothing is left to do: the run ended as complete, its samples are whole, and metrics.json is there.
  bool complete() const { return complete_; }
  // Was there a run here before?
  bool continued() const { return manifest_.attempts.size() > (complete_ ? 0u : 1u); }

  // What is run is known: the layout goes to the manifest, or is compared with the one that is there, and the samples
  // are opened. Throws Error as the constructor does, and as SampleLog's. Once, and not when complete().
  void begin(Layout layout);
  SampleLog& samples();  // after begin(), or when complete()
  // All samples are known: flushes samples.jsonl and removes the journal.
  void finish_samples() { samples().finish(); }

  // DIR/traces/NAME and the like: names of interventions as paths. '/' in a name makes a directory.
  std::filesystem::path trace_dir(std::string_view intervention) const;

  // Appends a line with the time to log.txt and flushes it; newlines within become spaces. A log that cannot be written
  // is an Error.
  void log(std::string_view line);

  // Ends the attempt: flushes samples and writes the manifest with this status. `complete` does finish_samples() first.
  // On a directory that was complete() it does nothing.
  void finish(RunStatus status);

 private:
  std::filesystem::path dir_;
  DirectoryLock lock_;
  bool complete_ = false, ended_ = false;
  Manifest manifest_;
  std::optional<SampleLog> samples_;
};

}  // namespace signalbox
