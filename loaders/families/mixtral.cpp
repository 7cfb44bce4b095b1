// Mixtral: grouped-query attention, every layer with experts, softmax over all of them, the chosen ones renormalised.
#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

const NameRow names[] = {
    {Role::router, "model.layers.{l}.block_sparse_moe.gate.weight"},
    {Role::expert_gate, "model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight"},
    {Role::expert_up, "model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight"},
    {Role::expert_down, "model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight"},
    // As transformers 5 saves it.
    {Role::router, "model.layers.{l}.mlp.gate.weight"},
    {Role::expert_gate, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::stacked, 2, 0},
    {Role::expert_up, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::stacked, 2, 1},
    {Role::expert_down, "model.layers.{l}.mlp.experts.down_proj", Layout::stacked},
};

Model read(const Config& config) {
  refuse_unsupported(config, {"sliding_window", "layer_types", "norm_topk_prob"});
  if (!config.boolean("norm_topk_prob", true)) config.refuse("norm_topk_prob", "true");
  Model model = read_common(config, {4096 * 32, 1e-5});
  const int64_t n_layers = read_layer_count(config);
  Gqa gqa = read_gqa(config, model, 8);
  if (config.boolean("use_sliding_window", true)) gqa.window = config.size("sliding_window", 1, INT32_MAX, 0);
  expect_layer_types(config, n_layers, gqa.window > 0);
  Moe moe;
  moe.router = read_router_sizes(config, "num_local_experts");
  moe.router.renormalize = true;
  moe.d_ff = config.size("intermediate_size", 1, int64_t{1} << 20, 14336);
  model.rope = read_rope(config, gqa.d_head, model.max_positions, {1e6});
  model.layers.assign(n_layers, Layer{gqa, moe});
  return model;
}

constexpr std::string_view example =
    R"({"architectures":["MixtralForCausalLM"],"model_type":"mixtral","hidden_size":64,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":64,"num_local_experts":8,"num_experts_per_tok":2,
"vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":1000000.0,"hidden_act":"silu",
"tie_word_embeddings":false})";

}  // namespace

const Family mixtral{"mixtral", read, names, example};

}  // namespace signalbox::loaders::families
