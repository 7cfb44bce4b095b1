// OLMoE: RMSNorm over the whole query and key projections, an optional clamp of q, k and v, softmax over all experts
// without renormalisation.
#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

Model read(const Config& config) {
  refuse_unsupported(config, {"clip_qkv", "attention_bias", "norm_topk_prob", "layer_types", "use_qk_norm"});
  if (!config.boolean("use_qk_norm", true)) config.refuse("use_qk_norm", "true");
  Model model = read_common(config, {4096, 1e-5});
  const int64_t n_layers = read_layer_count(config);
  expect_layer_types(config, n_layers, false);
  Gqa gqa = read_gqa(config, model, 0);
  if (gqa.d_head * gqa.n_heads != model.d_model)
    config.refuse("head_dim", "hidden_size / num_attention_heads, which the norms of q and k have");
  gqa.qk_norm = Gqa::QkNorm::whole;
  if (config.has("clip_qkv")) gqa.clip = config.positive("clip_qkv", 0);
  gqa.qkv_bias = gqa.o_bias = config.boolean("attention_bias", false);
  Moe moe;
  moe.router = read_router_sizes(config, "num_experts");
  moe.router.renormalize = config.boolean("norm_topk_prob", false);
  moe.d_ff = config.size("intermediate_size", 1, int64_t{1} << 20, 2048);
  model.rope = read_rope(config, gqa.d_head, model.max_positions, {});
  model.layers.assign(n_layers, Layer{gqa, moe});
  return model;
}

constexpr std::string_view example =
    R"({"architectures":["OlmoeForCausalLM"],"model_type":"olmoe","hidden_size":64,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":4,"intermediate_size":32,"num_experts":16,"num_experts_per_tok":4,
"norm_topk_prob":false,"vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":10000.0,
"hidden_act":"silu","tie_word_embeddings":false})";

}  // namespace

const Family olmoe{"olmoe", read, {}, example};

}  // namespace signalbox::loaders::families
