// Shards of a run, put together into the directory that one process would have written.
#pragma once
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

struct MergeOptions {
  std::string schema = run_schema;  // of the manifests
  bool has_samples = true;          // whether there is a samples.jsonl
  // Files, and directories of stages, that every shard makes whole: they must be the same in all shards, byte by byte,
  // or be in none, and are copied.
  std::vector<std::string> common = {"plan.json", "summary.json", "audit", "detect", "tune"};
  // Files with a JSON line for each record, which has its id: in all shards, or in none.
  std::vector<std::string> of_records = {"records.jsonl"};
  // Makes metrics.json and the tables in the directory, as a run does at its end. Called when all else is there; the
  // manifest's status is "running".
  std::function<void(const std::filesystem::path& dir)> finalize;
  // Called with lines of samples.jsonl merged so far and all of them, and again after each trace. May be empty; may
  // throw to stop.
  std::function<void(int64_t done, int64_t total)> on_progress;
};

// Writes `out`, which must not exist or be empty, from the directories of all shards, in any order. It is built as
// OUT.part and renamed when it is whole and flushed; what an interrupted merge left there is removed by the next.
// Memory: a line of each shard, and buffers of a few MB. Throws Error: a directory that holds no run or one that is not
// complete; shards of different runs (the differences in one line); shards missing or twice (by number); lines that are
// not those of the manifests; common files that differ.
void merge_runs(const std::filesystem::path& out, std::span<const std::filesystem::path> shards,
                const MergeOptions& options);

}  // namespace signalbox::eval
