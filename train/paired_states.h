// Two models that read the same text, token by token: which tokens of the one are which of the other, what stands in
// the stream before each layer's experts, and which experts are selected.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/session.h"
#include "eval/data/record_jobs.h"
#include "probes/sink.h"
#include "train/namespaces.h"

namespace signalbox::train {

// A token of a record: its job's index and its row.
using TokenAt = std::pair<int64_t, int64_t>;

// The records as two models read them, and the tokens that stand for the same text.
struct PairedTokens {
  RecordJobs a, b;
  std::vector<TokenAt> in_a, in_b;  // [n] in order of record and row
  bool word_ends = false;           // the tokenizers differ: the tokens that end the same words
  int64_t n() const { return static_cast<int64_t>(in_a.size()); }
};

// All tokens of all records where both models make the same tokens of them (by id and, where both have a tokenizer, by
// spelling). Otherwise tokens are paired where both end at the end of the same word: of records with a `prompt` and no
// target. Throws Error naming the record's place: what cannot be encoded, or cannot be paired by words.
PairedTokens pair_tokens(const Session& a, const Session& b, const std::vector<Record>& records);

// What one layer had.
struct LayerStates {
  int32_t layer = 0;
  int64_t n_slots = 0;
  std::vector<int32_t> ids;  // [n tokens, n_slots] experts selected; -1: unused
  std::vector<float> mid;    // [n states, d_model] resid_mid
};

// A sink for a run of one side's jobs. `tokens`: ascending; `states`: indices into it, ascending, of the tokens whose
// states are kept. Memory: 4 (n_slots n + d_model n_states) bytes a layer.
class StateSink final : public ProbeSink {
 public:
  StateSink(const ModelShape& shape, const std::vector<int32_t>& layers, const std::vector<TokenAt>& tokens,
            const std::vector<int64_t>& states);
  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override {}

  const LayerStates& layer(int32_t layer) const;

 private:
  LayerStates& at(int32_t layer);
  int64_t d_model_ = 0, n_tokens_ = 0;
  const std::vector<TokenAt>& tokens_;
  std::vector<int64_t> state_of_;                    // [tokens] place among the states, or -1
  std::vector<std::pair<int64_t, int64_t>> wanted_;  // (batch row, token)
  std::vector<LayerStates> layers_;
};

// Throws what events.on_progress throws.
void record_states(const Session& session, const RecordJobs& jobs, StateSink& sink, const RunEvents& events);

}  // namespace signalbox::train
