// One sequence, run forth, and where asked for back again: its metric, what stood at points, and how the metric changes
// with them.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/gradient.h"
#include "engine/session.h"
#include "eval/causal/metric.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

struct SequenceRun {
  double metric = 0;
  std::shared_ptr<probes::ActivationStore> values, slopes;  // one sample; slopes: null without a way back
  std::shared_ptr<void> memory;
  kernels::Tensor logits;  // [n_rows, n_vocab], memory of the device
};

struct SequenceRequest {
  const engine::Job* job = nullptr;              // whose tokens; nothing is generated
  const MetricRows* rows = nullptr;              // null: no metric and no logits
  const probes::EditPlan* plan = nullptr;        // instead of the job's own
  kernels::Tensor reference;                     // logits that `kl` compares with; absent: this run's own
  std::string values;                            // globs of points that are recorded; empty: none
  std::string slopes;                            // globs of points whose gradient is wanted
  bool back = false;                             // there is a way back
  engine::ReaderSink* readers = nullptr;         // on the way back
  const std::vector<float>* embedded = nullptr;  // [n_tokens, d_model] in place of the embeddings
  bool holds_final_divisor = false;
  int64_t dropped_layer = -1;  // engine/gradient.h
  std::string name = "run";    // of the store of values, which edits may then name
};

// Throws what forward, gradient and metric do.
SequenceRun run_sequence(const engine::Session& session, const SequenceRequest& request);

// The experts of every layer with a router held at those that a finished store recorded (router.ids, router.weights),
// with the weights that the model's rule gives them.
std::shared_ptr<const probes::EditPlan> hold_routes(const engine::Session& session,
                                                    const std::shared_ptr<const probes::ActivationStore>& store);

}  // namespace signalbox::eval
