// A model with fewer experts, with experts that share their tensors, with one block in their place, or with new values,
// and what it has of the model that it came from.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"

namespace signalbox::engine {

// One layer with a router.
struct ExpertChange {
  int32_t layer = 0;
  std::vector<int32_t> kept;      // [n_experts now] which expert of the original each one was, ascending
  std::vector<int32_t> same_as;   // [n_experts now] the expert whose tensors it has: itself, or the first of its group
  std::vector<uint8_t> replaced;  // [n_experts now] 1: its tensors are new; else those of kept[e], bit by bit
};

struct ChangedModel {
  Model model;
  Weights weights;                      // host memory: views of the original's, and what is new
  std::vector<ExpertChange> changes;    // of every layer with a router, ascending
  std::vector<TensorId> replaced = {};  // outside of the experts: tensors whose values are new, in the stored dtype
  // Each layer with a router has become one with a single block, dense or of one expert, all of whose tensors are new.
  bool one_block = false;
};

// The experts of one layer that stay: ids of the original, ascending.
using KeptExperts = std::vector<std::pair<int32_t, std::vector<int32_t>>>;

// `weights` [host] without the experts that no list names, their rows of the router and its biases; layers that are not
// listed stay whole. Throws Error for ids that are not ascending ids of the layer, and for what validate() refuses of
// the model that is left.
ChangedModel keep_experts(const Model& model, const Weights& weights, const KeptExperts& kept);

}  // namespace signalbox::engine
