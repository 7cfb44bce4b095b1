// Dense models of Llama layout, and mixtures of experts carved from them, as a family of released models can hold them
// exactly: attention biases of zero, a shared expert whose gate is a constant half.
#pragma once
#include <cstdint>
#include <optional>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::loaders::families {

struct DenseShape {
  int64_t n_layers = 0, d_model = 0, d_ff = 0, n_vocab = 0, max_positions = 0;
  int64_t n_heads = 0, n_kv_heads = 0, d_head = 0;
  double rope_theta = 10000, norm_eps = 1e-6;
  std::optional<double> rope_factor;  // linear scaling of positions
  bool tied_embeddings = false;
  std::optional<int64_t> bos, eos, pad;  // ids
};

// Of the feed-forward block: widths in neurons.
struct CarvedShape {
  int64_t n_experts = 0, n_active = 0, d_expert = 0;  // routed
  int64_t d_shared = 0;                               // 0: none
};

// config.json of the dense model, and of one whose every layer has a router (softmax over all experts, the weights of
// the active ones not renormalised). Both are read by read_config() and by transformers; `dtype` is torch's name for
// what the tensors are stored as.
json::Value dense_config(const DenseShape& shape, const char* dtype);
json::Value carved_config(const DenseShape& shape, const CarvedShape& carved, const char* dtype);

}  // namespace signalbox::loaders::families
