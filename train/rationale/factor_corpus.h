// What a rationale model learns from: token states of sentences, an embedding of each, and gold labels where there are
// some.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/data/records.h"
#include "train/namespaces.h"

namespace signalbox::train {

enum class FactorSplit : uint8_t { train, validation, test };
inline constexpr const char* factor_split_names[] = {"train", "validation", "test"};

struct FactorCorpus {
  std::vector<std::string> ids;  // [sentences]
  int64_t d_hidden = 0, d_target = 0;
  std::vector<float> hidden;     // [rows, d_hidden]
  std::vector<int64_t> offsets;  // [sentences + 1]
  std::vector<float> target;     // [sentences, d_target]
  // [rows] the word of its sentence that a row is of, -1: none (begin tokens, separators, what a template adds).
  std::vector<int32_t> words;
  std::vector<std::string> label_names;      // of labels 1, 2, ...; in order of first appearance
  std::vector<std::vector<int32_t>> labels;  // [sentences][words] 0: none, -1: does not count; empty: no gold
  std::vector<FactorSplit> splits;           // [sentences]
  std::vector<std::string> span_names;       // of runs of records: the names of their spans, and
  std::vector<uint32_t> spans;               // [rows] bit i: the row is in span i

  int64_t n_sentences() const { return static_cast<int64_t>(ids.size()); }
  int64_t n_rows() const { return offsets.back(); }
  bool has_labels() const { return !label_names.empty(); }
};

// Records with what is asked of them here: an id, and where states come from a file no text. JSON lines or CSV, as
// read_records; "-" is standard input. Throws Error.
std::vector<Record> read_factor_records(const std::string& file, bool text_required);

// `hidden` [rows, d], `offsets` [S + 1] and, unless `mean_target`, `target` [S, d_e] of a safetensors file, whose
// sentences are the records in their order; `words` [rows] where it has it, else every row is a word. Throws Error
// naming tensor or record.
FactorCorpus read_factor_corpus(const std::filesystem::path& file, const std::vector<Record>& records,
                                bool mean_target);

enum class FactorTarget : uint8_t { mean, last };
// Rows of `point` ("layer.3.resid_mid") of a run of every record; the target is their mean, or the last of them.
// `on_record` (may be empty) is called with the number of records that are done. Throws Error.
FactorCorpus record_factor_corpus(const engine::Session& session, const std::string& point,
                                  const std::vector<Record>& records, FactorTarget target,
                                  const std::function<void(int64_t)>& on_record);

// Gold labels: `tags` (or `labels`) of a record, one a word or, without `words`, one a row: "O", "", 0 or null is none,
// B- I- E- S- L- U- before a name are the same name, a negative number does not count. Where no record has any:
// the `spans` whose names are given, as labels of rows. Throws Error at the record.
void add_factor_labels(FactorCorpus& corpus, const std::vector<Record>& records,
                       const std::vector<std::string>& span_names);

// The records' `split`: train or detect; validation, valid, val, dev or tune; test. What is missing is dealt out of the
// training part by seed, a tenth each and at least one sentence where there are three or more. Throws Error for any
// other name.
void add_factor_splits(FactorCorpus& corpus, const std::vector<Record>& records, uint64_t seed);

}  // namespace signalbox::train
