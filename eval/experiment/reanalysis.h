// A run that its process has left, read again: its baseline's traces, its findings with another seed or number of
// replicates, and what a run that is not finished shows so far.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/findings.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// DIR holds a run that has made its plan.
bool is_run_directory(const std::filesystem::path& dir);

// The traces that stand for a directory: itself, or of a run its baseline's, one for each seed; none for a run without
// traces. Throws Error when it is neither a trace nor a run.
std::vector<std::filesystem::path> traces_of_directory(const std::filesystem::path& dir);

// A run (not one of deals) that has not come to its findings: its command goes on with it, or is at it now.
bool is_unfinished_run(const std::filesystem::path& dir);

struct ReanalysisOptions {
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  int threads = 0;
};

// Writes metrics.json, tables and the audit of the run in `dir` into `out` (a StagedFiles' where they replace others).
// Those of an unfinished run are partial. Throws Error when the run is neither complete nor has a sample to compare.
RunFindings reanalyze_run(const std::filesystem::path& dir, const std::filesystem::path& out,
                          const ReanalysisOptions& options);
// The findings of an unfinished run as far as its samples go (RunFindings::partial); nothing is written, and the run
// may go on beside. Without options those of the run. Throws Error where there is nothing to compare yet.
RunFindings partial_findings(const std::filesystem::path& dir,
                             const std::optional<ReanalysisOptions>& options = std::nullopt);
// All names that it may write there for this run; "audit" is a directory.
std::vector<std::string> findings_files(const std::filesystem::path& dir);

}  // namespace signalbox::eval
