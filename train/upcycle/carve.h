// One dense feed-forward block as a shared expert and routed ones, without a gradient.
//
//   score of neuron i for a token: |h_i| |d_i|, h = silu(gate x) * (up x), d_i its column of down: the size of what it
//   adds shared     the neurons that are most often among a token's top tenth experts    the others, those together
//   whose scores rise and fall together (balanced K-means on the centred unit
//              vectors of their scores over the calibration tokens)
//   router     ridge regression from what the block reads to the size of each expert's output, no intercept
//   refit      down again, to give what the dense block gives, from the neurons that the router leaves on
//   (train/refit.h)
//
// Source of the idea: CMoE (shared experts, clusters of activation patterns). Its router is one neuron of each expert;
// a regression fits families whose routers are linear.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "engine/session.h"
#include "train/namespaces.h"
#include "train/refit.h"
#include "train/upcycle/ffn_inputs.h"
#include "train/upcycle/layout.h"

namespace signalbox::train {

struct CarvedLayer {
  std::vector<int32_t> ranking;  // [d_ff] neurons, those first that are most often in a token's top tenth
  std::vector<int32_t> neurons;  // [d_ff] the shared ones, then each expert's; ascending within each
  std::vector<float> router;     // [routed, d_model]
  std::vector<float> down;       // [d_model, d_ff] the refitted columns in the order of `neurons`
  // The same for the block without a router: the first of `ranking`, as many as are active, ascending.
  std::vector<float> static_down;  // [d_model, active neurons]
  // |dense output - carved output|^2 / |dense output|^2 on the calibration tokens, before the refit and after it.
  double error_linear = 0, error_refit = 0, error_static = 0, error_static_refit = 0;
};

struct CarveSettings {
  CarveLayout layout;
  uint64_t seed = 0;
  double router_ridge = 0.1;           // lambda, a token
  double refit_ridge = default_ridge;  // as Refit::solve takes it
};

// The neurons of the block without a router.
std::vector<int32_t> static_neurons(const CarvedLayer& layer, int64_t n);

// Of the dense block `layer` of the session's model (a CPU). `inputs` of the calibration records. Bits depend on these
// and the settings alone. `step` is called between parts of the work, and may throw.
CarvedLayer carve_layer(const Session& session, const FfnInputs& inputs, int64_t layer, const CarveSettings& settings,
                        ThreadPool& pool, const std::function<void()>& step);

// The experts of each token with the largest outputs, on what the dense model's block reads: what a router would choose
// that knew their sizes. out [tokens, active], ascending.
std::vector<int32_t> best_route(const Session& session, const FfnInputs& inputs, int64_t layer,
                                const CarvedLayer& carved, const CarveLayout& layout, ThreadPool& pool);

}  // namespace signalbox::train
