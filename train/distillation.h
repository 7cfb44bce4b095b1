// A mixture of experts made a dense model, stage by stage: the closed form, the blocks' own regression, and learning
// from the original's logits; then the student held against the original and against blocks of other experts.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "eval/compress/study.h"
#include "eval/data/records.h"
#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "train/one_block.h"
#include "train/student.h"

namespace signalbox::train {

inline constexpr const char* distillation_schema = "signalbox.distill/1";  // of manifest.json
inline constexpr const char* blocks_file = "blocks.csv";

// Three sets of records with no prompt in common: experts are chosen, and weights learnt, on one, training is watched
// on the second, and the third judges.
struct Splits {
  std::vector<Record> calibrate, stop, report;
  std::vector<Record> other;  // of other domains than the one asked for, where one is: judged too
};
// Where `stop` or `report` are not given, examples of `data` (independent_examples: pairs, paraphrases and copies stay
// together) are dealt out by seed, two parts of four to `calibrate`, and one to each that is missing. `domain`: only
// its records, unless empty. Throws Error: prompts in two of them, naming the records; too few examples; a domain that
// has none.
struct SplitFiles {
  std::vector<Record> data;
  std::optional<std::vector<Record>> stop, report;
  std::string domain;
};
Splits split_records(SplitFiles files, uint64_t seed);

struct DistillationSettings {
  int64_t keep = 1;  // experts of each layer
  KeepScore score = KeepScore::acp;
  double ridge = 0.03;              // lambda of the refit, as a share
  int64_t sample = 256;             // tokens whose outputs of all experts do_acp looks at
  int64_t random = 3;               // blocks of random experts to compare with
  Teacher teacher;                  // its forward is made here
  TrainingSettings blocks, logits;  // of the two stages that train; 0 steps: left out
  std::string weights = "*";        // that the last stage trains
  std::optional<int32_t> end_token;
};

struct Distillation {
  Session* session = nullptr;  // of the original, on a CPU
  const loaders::Rewrite* rewrite = nullptr;
  loaders::OpenOptions open;  // for students: as the original was opened
  Splits splits;
  std::filesystem::path dir;
  Manifest manifest;
  DistillationSettings settings;
  std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)> on_progress;
  std::function<void(const std::string& line)> on_note;
  const std::atomic<bool>* interrupted = nullptr;
};

// Fills `dir`, which is a checkpoint in the end: quality.csv (and quality_other.csv), blocks.csv (of each layer the
// experts kept and how far its block is from it before and after the refit), log.csv and stop.csv of the logits' stage,
// blocks_log.csv and blocks_stop.csv of the blocks', manifest.json. A second call with the same inputs goes on where
// an earlier one ended, to the same bytes. Throws Error.
TrainingEnd distil(const Distillation& distillation);

}  // namespace signalbox::train
