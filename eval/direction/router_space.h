// What the next router can see of a vector in the residual stream.
//
// The stream behind layer N is read by the router of the first layer above N that has one, W, after that layer's
// feed-forward norm: its logits are R x / r with R = W diag(gamma), up to the bias. A vector's router part is its
// projection on the row space of R, P = R^+ R; the rest changes no logit but by r, one factor for all.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"

namespace signalbox::eval {

// The first layer above `layer` with a router; nothing: there is none.
std::optional<int32_t> reading_router(const engine::Model& model, int64_t layer);

class RouterSpace {
 public:
  // Of the router of layer `layer`, from the device's weights; rows that the others span up to 1e-6 are left out.
  RouterSpace(const engine::Session& session, int32_t layer);
  int64_t rank() const { return static_cast<int64_t>(basis_.size()); }
  // P v, in double.
  std::vector<double> part(std::span<const double> v) const;

 private:
  std::vector<std::vector<double>> basis_;  // orthonormal
};

}  // namespace signalbox::eval
