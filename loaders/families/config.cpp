#include "loaders/families/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/text.h"

namespace signalbox::loaders::families {

namespace {

constexpr int64_t max_layers = 1024, max_width = int64_t{1} << 20;
constexpr std::array<std::string_view, 3> expert_count_keys = {"num_experts", "num_local_experts", "n_routed_experts"};
constexpr std::array<std::string_view, 2> active_keys = {"num_experts_per_tok", "experts_per_token"};

json::Value with_size(json::Value config, std::span<const std::string_view> keys, int64_t size) {
  for (std::string_view key : keys)
    if (const json::Value* found = config.find(key); found && !found->is_null())
      config.set(std::string(key), json::Value(size));
  return config;
}

// A key that changes the computation, and the JSON values at which it does not. "0" also stands for 0.0.
struct Neutral {
  std::string_view key;
  std::initializer_list<std::string_view> values;
};

// Keys of transformers' configurations (these families' and their relatives') that no key of ours carries out.
const Neutral unsupported[] = {
    {"hidden_act", {"\"silu\"", "\"swish\""}},
    {"hidden_activation", {"\"silu\"", "\"swish\""}},
    {"activation_function", {"\"silu\"", "\"swish\""}},
    {"attention_bias", {"false"}},
    {"qkv_bias", {"false"}},
    {"mlp_bias", {"false"}},
    {"use_bias", {"false"}},
    {"lm_head_bias", {"false"}},
    {"clip_qkv", {}},
    {"use_sliding_window", {"false"}},
    {"sliding_window", {}},
    {"sliding_window_pattern", {}},
    {"attention_chunk_size", {}},
    {"layer_types", {}},
    {"swiglu_limit", {}},
    {"swiglu_alpha", {}},
    {"norm_topk_prob", {}},
    {"routed_scaling_factor", {"1"}},
    {"moe_routed_scaling_factor", {"1"}},
    {"router_scaling_factor", {"1"}},
    {"scoring_func", {"\"softmax\""}},
    {"moe_router_activation_func", {"\"softmax\""}},
    {"topk_method", {"\"greedy\""}},
    {"n_group", {"1"}},
    {"topk_group", {"1"}},
    {"router_bias", {"false"}},
    {"moe_router_enable_expert_bias", {"false"}},
    {"first_k_dense_replace", {"0"}},
    {"moe_layer_freq", {"1"}},
    {"moe_layer_start_index", {"0"}},
    {"interleave_moe_layer_step", {"1"}},
    {"expert_layer_period", {"1"}},
    {"mlp_only_layers", {"[]"}},
    {"decoder_sparse_step", {"1"}},
    {"n_shared_experts", {"0"}},
    {"num_shared_experts", {"0"}},
    {"shared_expert_intermediate_size", {"0"}},
    {"moe_shared_expert_intermediate_size", {"0"}},
    {"shared_intermediate_size", {"0"}},
    {"q_lora_rank", {"0"}},
    {"kv_lora_rank", {"0"}},
    {"use_mla", {"false"}},
    {"index_topk", {}},
    {"use_qk_norm", {"false"}},
    {"qk_layernorm", {"false"}},
    {"qk_norm", {"false"}},
    {"sandwich_norm", {"false"}},
    {"norm_type", {"\"rmsnorm\"", "\"rms_norm\""}},
    {"parallel_residual", {"false"}},
    {"use_parallel_residual", {"false"}},
    {"partial_rotary_factor", {"1"}},
    {"rotary_pct", {"1"}},
    {"rotary_percent", {"1"}},
    {"rope_interleave", {}},
    {"rope_interleaved", {}},
    {"rotary_interleaved", {}},
    {"rope_local_base_freq", {}},
    {"local_rope_theta", {}},
    {"no_rope_layers", {"[]"}},
    {"no_rope_layer_interval", {}},
    {"position_embedding_type", {"\"rope\"", "\"rotary\""}},
    {"alibi", {"false"}},
    {"use_alibi", {"false"}},
    {"attn_temperature_tuning", {"false", "0"}},
    {"attn_logit_softcapping", {}},
    {"attn_logit_softcap", {}},
    {"final_logit_softcapping", {}},
    {"final_logit_softcap", {}},
    {"logits_soft_cap", {}},
    {"query_pre_attn_scalar", {}},
    {"attention_multiplier", {}},
    {"embedding_multiplier", {"1"}},
    {"residual_multiplier", {"1"}},
    {"logits_scaling", {"1"}},
    {"logit_scale", {"1"}},
    {"scale_emb", {"1"}},
    {"scale_depth", {}},
    {"use_bidirectional_attention", {"false"}},
    {"is_causal", {"true"}},
    {"is_encoder_decoder", {"false"}},
    {"add_cross_attention", {"false"}},
    {"pruned_heads", {"{}"}},
    {"quantization_config", {}},
    {"compression_config", {}},
    {"text_config", {}},
    {"vision_config", {}},
    {"audio_config", {}},
};

bool same(const json::Value& value, const json::Value& neutral) {
  if (value.is_number() && neutral.is_number()) return value.real() == neutral.real();
  return value == neutral;
}

}  // namespace

bool Config::is_null(std::string_view key) const {
  const json::Value* found = root_.value().find(key);
  return found && found->is_null();
}

int64_t Config::size(std::string_view key, int64_t low, int64_t high) const {
  auto found = root_.find(key);
  if (!found) root_.fail("expected the key \"" + std::string(key) + "\", found none");
  return found->integer(low, high);
}

int64_t Config::size(std::string_view key, int64_t low, int64_t high, int64_t fallback) const {
  auto found = root_.find(key);
  return found ? found->integer(low, high) : fallback;
}

Config::Size Config::size_of(std::span<const std::string_view> keys, int64_t low, int64_t high) const {
  Size first;
  for (std::string_view key : keys) {
    auto found = root_.find(key);
    if (!found) continue;
    const int64_t value = found->integer(low, high);
    if (first.key.empty())
      first = {value, key};
    else if (first.value != value)
      refuse(key, std::to_string(first.value) + " as " + std::string(first.key) + " says");
  }
  if (!first.key.empty()) return first;
  root_.fail("expected the key " + in_quotes(keys.front()) + " (or " + joined(keys.subspan(1), " or ", in_quotes) +
             "), found none");
}

double Config::number(std::string_view key, double fallback) const {
  auto found = root_.find(key);
  return found ? found->number() : fallback;
}

float Config::positive(std::string_view key, double fallback) const {
  const auto value = static_cast<float>(number(key, fallback));
  if (!(value > 0) || !std::isfinite(value)) refuse(key, "a number above 0");
  return value;
}

bool Config::boolean(std::string_view key, bool fallback) const {
  auto found = root_.find(key);
  return found ? found->boolean() : fallback;
}

std::string Config::string(std::string_view key, std::string_view fallback) const {
  auto found = root_.find(key);
  return found ? found->string() : std::string(fallback);
}

void Config::refuse(std::string_view key, const std::string& expected) const {
  if (auto found = root_.find(key)) found->fail_type(expected);
  root_.fail(std::string(key) + ": expected " + expected + ", found none");
}

void refuse_unsupported(const Config& config, std::initializer_list<std::string_view> honoured) {
  for (const Neutral& row : unsupported) {
    if (std::find(honoured.begin(), honoured.end(), row.key) != honoured.end()) continue;
    auto found = config.root().find(row.key);
    if (!found) continue;
    if (row.key == "sliding_window" && config.has("use_sliding_window")) continue;  // that key has been looked at
    bool neutral = false;
    for (std::string_view text : row.values) neutral = neutral || same(found->value(), json::parse(text, "neutral"));
    if (neutral) continue;
    const std::string key(row.key);
    if (row.key == "quantization_config") {
      auto method = found->find("quant_method");
      found->fail("expected none for this model_type, found quant_method " +
                  (method ? json::dump(method->value()) : std::string("unknown")));
    }
    found->fail_type(row.values.size() == 0
                         ? "none: the engine does not support it for this model_type"
                         : joined(row.values, " or ") + ": the engine supports no other for this model_type");
  }
}

Model read_common(const Config& config, const Defaults& defaults) {
  Model model;
  model.source = config.root().where();
  model.d_model = config.size("hidden_size", 1, max_width);
  model.n_vocab = config.size("vocab_size", 1, int64_t{1} << 24);
  model.max_positions = config.size("max_position_embeddings", 1, int64_t{1} << 24, defaults.max_positions);
  model.norm_eps = config.positive("rms_norm_eps", defaults.norm_eps);
  model.tied_embeddings = config.boolean("tie_word_embeddings", false);
  return model;
}

int64_t read_layer_count(const Config& config) { return config.size("num_hidden_layers", 1, max_layers); }

Gqa read_gqa(const Config& config, const Model& model, int64_t n_kv_heads, int64_t d_head) {
  Gqa gqa;
  gqa.n_heads = config.size("num_attention_heads", 1, 4096);
  gqa.n_kv_heads = config.size("num_key_value_heads", 1, 4096,
                               config.is_null("num_key_value_heads") || n_kv_heads == 0 ? gqa.n_heads : n_kv_heads);
  if (gqa.n_heads % gqa.n_kv_heads != 0)
    config.root().fail("num_key_value_heads: expected a divisor of num_attention_heads (" +
                       std::to_string(gqa.n_heads) + "), found " + std::to_string(gqa.n_kv_heads));
  if (config.has("head_dim")) {
    gqa.d_head = config.size("head_dim", 2, 4096);
  } else if (d_head > 0 && !config.is_null("head_dim")) {
    gqa.d_head = d_head;
  } else {
    if (model.d_model % gqa.n_heads != 0)
      config.refuse("hidden_size", "a multiple of num_attention_heads (" + std::to_string(gqa.n_heads) + ")");
    gqa.d_head = model.d_model / gqa.n_heads;
  }
  if (gqa.d_head % 2 != 0) config.root().fail("head_dim: expected an even number, found " + std::to_string(gqa.d_head));
  gqa.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(gqa.d_head)));
  return gqa;
}

