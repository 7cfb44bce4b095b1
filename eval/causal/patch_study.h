// Patching of all pairs into a directory, which goes on where it was stopped: a finished pair is a line of pairs.jsonl.
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/causal/patch_tables.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

inline constexpr const char* patch_schema = "signalbox.patch/1";  // of the manifest and the summary

struct PatchStudy {
  std::filesystem::path dir;
  Manifest manifest;  // identity, info and shard: of the pairs, those whose index is i mod n
  PatchRequest request;
  bool keep_all = false;              // pairs that do not prefer their answer too
  std::string input;                  // for messages
  std::vector<std::string> left_out;  // points named that cannot be patched
  uint64_t seed = 0;
  std::function<void(int64_t points)> on_kept;  // points of pairs that an earlier process finished
};

struct PatchOutcome {
  bool interrupted = false, was_complete = false;
  SelectedPairs selected;
  std::vector<PatchEstimate> rows;
  int64_t cells = 0, unchanged = 0, undefined = 0;
  double share_of_brute_force = 0;  // token-layers run, of those of a whole run for each cell that was run
};

// Writes patch.csv, flips.csv, summary.json, pairs.jsonl, manifest.json and log.txt. Throws Error as select_pairs,
// WorkDirectory and the forward do. `pairs`: all of the input; check_patch() has been called.
PatchOutcome conduct_patch(const engine::Session& session, const RecordJobs& made, std::vector<CausalPair> pairs,
                           const PatchStudy& study);

// Writes `out` from the directories of all shards: what one process would have written. Throws Error as merge_runs
// does, and where no shard has a pair that prefers its answer.
void merge_patches(const std::filesystem::path& out, std::span<const std::filesystem::path> shards);

}  // namespace signalbox::eval
