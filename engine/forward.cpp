#include "engine/forward.h"

#include <algorithm>
#include <utility>

#include "engine/layers.h"

namespace signalbox::engine {

Forward::Forward(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots,
                 Buffers::Policy policy)
    : backend_(backend),
      model_(model),
      weights_(weights),
      max_slots_(std::max(max_slots, model.n_active())),
      step_(backend, model),
      buffers_(backend, model.n_layers(), policy),
      writes_(backend),
      low_rank_(backend),
      recorder_(backend, model, weights, max_slots_) {}

Forward::~Forward() { backend_.forget_graphs(); }  // they name memory of the members

// A latent is key and value at once. Where an edit writes to one of them, the other must stay as it is.
void Forward::separate_latents(const Batch& batch) {
  for (const BatchSequence& sequence : batch.members) {
    if (!sequence.edits || !sequence.edits->plan().has_point_edits()) continue;
    for (int32_t l = 0; l < static_cast<int32_t>(model_.n_layers()); ++l)
      if (!sequence.edits->point_edits(Point::attn_k, l).empty() ||
          !sequence.edits->point_edits(Point::attn_v, l).empty())
        sequence.kv->pool().separate_values(l);
  }
}

void Forward::launch(const Batch& batch, ProbeSink* sink) {
  edits_.read(batch);
  low_rank_.begin(batch);
  separate_latents(batch);
  writes_.begin(batch, edits_);
  try {
    record(batch, sink);
  } catch (...) {
    recorder_.abandon();
    in_flight_ = {};
    throw;
  }
  writes_.end();
}

void Forward::record(const Batch& batch, ProbeSink* sink) {
  recorder_.begin(batch, sink, edits_.router());
  step_.begin(batch, edits_, recorder_.ring_step());
  buffers_.begin(batch.n_tokens(), step_.token_capacity());
  odd_ = !odd_;
  in_flight_ = {&batch, {}};
  if (step_.n_logits() > 0)
    in_flight_.logits = buffers_.tensor(odd_ ? Activations::logits_odd : Activations::logits_even, -1, step_.n_logits(),
                                        model_.n_vocab);
  // Where the host looks in, or what is made is kept for it, each step is enqueued anew.
  if (step_.small() && !entry_.x && !writes_.any() && !low_rank_.any() && !recorder_.stops() && !buffers_.keeps()) {
    std::vector<int64_t> key = step_.key();
    key.insert(key.end(),
               {recorder_.ring_contents(), recorder_.ring_generation(), odd_, reinterpret_cast<int64_t>(this)});
    backend_.replay(key, [&] { enqueue(in_flight_.logits); });
  } else {
    enqueue(in_flight_.logits);
  }
  recorder_.end(step_.sampling() ? step_.chosen() : nullptr);
}

void Forward::enqueue(Tensor logits) {
  const layers::Pass pass{backend_, model_, weights_, max_slots_, step_, buffers_, writes_, low_rank_, recorder_};
  layers::Stream stream = entry_.x ? layers::Stream{entry_.x, {}, {}, true} : layers::embed(pass);
  for (int64_t l = entry_.layer; l < model_.n_layers(); ++l) {
    stream = layers::layer(pass, l, stream);
    if (on_layer_) on_layer_(l);
  }
  layers::head(pass, stream, logits);
}

Outputs Forward::run_from(const Batch& batch, int64_t layer, Tensor x, ProbeSink* sink) {
  entry_ = {layer, x};
  try {
    Outputs outputs = run(batch, sink);
    entry_ = {};
    return outputs;
  } catch (...) {
    entry_ = {};
    throw;
  }
}

layers::Stream Forward::again(const Batch& batch, int64_t l, Tensor x) {
  Recorder nothing(backend_, model_, weights_, max_slots_);
  writes_.begin(batch, edits_);
  const layers::Pass pass{backend_, model_, weights_, max_slots_, step_, buffers_, writes_, low_rank_, nothing};
  return layers::layer(pass, l, {x, {}, {}, true});
}

Outputs Forward::finish() {
  const InFlight done = std::exchange(in_flight_, {});
  if (!done.batch) throw Error("forward", "expected a step to finish, found none that was launched");
  Step::Results results = step_.finish(*done.batch);
  return {done.logits, results.tokens, results.log_probs, token_edits(results.edits, done.batch->n_tokens()),
          std::move(results.failures)};
}

// What the router counted on the device, and what the host wrote.
std::span<const TokenEdits> Forward::token_edits(std::span<const TokenEdits> of_routes, int64_t n_tokens) {
  if (!edits_.points()) return of_routes;
  token_edits_.assign(of_routes.begin(), of_routes.end());
  token_edits_.resize(static_cast<size_t>(n_tokens));
  for (int64_t t = 0; t < n_tokens; ++t) token_edits_[static_cast<size_t>(t)].layers += writes_.wrote(t);
  return token_edits_;
}

}  // namespace signalbox::engine
