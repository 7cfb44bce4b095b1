// What a model *is*: numbers only, no weights, no device, no family name.
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/namespaces.h"
#include "kernels/params.h"
#include "probes/shape.h"

namespace signalbox::engine {

// Rotary position embedding. angle(p, i) = p * inv_freq[i]; cos and sin are multiplied by `magnitude`.
struct Rope {
  std::vector<float> inv_freq;  // [n_dims / 2]
  float magnitude = 1;
  bool adjacent = false;  // pairs (2i, 2i+1), else (i, i + n_dims / 2)
  int64_t n_dims() const { return static_cast<int64_t>(inv_freq.size()) * 2; }
};

// Grouped-query attention (multi-head attention when n_kv_heads == n_heads).
struct Gqa {
  enum class QkNorm : uint8_t { none, per_head, whole };  // RMSNorm of q and k before RoPE
  int64_t n_heads = 0, n_kv_heads = 0, d_head = 0;
  QkNorm qk_norm = QkNorm::none;
  float clip = 0;  // > 0: q, k and v are clamped to [-clip, clip] after the norms
  bool qkv_bias = false, o_bias = false;
  bool sinks = false;
  int64_t window = 0;  // > 0: sliding window of that many keys
  float scale = 1;     // of the attention logits
};

// Multi-head latent attention: keys and values are rebuilt from one latent a token.
struct Mla {
  int64_t n_heads = 0;
  int64_t q_rank = 0;  // rank of the query projection, 0 = one full matrix
  int64_t d_latent = 0, d_nope = 0, d_rope = 0, d_value = 0;
  bool bias = false;         // biases on q_a, kv_a and o
  float latent_eps = 1e-6f;  // eps of the norms of the latents
  float scale = 1;
};

struct Dense {
  int64_t d_ff = 0;
};

struct Moe {
  Router router;
  int64_t d_ff = 0;          // of one routed expert
  int64_t d_ff_shared = 0;   // of the shared expert, 0 = none
  bool shared_gate = false;  // the shared expert's output is scaled by sigmoid(shared_gate . x)
  bool bias = false;         // biases on gate, up and down of the routed experts
};

struct Layer {
  std::variant<Gqa, Mla> attention;
  std::variant<Dense, Moe> ffn;
  const Moe* moe() const { return std::get_if<Moe>(&ffn); }
};

struct Model {
  std::string source;  // where the config came from, for error messages
  int64_t d_model = 0, n_vocab = 0, max_positions = 0;
  float norm_eps = 1e-6f;
  bool tied_embeddings = false;
  Activation activation;
  Rope rope;
  std::vector<Layer> layers;

  int64_t n_layers() const { return static_cast<int64_t>(layers.size()); }
  // Absolute indices of the layers that have a router, ascending.
  std::vector<int32_t> moe_layers() const;
  // The most experts, and the most active experts, of any layer.
  int32_t n_experts() const;
  int32_t n_active() const;
  // Floats of keys and values that one position of one layer takes in the cache: {key row, value row}.
  static std::pair<int64_t, int64_t> kv_width(const Layer& layer);
};

// What probes and edits need to know of the model.
ModelShape probe_shape(const Model& model);

// Refuses what the engine cannot run, naming key and value: sizes of zero, heads that do not divide, more active
// experts than experts, groups that do not divide, and more than the engine's limits. Throws Error.
void validate(const Model& model);

}  // namespace signalbox::engine
