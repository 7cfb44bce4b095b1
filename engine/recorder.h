// What a forward hands to a sink.
//
// There are two ways, and the sink decides which. Where it wants nothing but what the router kernel writes, routes pass
// through a ring in the device's memory (route_ring.h): the host never waits for a point, the step may be captured, and
// the sink gets its rows some steps later. Where it wants any other point, the host stops at each of them and copies
// it, and the step's rows are handed over whole before end() returns.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "base/namespaces.h"
#include "engine/batch.h"
#include "engine/expert_shares.h"
#include "engine/model.h"
#include "engine/route_ring.h"
#include "probes/sink.h"

namespace signalbox::engine {

class Recorder {
 public:
  // `weights`: those of the backend's device. `n_slots`: slots of a route.
  Recorder(Backend& backend, const Model& model, const Weights& weights, int32_t n_slots);

  // A step begins; batch and sink (null: nothing is recorded) are looked at until end(). May hand over rows of earlier
  // steps. `edits_routes`: original ids are kept apart.
  void begin(const Batch& batch, ProbeSink* sink, bool edits_routes);
  // All ops of the step are enqueued. `chosen`: where the device writes the tokens that the step chooses, one for each
  // row of logits; null: none. Waits for them where expert.direct is recorded.
  void end(const int32_t* chosen);
  // The step fails after begin(), or in it: no sink is left within a batch.
  void abandon();
  // Hands over what is still on its way.
  void flush(ProbeSink& sink) { ring_.flush(sink); }
  void drop() noexcept { ring_.drop(); }

  // Whether the host must stop at points of this step.
  bool stops() const { return sink_ && !by_ring_; }
  // Whether it must stop at this one (layer -1: not of a layer).
  bool wants(Point point, int64_t layer) const { return stops() && sink_->wants(point, static_cast<int32_t>(layer)); }
  // Hands over x [n_tokens * n_slots, width], f32 or operand, if it is wanted.
  void take(Point point, int64_t layer, Tensor x, int32_t n_slots);
  // Hands over expert.contribution and expert.norm if they are wanted: of outputs [n_tokens * n_slots, d_model], f32,
  // the experts' outputs. What take_update() and expert.direct need of them is kept.
  void take_contributions(int64_t layer, Tensor outputs, const Route& route);
  // Hands over expert.update_share if it is wanted, after take_contributions of the same layer. update: moe.out, f32.
  void take_update(int64_t layer, Tensor update);
  // What the final norm reads, x [n_tokens, d_model] f32: for expert.direct, which end() hands over.
  void take_stream(Tensor x);

  // The number under which the router kernel records the routes of this step; to be put where route() says.
  uint32_t ring_step() const { return ring_step_; }
  bool records_routes() const { return records_routes_; }
  // Where the kernel records the route of a layer with a router; `step`: ring_step() in memory of the device.
  RouteRecord route(int64_t layer, const uint32_t* step) const;
  // What of this changes the ops that are enqueued, for the key of a captured step.
  int64_t ring_contents() const { return records_routes_ ? ring_.mask() : 0; }
  int64_t ring_generation() const { return ring_.generation(); }

 private:
  const float* on_host(Tensor x);
  void weigh(Tensor outputs, const Route& route);
  void hand_over_direct(const int32_t* chosen);

  Backend& backend_;
  const Model& model_;
  const Weights& weights_of_model_;
  int32_t n_slots_;
  int64_t n_layers_;
  std::vector<int32_t> moe_layers_;
  RouteRing ring_;
  ProbeSink* sink_ = nullptr;  // between begin() and end()
  bool open_ = false;          // the sink has begun this step's batch
  StepRows rows_;              // likewise
  std::vector<RowRange> ranges_;
  uint32_t ring_step_ = 0;
  bool by_ring_ = false, records_routes_ = false;
  std::vector<unsigned char> stored_;    // a point as it lies on the device
  std::vector<float> values_;            // and as the sink gets it
  std::vector<int32_t> ids_;             // of a route
  std::vector<float> weights_;           // likewise
  std::vector<float> weighted_;          // the layer's contributions, in slot order
  std::vector<float> reduced_;           // a number of each slot
  bool takes_direct_ = false;            // expert.direct is wanted of this step
  size_t n_logits_ = 0;                  // rows of logits of it
  std::optional<DirectEffects> direct_;  // from the first step on that wants it
};

}  // namespace signalbox::engine
