// The weights of a model: a mirror of Model whose tensors are views into memory that `owners` keeps alive.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "kernels/experts.h"

namespace signalbox::engine {

// What a tensor is for. The layer and the expert complete its identity.
enum class Role : uint8_t {
  embed,
  final_norm,
  lm_head,
  attn_norm,
  ffn_norm,
  q,
  k,
  v,
  o,
  q_bias,
  k_bias,
  v_bias,
  o_bias,
  q_norm,
  k_norm,
  sinks,
  q_a,
  q_a_bias,
  q_a_norm,
  q_b,
  kv_a,
  kv_a_bias,
  kv_a_norm,
  kv_b,
  dense_gate,
  dense_up,
  dense_down,
  router,
  router_bias,
  selection_bias,
  expert_gate,
  expert_up,
  expert_down,
  expert_gate_bias,
  expert_up_bias,
  expert_down_bias,
  shared_gate,
  shared_up,
  shared_down,
  shared_scale,
};

struct TensorId {
  Role role = Role::embed;
  int32_t layer = -1;   // -1: not of a layer
  int32_t expert = -1;  // -1: not of an expert
};

struct GqaWeights {
  Matrix q, k, v, o;  // [n_heads * d_head, d_model], ..., o [d_model, n_heads * d_head]
  Vector q_bias, k_bias, v_bias, o_bias;
  Vector q_norm, k_norm;  // [d_head] (per head) or [n_heads * d_head], [n_kv_heads * d_head] (whole)
  Vector sinks;           // [n_heads]
};

struct MlaWeights {
  Matrix q_a, q_b;             // q_rank > 0: [q_rank, d_model], [n_heads * (d_nope + d_rope), q_rank]
  Matrix q;                    // q_rank = 0: [n_heads * (d_nope + d_rope), d_model]
  Matrix kv_a;                 // [d_latent + d_rope, d_model]
  Matrix kv_b;                 // [n_heads * (d_nope + d_value), d_latent]
  Matrix o;                    // [d_model, n_heads * d_value]
  Vector q_a_norm, kv_a_norm;  // [q_rank], [d_latent]
  Vector q_a_bias, kv_a_bias, o_bias;
};

struct DenseWeights {
  Matrix gate, up, down;  // [d_ff, d_model] twice, [d_model, d_ff]
};

struct MoeWeights {
  Matrix router;                       // [n_experts, d_model]
  Vector router_bias, selection_bias;  // [n_experts]
  std::vector<Matrix> gate, up, down;  // one an expert
  std::vector<Vector> gate_bias, up_bias, down_bias;
  Matrix shared_gate, shared_up, shared_down;   // [d_ff_shared, d_model] twice, [d_model, d_ff_shared]
  Matrix shared_scale;                          // [1, d_model]
  std::shared_ptr<const PackedExperts> packed;  // on a device that wants its own layout; the matrices then have no data
  ExpertMatrices experts() const { return {gate, up, down, gate_bias, up_bias, down_bias, packed.get()}; }
};

struct LayerWeights {
  Vector attn_norm, ffn_norm;  // [d_model]
  std::variant<GqaWeights, MlaWeights> attention;
  std::variant<DenseWeights, MoeWeights> ffn;
};

struct Weights {
  Matrix embed;       // [n_vocab, d_model]
  Vector final_norm;  // [d_model]
  Matrix lm_head;     // [n_vocab, d_model]; the same view as embed when tied
  std::vector<LayerWeights> layers;
  std::vector<std::shared_ptr<const void>> owners;  // mapped files, converted copies, memory of a device
};

// A tensor that a model must have: its identity, its shape, and where its view lives (exactly one of the two).
struct TensorPlace {
  TensorId id;
  int64_t rows = 0, cols = 0;  // a vector has rows = 1
  Matrix* matrix = nullptr;
  Vector* vector = nullptr;
};

// Shapes `weights` after `model` (variants and expert lists) and calls `visit` once for every tensor, in a fixed order:
// embed, layers ascending (attention, then feed-forward, experts ascending), final_norm, lm_head (not when tied).
// Drives loading, upload, sizing, hashing, tests and the making of synthetic models.
void for_each_tensor(const Model& model, Weights& weights, const std::function<void(const TensorPlace&)>& visit);

// Parameters in total, and those that one token uses (n_active experts a layer; embeddings count one row).
struct ParameterCount {
  int64_t total = 0, active = 0;
};
ParameterCount count_parameters(const Model& model);

}  // namespace signalbox::engine
