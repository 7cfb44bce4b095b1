// The forward pass: one for all families and backends. `weights` are those of the backend's device (device_weights.h).
#pragma once
#include <cstdint>
#include <functional>
#include <span>

#include "base/namespaces.h"
#include "engine/batch.h"
#include "engine/buffers.h"
#include "engine/layers.h"
#include "engine/low_rank.h"
#include "engine/model.h"
#include "engine/point_writes.h"
#include "engine/recorder.h"
#include "engine/step.h"
#include "engine/weights.h"
#include "probes/sink.h"

namespace signalbox::engine {

// What a forward leaves behind.
struct Outputs {
  Tensor logits;                    // [batch.logit_rows.size(), n_vocab] on the device, valid until the run after next
  std::span<const int32_t> tokens;  // [batch.sampling.size()] chosen; valid until the next run
  std::span<const double> log_probs;      // [batch.targets.size()]
  std::span<const TokenEdits> edits;      // [n_tokens] what edits did, a write to a point as a layer; empty: none acted
  std::vector<SequenceFailure> failures;  // the first one that happened first
};

class Forward {
 public:
  // `max_slots`: the largest k of any route (Model::n_active() unless an edit raises it). `policy`: what becomes of
  // what the layers make; see buffers() for what `keep` holds.
  Forward(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots,
          Buffers::Policy policy = Buffers::Policy::reuse);
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
  // until then; `sink` is not used after launch().
  void launch(const Batch& batch, ProbeSink* sink);
  Outputs finish();
  // Hands over what is still on its way to the sink. Call it after the last run that was given it.
  void flush(ProbeSink& sink) { recorder_.flush(sink); }
  // Forgets it: the sink is going, and the next run's is another.
  void drop_rows() noexcept { recorder_.drop(); }

  // Under Buffers::Policy::keep: what the layers of the last run made, until the next.
  Buffers& buffers() { return buffers_; }
  // Called when a layer has been enqueued, under keep: for whoever gives back what is not needed yet.
  void on_layer(std::function<void(int64_t)> call) { on_layer_ = std::move(call); }
  // Under keep, until the next launch(): makes layer l of the step that was finished last again, from the residual
  // stream x [n_tokens, d_model] as it was where the layer began. `batch`: that of the step.
  layers::Stream again(const Batch& batch, int64_t l, Tensor x);
  // run() from the middle: the layers from `layer` on (n_layers: final norm and head alone), for tokens whose residual
  // stream there is x [n_tokens, d_model], memory of the device, which is written over. Their keys and values are
  // cached from this layer on; earlier positions' must be there already. Edits of earlier layers and points do nothing
  // here.
  Outputs run_from(const Batch& batch, int64_t layer, Tensor x, ProbeSink* sink);
  // The same step's inputs and what writes to its points, for the way back.
  const Step& step() const { return step_; }
  PointWrites& writes() { return writes_; }
  const ActiveEdits& edits() const { return edits_; }
  Backend& backend() { return backend_; }
  const Model& model() const { return model_; }
  int32_t max_slots() const { return max_slots_; }

 private:
  void record(const Batch& batch, ProbeSink* sink);
  void enqueue(Tensor logits);
  void separate_latents(const Batch& batch);
  std::span<const TokenEdits> token_edits(std::span<const TokenEdits> of_routes, int64_t n_tokens);

  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  int32_t max_slots_;
  ActiveEdits edits_;
  Step step_;
  Buffers buffers_;
  PointWrites writes_;
  LowRank low_rank_;
  Recorder recorder_;
  std::function<void(int64_t)> on_layer_;
  struct Entry {
    int64_t layer = 0;
    Tensor x;  // absent: a run from the embedding on
  } entry_;
  bool odd_ = false;  // which of the two buffers of logits this step uses
  // A step that was launched and is not yet finished.
  struct InFlight {
    const Batch* batch = nullptr;
    Tensor logits;
  } in_flight_;
  std::vector<TokenEdits> token_edits_;  // of the step that was finished last
};

}  // namespace signalbox::engine
