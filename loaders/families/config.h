// config.json as families read it: typed values by key, null as absent, and the keys that no family may ignore.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/model.h"

namespace signalbox::loaders::families {

// Keys of config.json, checked. Every accessor throws an Error that names the file and the key.
class Config {
 public:
  Config(const json::Value& root, std::string where) : root_(root, std::move(where)) { root_.expect_object(); }

  const json::Ref& root() const { return root_; }
  bool has(std::string_view key) const { return root_.find(key).has_value(); }  // present and not null
  bool is_null(std::string_view key) const;                                     // present as null
  // A size of at least `low`. Without a fallback the key must be there.
  int64_t size(std::string_view key, int64_t low, int64_t high) const;
  int64_t size(std::string_view key, int64_t low, int64_t high, int64_t fallback) const;
  // The same for a size that goes by several names, the family's own first: those that are present must agree, and
  // where none is, the Error names all of them. `key` is the first that is present.
  struct Size {
    int64_t value = 0;
    std::string_view key;
  };
  Size size_of(std::span<const std::string_view> keys, int64_t low, int64_t high) const;
  double number(std::string_view key, double fallback) const;
  float positive(std::string_view key, double fallback) const;  // finite, above 0 as a float
  bool boolean(std::string_view key, bool fallback) const;
  std::string string(std::string_view key, std::string_view fallback) const;
  // Error "key: expected ..., found <the value>"
  [[noreturn]] void refuse(std::string_view key, const std::string& expected) const;

 private:
  json::Ref root_;
};

// Refuses every key that would change the computation in a way that the engine does not do, at any value but its
// neutral ones. `honoured` are the keys of that list which the family itself reads.
void refuse_unsupported(const Config& config, std::initializer_list<std::string_view> honoured);

// What the configs of all families share: sizes, eps and tied embeddings. The layers are left to the family.
struct Defaults {
  int64_t max_positions = 4096;
  double norm_eps = 1e-6;
};
Model read_common(const Config& config, const Defaults& defaults);
int64_t read_layer_count(const Config& config);

// Attention of the Llama kind. d_head comes from head_dim, or from hidden_size / num_attention_heads; without
// num_key_value_heads there are `n_kv_heads` (0: as many as heads), as where it is null.
Gqa read_gqa(const Config& config, const Model& model, int64_t n_kv_heads, int64_t d_head = 0);

// `layer_types`: true = sliding. Nothing if the key is absent. Other kinds of layers are refused.
std::optional<std::vector<bool>> read_layer_types(const Config& config, int64_t n_layers);

// For families that have one kind of attention: refuses `layer_types` that name the other.
void expect_layer_types(const Config& config, int64_t n_layers, bool sliding);

// Layers with experts by `mlp_only_layers` and `decoder_sparse_step`: true = experts.
std::vector<bool> read_sparse_layers(const Config& config, int64_t n_layers);

// n_experts and n_active. `experts_key` is what this family calls the number of experts; the names that other families
// give it are read too, for not every file says it as its family does.
Router read_router_sizes(const Config& config, std::string_view experts_key);

// config.json with another number of experts, under every name for it that it has.
json::Value with_expert_count(json::Value config, int64_t n_experts);

// The same for the experts of a token.
json::Value with_active_count(json::Value config, int64_t n_active);

// The rotary embedding of `n_dims` dimensions, from rope_theta and rope_scaling (hub files) or rope_parameters (files
// saved by transformers 5). Kinds: default, linear, yarn, llama3, computed as in transformers' modeling_rope_utils;
// others are refused. `softmax_factor`, if given, receives what YaRN multiplies the attention scale with: the square of
// 0.1 * mscale_all_dim * ln(factor) + 1.
struct RopeDefaults {
  double theta = 10000;
  const char* scaling = nullptr;  // JSON of rope_scaling where neither key is present
};
Rope read_rope(const Config& config, int64_t n_dims, int64_t max_positions, const RopeDefaults& defaults,
               double* softmax_factor = nullptr);

}  // namespace signalbox::loaders::families
