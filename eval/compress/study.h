// A compression study: measure the experts, make plans, hold what is left of the model against random choice and
// against choice by frequency. docs/compression.md tells the definitions.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/csv.h"
#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/compress/ablation.h"
#include "eval/compress/plan.h"
#include "eval/compress/quality.h"
#include "eval/data/records.h"

namespace signalbox::eval {

struct StudyOptions {
  KeepBy score = KeepBy::reap;
  bool merges = false;
  std::vector<int64_t> keep;    // experts of each layer; one study of each
  std::vector<double> share;    // instead: shares of them
  int64_t pairs = -1;           // PairOptions::per_layer
  int64_t output_sample = 256;  // tokens on which all experts are run
  int64_t ablation = 0;         // records on which each expert is banned
  int64_t random = 3;           // random plans of each size
  bool protect = true;          // super experts stay
  uint64_t seed = 0;
  int threads = 1;
  std::string isa = "auto";
};

// Which records make the plans, and which they are judged by.
struct StudyRecords {
  std::vector<Record> calibration, evaluation;
  bool split = false;     // both are of one file
  int64_t in_common = 0;  // evaluation records whose prompt is a calibration record's too
};
// Without records of its own for evaluation, half of the examples (independent_examples: pairs, paraphrases and copies
// stay together) are drawn by seed for calibration, rounded up. Throws Error naming --data where one example is all.
StudyRecords study_records(std::vector<Record> data, std::optional<std::vector<Record>> evaluation, uint64_t seed);

// The sizes of the options, largest first. Throws Error naming --keep, --share or --ablation.
std::vector<int64_t> study_sizes(const Model& model, const StudyOptions& options);

// What is known of a checkpoint's files and of the way a study is told and shown.
struct StudyHooks {
  struct Bytes {
    int64_t bytes = 0, stored_bytes = 0;
  };
  std::function<Bytes()> original_bytes;
  std::function<Bytes(const ChangedModel&)> bytes;
  std::function<DType(const TensorId&)> stored_dtype;
  // Stages one after the other, each counting up to its total; may throw to end the study.
  std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)> on_progress;
  std::function<void(const Plan&, const ChangedModel&)> on_plan;  // after it was judged
  std::function<void(const std::string&)> on_note;                // a line for people
};

struct QualityRow {
  std::string plan;  // "original", "plan", "random", "frequency"
  int64_t keep = 0;
  std::optional<uint64_t> seed;
  int64_t parameters = 0, active_parameters = 0, bytes = 0, stored_bytes = 0;
  Quality quality;
};

// quality.csv, as text; its columns, and a row of them for a table that has more.
std::vector<std::string_view> quality_columns();
void add_quality_cells(CsvWriter& csv, const QualityRow& row);
json::Value quality_json(const QualityRow& row);
std::string quality_csv(const std::vector<QualityRow>& rows);

struct StudyResult {
  std::vector<LayerMeasures> measures;
  std::vector<std::vector<Ablation>> ablation;  // empty: not asked for
  std::map<int32_t, std::vector<int32_t>> super;
  std::vector<LayerPairs> pairs;
  std::vector<Plan> plans;                         // those called "plan", by size
  std::vector<QualityRow> rows;                    // the original, then by size: plan, frequency, random ones
  int64_t tokens = 0, sampled = 0, predicted = 0;  // of calibration; of them compared; of evaluation
};

// `host`: the weights in host memory. `edits` (may be null): under which the experts are measured. Where the device has
// memory of its own, session.weights leave it once the original has been judged. Throws Error.
StudyResult run_study(Session& session, const Weights& host, const StudyRecords& records,
                      const std::shared_ptr<const EditPlan>& edits, const StudyOptions& options,
                      const StudyHooks& hooks, const std::filesystem::path& scratch);

// experts.csv, pairs.csv, plan.json, quality.csv and summary.json. `about`: members of summary.json that the caller
// knows (model, command line, hashes).
inline constexpr const char* study_files[] = {"experts.csv", "pairs.csv", "plan.json", "quality.csv", "summary.json"};
void write_study(const StudyResult& result, const StudyRecords& records, const Model& model,
                 const StudyOptions& options, json::Value about, const std::filesystem::path& directory);

// The table of quality.csv for a terminal of `width` columns (0: any), and what it says in words, a sentence a plan.
std::string study_table(const StudyResult& result, int width);
std::vector<std::string> study_sentences(const StudyResult& result, const StudyOptions& options);

}  // namespace signalbox::eval
