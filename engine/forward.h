// The forward pass: one for all families and backends.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/kv_pool.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "probes/edits.h"
#include "probes/sink.h"

namespace signalbox {

// What probes and edits need to know of the model.
ModelShape probe_shape(const Model& model);

// The only input of the forward: a flat list of tokens, each with its sequence and position. Prefill, chunked prefill,
// decode, teacher forcing and many sequences at once are the same code with other numbers.
class Batch {
 public:
  // A timeline that takes part in the batch.
  struct Slot {
    KvSlots* kv = nullptr;
    const BoundEdits* edits = nullptr;  // null: none
    int64_t sample = 0;                 // sample of the trace that its rows belong to
    int64_t first_row = 0, n_rows = 0;  // rows of the batch
  };

  void clear();
  int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }

  // Appends `ids` as the next positions of a timeline, whose cache is extended. `spans`: bits of each token or empty.
  // `n_logits`: how many of the last tokens need logits.
  void append(KvSlots& kv, const BoundEdits* edits, int64_t sample, std::span<const int32_t> ids,
              std::span<const uint32_t> spans, int64_t n_given, int64_t n_logits);

  std::vector<Slot> slots;
  std::vector<int32_t> tokens, positions, sequences, kv_rows;  // [n_tokens]
  std::vector<uint8_t> phase;                                  // [n_tokens] 1 = generated
  std::vector<uint32_t> spans;                                 // [n_tokens]
  std::vector<int32_t> logit_rows;                             // rows whose logits are wanted, ascending
};

class Forward {
 public:
  // `max_slots`: the largest k of any route (Model::n_active() unless an edit raises it).
  Forward(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots);

  // Runs the batch: writes its keys and values, applies its edits, hands wanted points to `sink` (may be null), and
  // returns the logits [batch.logit_rows.size(), n_vocab], valid until the next run. Throws Error when an edit cannot
  // be applied (naming record, layer and edit) or a value is not finite.
  Tensor run(const Batch& batch, ProbeSink* sink);

  // Experts that ran although a ban forbade them, since the start. Not zero = the run must fail.
  int64_t leaks() const { return leaks_; }

  Backend& backend() { return backend_; }
  const Model& model() const { return model_; }

 private:
  struct Workspace;
  void attention(int64_t l, const Batch& batch);
  void gqa(int64_t l, const Gqa& attention, const GqaWeights& weights, const Batch& batch);
  void mla(int64_t l, const Mla& attention, const MlaWeights& weights, const Batch& batch);
  void feed_forward(int64_t l, const Batch& batch);
  void moe(int64_t l, const Moe& moe, const MoeWeights& weights, const Batch& batch);
  void point(Point point, int64_t l, Tensor x, int32_t n_slots = 1);
  void edit(Point point, int64_t l, Tensor x, int32_t n_slots);
  void prepare(const Batch& batch);
  void prepare_rope(int64_t n_positions);
  BatchView view() const;
  Tensor buffer(int index, int64_t rows, int64_t cols);

  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  int32_t max_slots_;
  int64_t leaks_ = 0;
  std::shared_ptr<Workspace> workspace_;
  const Batch* batch_ = nullptr;
  ProbeSink* sink_ = nullptr;
};

}  // namespace signalbox
