// The way back through the one forward: how a number made of the logits changes with what stands at each point.
//
// A forward over whole sequences keeps the residual stream where each layer begins. Then, from the last layer to the
// first, the layer is made again from it (on the CPU with the same bits, so with the same routes), the adjoints of its
// ops (kernels/adjoint.h) run in the opposite order, and what it made is given back. So memory is that of one layer's
// activations (engine/buffers.h) and 4 d_model bytes per token and layer, and the cost is about three forwards. Of
// weights that are wanted, sums over the batch's tokens are made on the way (engine/weight_slopes.h).
//
// Routes are constants: the gradient of a router's weights reaches its logits by the family's rule, and does not see
// that a small change of the logits may choose other experts. What an edit writes is a constant as well: where it sets
// a value, nothing that was there matters.
#pragma once
#include <cstdint>
#include <functional>

#include "base/namespaces.h"
#include "engine/forward.h"
#include "engine/kept_streams.h"
#include "engine/routing_slopes.h"
#include "engine/stream_readers.h"
#include "engine/weight_slopes.h"
#include "probes/sink.h"

namespace signalbox::engine {

// Points that have a gradient: what reads them is differentiated. All that may be written to, and router.logits,
// router.weights (of the applied route, edits' factors included), expert.contribution, attn.pattern (of the shares as
// they are, each by itself) and logits.
bool has_gradient(Point point);

class Gradient {
 public:
  // As Forward. Throws Error at run() where the device has no adjoints.
  Gradient(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots);

  // Fills d_logits with dM/d logits, both [batch.logit_rows.size(), n_vocab], memory of the device.
  using Objective = std::function<void(Tensor logits, Tensor d_logits)>;

  // What else a run is asked for.
  struct More {
    int64_t dropped_layer = -1;        // what this layer writes has no gradient; the stream that passes it does
    WeightSlopes* weights = nullptr;   // gradients of weights: about a forward more for all. Error where there are none
    ReaderSink* readers = nullptr;     // who reads the stream, apart
    Tensor embedded;                   // [n_tokens, d_model] in place of the tokens' embeddings; it is written over
    bool holds_final_divisor = false;  // the final norm's divisor is a constant, so that the logits are linear there
  };

  // Runs the batch, in which every sequence starts at position 0, with its edits. `values` (null: none) gets the wanted
  // points as in a forward; `slopes` gets dM/d of those it wants, in the shape of the point: at points with a row per
  // slot those of unused slots are 0; latent attention's attn.k and attn.v are the latent's two roles apart. Throws
  // what a forward throws, and Error for an edit whose weights have no gradient. Under `embedded` nothing is recorded
  // before layer 0 begins, but embed has its gradient.
  Outputs run(const Batch& batch, ProbeSink* values, ProbeSink& slopes, const Objective& objective, const More& more);
  Outputs run(const Batch& batch, ProbeSink* values, ProbeSink& slopes, const Objective& objective,
              WeightSlopes* weights = nullptr) {
    More more;
    more.weights = weights;
    return run(batch, values, slopes, objective, more);
  }

  // What all runs from now on add for the routing itself; null: nothing. It must live as long.
  void see_routing(RoutingSlopes* routing) { routing_ = routing; }

  Forward& forward() { return forward_; }
  size_t bytes() const { return streams_.most_bytes(); }  // of activations, at most, so far

 private:
  friend class Backward;
  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  Forward forward_;
  KeptStreams streams_;
  RoutingSlopes* routing_ = nullptr;
};

}  // namespace signalbox::engine