std::optional<std::vector<bool>> read_layer_types(const Config& config, int64_t n_layers) {
  auto types = config.root().find("layer_types");
  if (!types) return std::nullopt;
  if (static_cast<int64_t>(types->length()) != n_layers)
    types->fail("expected " + std::to_string(n_layers) + " items (num_hidden_layers), found " +
                std::to_string(types->length()));
  std::vector<bool> sliding;
  for (const json::Ref& type : types->items()) {
    const std::string& name = type.string();
    if (name != "full_attention" && name != "attention" && name != "sliding_attention")
      type.fail_type("\"full_attention\" or \"sliding_attention\"");
    sliding.push_back(name == "sliding_attention");
  }
  return sliding;
}

void expect_layer_types(const Config& config, int64_t n_layers, bool sliding) {
  auto types = read_layer_types(config, n_layers);
  if (types && std::find(types->begin(), types->end(), !sliding) != types->end())
    config.root()
        .find("layer_types")
        ->fail(std::string("expected ") + (sliding ? "sliding" : "full") + "_attention for every layer, found another");
}

std::vector<bool> read_sparse_layers(const Config& config, int64_t n_layers) {
  const int64_t step = config.size("decoder_sparse_step", 1, max_layers, 1);
  std::vector<bool> sparse;
  for (int64_t l = 0; l < n_layers; ++l) sparse.push_back((l + 1) % step == 0);
  if (auto dense = config.root().find("mlp_only_layers"))
    for (const json::Ref& item : dense->items())
      if (int64_t l = item.integer(0, INT32_MAX); l < n_layers) sparse[l] = false;
  return sparse;
}

Router read_router_sizes(const Config& config, std::string_view experts_key) {
  std::vector<std::string_view> experts_keys = {experts_key};
  for (std::string_view key : expert_count_keys)
    if (key != experts_key) experts_keys.push_back(key);
  Router router;
  const Config::Size experts = config.size_of(experts_keys, 1, 4096), active = config.size_of(active_keys, 1, 4096);
  if (active.value > experts.value)
    config.refuse(active.key, "at most " + std::to_string(experts.value) + " (" + std::string(experts.key) + ")");
  router.n_experts = static_cast<int32_t>(experts.value);
  router.n_active = static_cast<int32_t>(active.value);
  return router;
}

json::Value with_expert_count(json::Value config, int64_t n_experts) {
  return with_size(std::move(config), expert_count_keys, n_experts);
}

json::Value with_active_count(json::Value config, int64_t n_active) {
  return with_size(std::move(config), active_keys, n_active);
}

}  // namespace signalbox::loaders::families
