// A whole experiment in a run directory, stage by stage: detection, tuning, the tests and their findings.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/experiment/evaluate.h"
#include "eval/experiment/experiment.h"
#include "eval/findings/findings.h"
#include "eval/store/directory.h"
#include "eval/store/shard.h"

namespace signalbox::eval {

struct ConductOptions {
  std::filesystem::path out;
  Shard shard;
  // Manifest::identity and info, of which the command knows more than we do: model, device, files, argv, ... The spec
  // is added here.
  json::Value identity = json::Value::object(), info = json::Value::object();
  int threads = 0;  // of statistics
  // Called when all findings are written, before the run is called complete: for a report of them. May be empty.
  std::function<void(const std::filesystem::path& dir, const RunFindings& findings)> on_findings;
};

struct ConductEvents {
  // A stage begins: "running", 640, "samples".
  std::function<void(const std::string& what, int64_t total, const std::string& unit)> on_stage;
  std::function<void(int64_t done)> on_kept;  // of its total, by earlier processes; where it is more than nothing
  std::function<void(int64_t done)> on_progress;
  std::function<void(const std::string& line)> on_note;  // for people
};

// What a model refuses of the interventions, as far as they do not wait for detection, and detection where it could
// find nothing. Throws Error; conduct() calls it too.
void check_edits(const ExperimentSpec& spec, const ModelShape& shape);

enum class RunEnd : uint8_t { complete, was_complete, interrupted };

// How many samples a run would find in its directory; nothing is changed. Throws Error where conduct() would refuse it.
int64_t samples_kept(const Experiment& experiment, const ConductOptions& options);

// Runs or continues the experiment in its directory; one with deals as cross_fit.h says. Throws Error; what was
// finished stays.
RunEnd conduct(const Experiment& experiment, const Session& session, const ConductOptions& options,
               const ConductEvents& events);

}  // namespace signalbox::eval
