// Qwen3-MoE: RMSNorm of every query and key head, heads of a size of their own, no shared expert.
#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

Model read(const Config& config) {
  refuse_unsupported(config, {"attention_bias", "use_sliding_window", "sliding_window", "layer_types", "norm_topk_prob",
                              "mlp_only_layers", "decoder_sparse_step", "use_qk_norm"});
  if (!config.boolean("use_qk_norm", true)) config.refuse("use_qk_norm", "true");
  Model model = read_common(config, {32768, 1e-6});
  const int64_t n_layers = read_layer_count(config), max_width = int64_t{1} << 20;
  // transformers 5 has no head_dim by default; the released models all say it.
  Gqa gqa = read_gqa(config, model, 4);
  gqa.qk_norm = Gqa::QkNorm::per_head;
  gqa.qkv_bias = gqa.o_bias = config.boolean("attention_bias", false);
  // All layers alike: transformers reads neither max_window_layers nor layer_types here.
  if (config.boolean("use_sliding_window", false)) gqa.window = config.size("sliding_window", 1, INT32_MAX, 4096);
  expect_layer_types(config, n_layers, gqa.window > 0);
  Moe moe;
  moe.router = read_router_sizes(config, "num_experts");
  moe.router.renormalize = config.boolean("norm_topk_prob", false);
  moe.d_ff = config.size("moe_intermediate_size", 1, max_width, 768);
  const Dense dense{config.size("intermediate_size", 1, max_width, 6144)};
  const std::vector<bool> sparse = read_sparse_layers(config, n_layers);
  model.rope = read_rope(config, gqa.d_head, model.max_positions, {});
  for (int64_t l = 0; l < n_layers; ++l) {
    Layer& layer = model.layers.emplace_back(Layer{gqa, dense});
    if (sparse[l]) layer.ffn = moe;
  }
  return model;
}

constexpr std::string_view example =
    R"({"architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","hidden_size":64,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,"intermediate_size":96,"moe_intermediate_size":32,
"num_experts":8,"num_experts_per_tok":2,"norm_topk_prob":true,"decoder_sparse_step":1,"mlp_only_layers":[],
"vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-6,"rope_theta":1000000.0,"hidden_act":"silu",
"use_sliding_window":false,"tie_word_embeddings":false})";

}  // namespace

const Family qwen3_moe{"qwen3_moe", read, {}, example, OneBlock::listed};

}  // namespace signalbox::loaders::families
