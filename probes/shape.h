// What probes and edits need to know of a model: sizes, and which layers have a router or a shared expert.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::probes {

// What attention reads and writes, in floats of one head. Latent attention has one key head: its keys are the latent
// and the rotated key, its values the latent.
struct AttentionShape {
  int64_t n_heads = 0, n_kv_heads = 0;  // 0: not known, and the points inside attention do not exist
  int64_t d_key = 0;                    // of a query and of a key
  int64_t d_value = 0;                  // of a cached value
  int64_t d_z = 0;                      // of a head's output before the output projection
};

struct LayerShape {
  bool moe = false;                     // has a router and routed experts; else one dense feed-forward block
  int32_t n_experts = 0, n_active = 0;  // of the router; 0 in a dense layer
  int64_t d_ff = 0;                     // of one routed expert, or of the dense block
  bool shared = false;                  // has a shared expert
  bool groups = false;                  // the router keeps only some of several groups of experts,
  int32_t n_kept = 0;                   // so many experts in all
  AttentionShape attention = {};
};

struct ModelShape {
  int64_t d_model = 0, n_vocab = 0;
  std::vector<LayerShape> layers;

  int32_t n_layers() const { return static_cast<int32_t>(layers.size()); }
  // The most experts, and the most active experts, of any layer.
  int32_t n_experts() const {
    int32_t most = 0;
    for (const LayerShape& layer : layers) most = std::max(most, layer.n_experts);
    return most;
  }
  int32_t n_active() const {
    int32_t most = 0;
    for (const LayerShape& layer : layers) most = std::max(most, layer.n_active);
    return most;
  }
  // Absolute indices of the layers with a router, ascending.
  std::vector<int32_t> moe_layers() const {
    std::vector<int32_t> found;
    for (int32_t l = 0; l < n_layers(); ++l)
      if (layers[l].moe) found.push_back(l);
    return found;
  }
};

}  // namespace signalbox::probes
