// What a model is carved on and judged by.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/data/record_jobs.h"
#include "eval/data/records.h"
#include "train/namespaces.h"

namespace signalbox::train {

// Tokens in a row that calibration and evaluation may not have in common: a model looks better on what it was fitted
// to.
inline constexpr int64_t shared_run = 64;

struct UpcycleTexts {
  std::vector<Record> calibration, evaluation;
  RecordJobs calibration_jobs, evaluation_jobs;  // given tokens, indices from 0
  std::vector<std::string> kinds;                // of the evaluation, in order of first appearance
  std::vector<size_t> kind_of;                   // [evaluation records]
  int64_t moved = 0;  // records that a split had put into the evaluation and that share a run with the calibration
};

// `evaluation`: none: a fifth of the examples of `data`, drawn by the seed, less those that share a run of tokens with
// the rest. A record's kind is its domain, else its condition, else "text". Throws Error: a given evaluation record
// that shares a run with a calibration record, naming both; too few records; what make_jobs refuses.
UpcycleTexts upcycle_texts(const Session& session, std::vector<Record> data,
                           std::optional<std::vector<Record>> evaluation, uint64_t seed);

// Text that the model itself writes, for want of other: records of `length` tokens that begin with `first` and are
// drawn at temperature 1, into a JSON lines file at once or not at all. False when interrupted.
bool write_own_text(const Session& session, int32_t first, int64_t records, int64_t length, uint64_t seed,
                    const RunOptions& run, const std::function<void(int64_t done, int64_t total)>& progress,
                    const std::filesystem::path& file);

}  // namespace signalbox::train
