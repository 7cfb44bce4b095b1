// The forward pass: one for all families and backends. `weights` are those of the backend's device (device_weights.h).
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
  // What becomes of the wanted logits, one entry each, or empty.
  std::vector<SampleParams> sampling;  // a token is chosen
  std::vector<int32_t> targets;        // log p of this token is wanted
};

// A sequence of the batch that could not be run: its edits cannot be applied, or the router's logits are not finite.
// The results of the others are what they would be without it.
struct SequenceFailure {
  int32_t sequence = 0;  // of the batch
  Error error;
};

// What a forward leaves behind.
struct Outputs {
  Tensor logits;                    // [batch.logit_rows.size(), n_vocab] on the device, valid until the run after next
  std::span<const int32_t> tokens;  // [batch.sampling.size()] chosen; valid until the next run
  std::span<const double> log_probs;      // [batch.targets.size()]
  std::vector<SequenceFailure> failures;  // the first one that happened first
};

class Forward {
 public:
  // `max_slots`: the largest k of any route (Model::n_active() unless an edit raises it).
  Forward(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots);
  ~Forward();
  Forward(const Forward&) = delete;
  Forward& operator=(const Forward&) = delete;

  // Runs the batch: writes its keys and values, applies its edits, hands wanted points to `sink` (may be null). Throws
  // Error when an edit cannot be applied (naming record, layer and edit), a value is not finite, or an expert ran that
  // a ban forbids.
  Outputs run(const Batch& batch, ProbeSink* sink) {
    launch(batch, sink);
    Outputs outputs = finish();
    if (!outputs.failures.empty()) throw outputs.failures.front().error;
    return outputs;
  }
  // run() in two steps: launch() enqueues the work, so that the host has time for something else while a device
  // computes; finish() waits for it, and tells failures of single sequences instead of throwing them. `batch` must live
  // until then.
  void launch(const Batch& batch, ProbeSink* sink);
  Outputs finish();
  // Hands over what is still on its way to the sink. Call it after the last run that was given it.
  void flush(ProbeSink& sink);

  Backend& backend() { return backend_; }
  const Model& model() const { return model_; }
  int32_t max_slots() const { return max_slots_; }

 private:
  struct Workspace;
  void enqueue(const Batch& batch);
  void prepare(const Batch& batch);
  void prepare_inputs(const Batch& batch);
  void prepare_rope(int64_t n_positions);
  std::vector<int64_t> graph_key(const Batch& batch) const;
  bool looked_at(Point point, int64_t l) const;
  // x += delta (absent: nothing) with the points in between, then the norm of x.
  Tensor next_norm(Tensor delta, std::span<const PointAt> points, Vector weight);
  void attention(int64_t l, Tensor h);
  void gqa(int64_t l, const Gqa& attention, const GqaWeights& weights, Tensor h);
  void mla(int64_t l, const Mla& attention, const MlaWeights& weights, Tensor h);
  void feed_forward(int64_t l, Tensor h);
  void moe(int64_t l, const Moe& moe, const MoeWeights& weights, Tensor h);
  void head(const Batch& batch, Tensor delta);
  void point(Point point, int64_t l, Tensor x, int32_t n_slots = 1);
  void edit(Point point, int64_t l, Tensor x, int32_t n_slots);
  const float* on_host(Tensor x);
  void route_on_host(int64_t n_tokens);
  void* memory(int index, size_t bytes, size_t roomy);
  Tensor buffer(int index, int64_t rows, int64_t cols);
  Tensor operand(int index, int64_t rows, int64_t cols);  // in the dtype that matrix products take
  template <class T>
  T* array(int index, int64_t n);

  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  int32_t max_slots_;
  std::shared_ptr<Workspace> workspace_;
  const Batch* batch_ = nullptr;
  ProbeSink* sink_ = nullptr;
};

}  // namespace signalbox
