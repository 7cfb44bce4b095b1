// A second router, written from the text of the edit spec alone and without regard to speed: what the kernel is
// compared with. Logits are edited in float, everything after is double.
#pragma once
#include <optional>
#include <vector>

#include "kernels/router.h"

namespace signalbox::test {

struct ReferenceInput {
  std::vector<float> logits;
  Router router;
  std::vector<float> selection_bias;
  std::vector<RouterStep> steps;
  std::vector<uint8_t> active;  // by edit
  int32_t position = 0, layer = 0;
  uint64_t record_hash = 0;
  uint32_t sample = 0;
};

struct ReferenceRoute {
  std::vector<int32_t> ids, original_ids;
  std::vector<double> weights, original_weights;
  double shared_scale = 1, margin = 0, group_margin = 0;  // the latter infinite where no group is dropped
  std::vector<bool> banned;
  bool acted = false;               // some edit did
  std::optional<RouteFault> fault;  // kind, edit, expert; ids and weights are then the original ones
};

ReferenceRoute reference_route(const ReferenceInput& input);

}  // namespace signalbox::test
