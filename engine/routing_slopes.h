// What a metric that sees the routing itself adds on the way back (engine/gradient.h), layer by layer: terms on router
// logits and on the outputs of chosen experts, beside what the logits of the vocabulary ask for.
#pragma once
#include <cstdint>
#include <span>

#include "base/namespaces.h"
#include "engine/batch.h"

namespace signalbox::engine {

// One layer with a router, rows of a batch.
struct RoutedRows {
  int32_t layer = 0;
  int64_t n_tokens = 0, n_experts = 0, n_slots = 0, d_model = 0;
  std::span<const float> logits;   // [n_tokens, n_experts] as the router gave them
  std::span<const int32_t> ids;    // [n_tokens, n_slots] as applied; -1: an unused slot
  std::span<const float> outputs;  // [n_tokens, n_slots, d_model] of the experts, unweighted; empty: not wanted
};

class RoutingSlopes {
 public:
  virtual ~RoutingSlopes() = default;
  virtual bool wants_outputs() const { return false; }
  // Router logits see what the experts that were not chosen would have given (engine/unselected_experts.h).
  virtual bool sees_all_experts() const { return false; }
  // Before the way back of each run.
  virtual void begin(const Batch& batch) = 0;
  // From the last layer to the first: adds to d_logits, in the shape of logits, and d_outputs, in that of outputs.
  virtual void add(const RoutedRows& rows, std::span<float> d_logits, std::span<float> d_outputs) = 0;
};

}  // namespace signalbox::engine
