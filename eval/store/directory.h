// The directory of `run`: a work directory with samples.jsonl.
#pragma once
#include <filesystem>
#include <optional>
#include <string_view>

#include "base/namespaces.h"
#include "eval/store/journal.h"
#include "eval/store/manifest.h"
#include "eval/store/work_directory.h"

namespace signalbox::eval {

class RunDirectory {
 public:
  // As WorkDirectory. Throws Error too when a complete run's lines are not those of its layout. A complete run from
  // which metrics.json or a sample is missing goes on.
  RunDirectory(std::filesystem::path dir, Manifest manifest);

  const std::filesystem::path& path() const { return work_.path(); }
  const Manifest& manifest() const { return work_.manifest(); }
  // Nothing is left to do: the run ended as complete, its samples are whole, and metrics.json is there.
  bool complete() const { return work_.complete(); }
  bool continued() const { return work_.continued(); }

  // What is run is known: the layout goes to the manifest, or is compared with the one that is there, and the samples
  // are opened. Throws Error as the constructor does, and as SampleLog's. Once, and not when complete().
  void begin(Layout layout);
  SampleLog& samples();  // after begin(), or when complete()
  // All samples are known: flushes samples.jsonl and removes the journal.
  void finish_samples() { samples().finish(); }

  // DIR/traces/NAME and the like: names of interventions as paths. '/' in a name makes a directory.
  std::filesystem::path trace_dir(std::string_view intervention) const;

  void log(std::string_view line) { work_.log(line); }

  // Ends the attempt: flushes samples and writes the manifest with this status. `complete` does finish_samples() first.
  // On a directory that was complete() it does nothing.
  void finish(RunStatus status);

 private:
  WorkDirectory work_;
  std::optional<SampleLog> samples_;
};

}  // namespace signalbox::eval
