// Qwen1.5-MoE and Qwen2-MoE: biases on q, k and v, a shared expert behind a sigmoid gate.
#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

const NameRow names[] = {
    {Role::shared_gate, "model.layers.{l}.mlp.shared_expert.gate_proj.weight"},
    {Role::shared_up, "model.layers.{l}.mlp.shared_expert.up_proj.weight"},
    {Role::shared_down, "model.layers.{l}.mlp.shared_expert.down_proj.weight"},
    {Role::shared_scale, "model.layers.{l}.mlp.shared_expert_gate.weight"},
};

// Which layers have a sliding window. Without layer_types: every second layer from the first, below max_window_layers
// (Qwen2MoeConfig of transformers 5).
std::vector<bool> read_sliding(const Config& config, int64_t n_layers) {
  const bool use = config.boolean("use_sliding_window", false);
  if (auto types = read_layer_types(config, n_layers)) {
    if (!use)
      for (bool sliding : *types)
        if (sliding)
          config.root().find("layer_types")->fail("expected full_attention where use_sliding_window is false");
    return *types;
  }
  const int64_t below = config.size("max_window_layers", 0, INT32_MAX, 28);
  std::vector<bool> sliding(n_layers);
  for (int64_t l = 0; l < n_layers; ++l) sliding[l] = use && l % 2 == 0 && l < below;
  return sliding;
}

Model read(const Config& config) {
  refuse_unsupported(config, {"qkv_bias", "use_sliding_window", "sliding_window", "layer_types", "norm_topk_prob",
                              "mlp_only_layers", "decoder_sparse_step", "shared_expert_intermediate_size"});
  Model model = read_common(config, {32768, 1e-6});
  const int64_t n_layers = read_layer_count(config), max_width = int64_t{1} << 20;
  Gqa gqa = read_gqa(config, model, 16);
  gqa.qkv_bias = config.boolean("qkv_bias", true);
  Moe moe;
  moe.router = read_router_sizes(config, "num_experts");
  moe.router.renormalize = config.boolean("norm_topk_prob", false);
  moe.d_ff = config.size("moe_intermediate_size", 1, max_width, 1408);
  moe.d_ff_shared = config.size("shared_expert_intermediate_size", 0, max_width, 5632);
  moe.shared_gate = moe.d_ff_shared > 0;
  const Dense dense{config.size("intermediate_size", 1, max_width, 5632)};
  const std::vector<bool> sparse = read_sparse_layers(config, n_layers), sliding = read_sliding(config, n_layers);
  model.rope = read_rope(config, gqa.d_head, model.max_positions, {});
  for (int64_t l = 0; l < n_layers; ++l) {
    gqa.window = sliding[l] ? config.size("sliding_window", 1, INT32_MAX, 4096) : 0;
    Layer& layer = model.layers.emplace_back(Layer{gqa, dense});
    if (sparse[l]) layer.ffn = moe;
  }
  return model;
}

constexpr std::string_view example =
    R"({"architectures":["Qwen2MoeForCausalLM"],"model_type":"qwen2_moe","hidden_size":64,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":4,"intermediate_size":96,"moe_intermediate_size":32,
"shared_expert_intermediate_size":64,"num_experts":8,"num_experts_per_tok":2,"norm_topk_prob":false,
"decoder_sparse_step":1,"mlp_only_layers":[],"vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-6,
"rope_theta":1000000.0,"hidden_act":"silu","use_sliding_window":false,"tie_word_embeddings":false})";

}  // namespace

const Family qwen2_moe{"qwen2_moe", read, names, example, OneBlock::listed};

}  // namespace signalbox::loaders::families
