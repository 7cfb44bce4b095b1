// One step of the forward as a device sees it: the image of its inputs, the key of the work that is enqueued for it,
// and the status that comes back.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/namespaces.h"
#include "engine/batch.h"
#include "engine/device_edits.h"
#include "engine/model.h"
#include "engine/rope_table.h"
#include "engine/step_inputs.h"

namespace signalbox::engine {

// A sequence of the batch that could not be run: its edits cannot be applied, or the router's logits are not finite.
// The results of the others are what they would be without it.
struct SequenceFailure {
  int32_t sequence = 0;  // of the batch
  Error error;
};

class Step {
 public:
  Step(Backend& backend, const Model& model);

  // Writes everything that the device needs to know of this step into one image and uploads it. `edits`: of the batch.
  // `ring_step`: the number under which routes are recorded. What the accessors below give is valid until the next
  // call.
  void begin(const Batch& batch, const ActiveEdits& edits, uint32_t ring_step);

  int64_t n_tokens() const { return view_.n_tokens; }
  // Tokens, sequences and so on that the image has room for: its layout depends on capacities alone.
  int64_t token_capacity() const { return token_capacity_; }
  // So few tokens that enqueueing them costs more than running them: such work is captured and replayed.
  bool small() const { return view_.n_tokens <= max_captured_tokens; }
  // What decides which ops are enqueued, with which sizes and addresses. Addresses of buffers are not among them: they
  // move only where a buffer grows, and then all graphs are forgotten.
  std::vector<int64_t> key() const;

  // In memory of the device.
  const BatchView& view() const { return view_; }
  const RopeTable& rope() const { return *rope_table_; }
  const int32_t* tokens() const { return tokens_; }          // [n_tokens]
  const int32_t* logit_rows() const { return logit_rows_; }  // [n_logits]
  int64_t n_logits() const { return n_logits_; }
  KvCache cache(int64_t layer) const { return pool_->layer(layer); }
  int64_t n_cache_rows() const { return pool_->n_rows(); }
  int64_t n_keys() const { return n_keys_; }  // the largest position plus one
  const uint32_t* ring_step() const { return ring_step_; }
  // Edits of routes: whether there are any, and a layer's part of them.
  bool edits_routes() const { return programs_ != nullptr; }
  RouteBatch route_batch(int64_t layer) const;
  // Written by the ops: the number of (token, slot) that ran a forbidden expert, and the first fault of the router in
  // each sequence.
  uint64_t* leaks() const { return inputs_.device<uint64_t>(status_at_); }
  uint64_t* faults() const { return leaks() + 1; }
  // What the router adds up of its edits, [n_tokens], zero at first; null where no routes are edited.
  TokenEdits* token_edits() const { return programs_ ? inputs_.device<TokenEdits>(edits_at_) : nullptr; }
  // What becomes of the wanted logits: null where nothing is asked for.
  const SampleParams* sampling() const { return sampling_; }
  const int32_t* targets() const { return targets_; }
  int32_t* chosen() const { return inputs_.device<int32_t>(chosen_at_); }      // [n_logits]
  double* log_probs() const { return inputs_.device<double>(log_probs_at_); }  // [n_logits]

  // Waits for the step, whose batch this is. Throws Error when a forbidden expert ran.
  struct Results {
    std::span<const int32_t> tokens;        // [batch.sampling.size()]; valid until the next finish()
    std::span<const double> log_probs;      // [batch.targets.size()]; likewise
    std::span<const TokenEdits> edits;      // [n_tokens], or empty where no routes are edited; likewise
    std::vector<SequenceFailure> failures;  // the first one that happened first
  };
  Results finish(const Batch& batch);

 private:
  static constexpr int64_t max_captured_tokens = 64;
  // Where edits of routes stand in the image.
  struct EditOffsets {
    size_t active = 0, hashes = 0, samples = 0, programs = 0;
  };
  EditOffsets add_edits(const Batch& batch, const ActiveEdits& edits);

  Backend& backend_;
  std::vector<int32_t> moe_layers_;
  RopeCache rope_;
  DeviceEdits device_edits_;
  StepInputs inputs_;

  int64_t token_capacity_ = 0, sequence_capacity_ = 0;
  int64_t n_keys_ = 0, n_sequences_ = 0, n_logits_ = 0, n_sampled_ = 0, n_targets_ = 0;
  BatchView view_;
  const RopeTable* rope_table_ = nullptr;
  const KvPool* pool_ = nullptr;
  const int32_t *tokens_ = nullptr, *logit_rows_ = nullptr, *targets_ = nullptr;
  const SampleParams* sampling_ = nullptr;
  const uint32_t* ring_step_ = nullptr;
  RouteBatch routes_;                        // but for its layer and programs
  const RouterProgram* programs_ = nullptr;  // [moe layer][sequence_capacity]; null: no edits of routes
  // Read back at the end in one transfer: leaks and faults, chosen tokens, log p, what edits did.
  size_t status_at_ = 0, status_bytes_ = 0, chosen_at_ = 0, log_probs_at_ = 0, edits_at_ = 0;
  std::shared_ptr<void> status_host_;
  size_t status_host_bytes_ = 0;
};

}  // namespace signalbox::engine
