// Which routes a small change of the stream would flip, to first order: where a linear estimate of its effect cannot be
// trusted, because the routers behind it would choose other experts.
//
// A change `by` that is written to a token's stream reaches the router of a later layer of the same token directly as
//   dz = W_r (gamma * (by / r - x (x . by) / (n r^3))),  r^2 = mean(x^2) + eps,
// the change of its logits to first order (x: the stream there). The cell (token, layer) flips where the family's rule
// chooses another set of experts of z + dz than of z. What goes through later blocks or other tokens is not in it.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

// Cells that were looked at, and those that flip.
struct RouteFlips {
  int64_t cells = 0, flipped = 0;
  // NaN where there is no later router.
  double share() const {
    return cells > 0 ? static_cast<double>(flipped) / static_cast<double>(cells)
                     : std::numeric_limits<double>::quiet_NaN();
  }
  bool trusted() const { return flipped == 0; }
};

class RouteMargins {
 public:
  static std::string points();  // that a run must record
  // Of one sample of the unedited run. The store lives as long as this.
  RouteMargins(const engine::Session& session, const probes::ActivationStore& store, int64_t sample = 0);

  struct Change {
    int32_t stage = 0;  // eval/causal/contributions.h: routers of later stages see it
    int64_t token = 0;
    const float* by = nullptr;  // [d_model]
  };
  std::vector<RouteFlips> flips(const std::vector<Change>& changes) const;

 private:
  struct Layer {
    int32_t index = 0;
    std::vector<float> stream, logits;         // [n_tokens, d_model], [n_tokens, n_experts]
    std::vector<float> gamma;                  // [d_model]
    std::vector<std::vector<int32_t>> routes;  // [n_tokens] ascending
  };
  void count(const Layer& layer, const std::vector<const Change*>& changes, const std::vector<RouteFlips*>& to) const;
  const engine::Session& session_;
  std::vector<Layer> layers_;
};

// The routes [n_tokens][experts, ascending] of a layer of one sample; `place`: of the layer in store.layers().
std::vector<std::vector<int32_t>> routes_of(const probes::ActivationStore& store, int64_t sample, int64_t place);

}  // namespace signalbox::eval
