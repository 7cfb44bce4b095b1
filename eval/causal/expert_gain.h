// What every expert would have given, to first order: the gain g[t, l, e] = dM/d y[t, l] . f_e(h[t, l]) of a unit
// weight of expert e, chosen or not, for the output y of a block of experts and the stream h that they read. With it
// come the first-order effects of other routes:
//   sum over the other route of w' g  -  sum over the own route of w g
// where the other route is that without one of the chosen experts (ban), or that with one of those that were not
// (force), with the weights that the model's rule gives it.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

struct OtherRoute {
  bool forced = false;  // else banned
  int32_t expert = 0;   // that was forced or banned
  std::vector<int32_t> ids;
  std::vector<float> weights;
  double effect = 0;
  std::vector<float> change;  // [d_model] of the block's output
};

struct LayerGains {
  int64_t n_experts = 0;
  std::vector<double> gains;                    // [n_tokens, n_experts]
  std::vector<std::vector<int32_t>> ids;        // [n_tokens] in slot order
  std::vector<std::vector<float>> weights;      // likewise
  std::vector<std::vector<OtherRoute>> routes;  // [n_tokens] bans of the chosen ascending, then forces of the others
};

// Globs of the points that a run must record, and of those whose gradient it needs.
const char* gain_points();
const char* gain_slopes();

// Of `count` tokens from `first` on in one layer with a router, from the only sample of the unedited run's values and
// gradients. Every expert runs on every token: 8 n_experts d_model bytes for each.
LayerGains expert_gains(const engine::Session& session, const probes::ActivationStore& values,
                        const probes::ActivationStore& slopes, int32_t layer, int64_t first, int64_t count);

}  // namespace signalbox::eval
