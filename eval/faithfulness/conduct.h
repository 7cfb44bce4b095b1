// A study in its directory: stage after stage, each line kept as it comes, then the findings.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/runner.h"
#include "eval/faithfulness/findings.h"
#include "eval/faithfulness/study.h"

namespace signalbox::eval {

inline constexpr const char* faithfulness_schema = "signalbox.faithfulness/1";  // of the manifest and the settings

struct StudyWork {
  std::filesystem::path out;
  // Manifest::identity and info: everything that decides what the stages give, and what is told beside it.
  json::Value identity = json::Value::object(), info = json::Value::object();
  json::Value settings;  // settings.json, and a part of summary.json
  // Results do not depend on which jobs run together: a stage that was interrupted goes on after its last line.
  // Otherwise it begins anew, so that it ends with the same bytes.
  bool batch_invariant = true;
  // Directories of all shards of the study, in any order: their lines are taken, and nothing is run. The directory
  // comes to be what one process would have written.
  std::vector<std::filesystem::path> shards;
};

struct StudyEvents {
  std::function<void(const std::string& stage, int64_t tokens)> on_stage;  // a stage begins: tokens to run at most
  std::function<void(int64_t tokens)> on_progress;                         // of the stage
  // What earlier processes have left, before the first stage that goes on: "1-write, 2-ask; 12 of 40 lines of
  // 6-answer".
  std::function<void(const std::string& what)> on_kept;
};

// Runs or continues the study in its directory (docs/faithfulness.md). `forward` has study.max_slots(); of `options`
// the stop strings are the study's own. Returns what was found, or nothing when it was interrupted: what was finished
// stays. A study that is complete is left as it is, byte by byte, unless its tables are to be made with other resamples
// or another bound. Throws Error as WorkDirectory, LineLog and run_jobs do, and for
// shards that are not complete, missing, twice, or of another study.
std::optional<FaithfulnessFindings> conduct_study(FaithfulnessStudy& study, Forward& forward, RunOptions options,
                                                  const StudyWork& work, const StudyEvents& events);

// For a look ahead: lines of each stage that the directory holds, by name. Throws Error where conduct_study would
// refuse the directory, but for a lock that another process holds; nothing is changed.
std::map<std::string, int64_t> study_kept(const StudyWork& work, const Shard& shard);

}  // namespace signalbox::eval
