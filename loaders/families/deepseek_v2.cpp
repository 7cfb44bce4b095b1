// DeepSeek-V2 and V2-Lite: multi-head latent attention, dense layers first, routed and ungated shared experts.
#include <cmath>

#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

const NameRow names[] = {
    {Role::q_a, "model.layers.{l}.self_attn.q_a_proj.weight"},
    {Role::q_a_bias, "model.layers.{l}.self_attn.q_a_proj.bias"},
    {Role::q_a_norm, "model.layers.{l}.self_attn.q_a_layernorm.weight"},
    {Role::q_b, "model.layers.{l}.self_attn.q_b_proj.weight"},
    {Role::kv_a, "model.layers.{l}.self_attn.kv_a_proj_with_mqa.weight"},
    {Role::kv_a_bias, "model.layers.{l}.self_attn.kv_a_proj_with_mqa.bias"},
    {Role::kv_a_norm, "model.layers.{l}.self_attn.kv_a_layernorm.weight"},
    {Role::kv_b, "model.layers.{l}.self_attn.kv_b_proj.weight"},
    {Role::shared_gate, "model.layers.{l}.mlp.shared_experts.gate_proj.weight"},
    {Role::shared_up, "model.layers.{l}.mlp.shared_experts.up_proj.weight"},
    {Role::shared_down, "model.layers.{l}.mlp.shared_experts.down_proj.weight"},
};

Router read_router(const Config& config) {
  Router router = read_router_sizes(config, "n_routed_experts");
  const std::string method = config.string("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    router.n_groups = static_cast<int32_t>(config.size("n_group", 1, router.n_experts));
    router.n_groups_kept = static_cast<int32_t>(config.size("topk_group", 1, router.n_groups));
    if (router.n_experts % router.n_groups != 0)
      config.refuse("n_group", "a divisor of " + std::to_string(router.n_experts) + " experts");
  } else if (method != "greedy") {
    config.refuse("topk_method", "\"greedy\" or \"group_limited_greedy\"");
  }
  router.scale = config.positive("routed_scaling_factor", 1);
  // DeepSeek's own code renormalises only several experts, and its releases differ on whether it then scales, too.
  const bool renormalize = config.boolean("norm_topk_prob", false);
  if (renormalize && router.scale != 1)
    config.refuse("norm_topk_prob", "false with a routed_scaling_factor of " + std::to_string(router.scale));
  router.renormalize = renormalize && router.n_active > 1;
  router.renormalize_epsilon = router.renormalize ? 1e-20f : 0;
  return router;
}

Mla read_attention(const Config& config) {
  Mla mla;
  mla.n_heads = config.size("num_attention_heads", 1, 4096);
  if (config.size("num_key_value_heads", 1, 4096, mla.n_heads) != mla.n_heads)
    config.refuse("num_key_value_heads", std::to_string(mla.n_heads) + " (num_attention_heads)");
  mla.q_rank = config.size("q_lora_rank", 1, int64_t{1} << 20, 0);  // null: one full matrix
  mla.d_latent = config.size("kv_lora_rank", 1, int64_t{1} << 20, 512);
  mla.d_nope = config.size("qk_nope_head_dim", 1, 4096, 128);
  mla.d_rope = config.size("qk_rope_head_dim", 2, 4096, 64);
  mla.d_value = config.size("v_head_dim", 1, 4096, 128);
  if (mla.d_rope % 2 != 0) config.refuse("qk_rope_head_dim", "an even number");
  mla.bias = config.boolean("attention_bias", false);
  mla.latent_eps = 1e-6f;  // the class default of the norm, whatever rms_norm_eps says
  return mla;
}

Model read(const Config& config) {
  refuse_unsupported(
      config, {"attention_bias", "norm_topk_prob", "routed_scaling_factor", "topk_method", "n_group", "topk_group",
               "first_k_dense_replace", "n_shared_experts", "q_lora_rank", "kv_lora_rank", "use_mla", "layer_types"});
  if (!config.boolean("use_mla", true)) config.refuse("use_mla", "true");
  Model model = read_common(config, {2048, 1e-6});
  const int64_t n_layers = read_layer_count(config), max_width = int64_t{1} << 20;
  expect_layer_types(config, n_layers, false);
  Mla mla = read_attention(config);
  double softmax_factor = 1;
  model.rope = read_rope(config, mla.d_rope, model.max_positions, {}, &softmax_factor);
  model.rope.adjacent = true;
  mla.scale = static_cast<float>(softmax_factor / std::sqrt(static_cast<double>(mla.d_nope + mla.d_rope)));
  Moe moe;
  moe.router = read_router(config);
  moe.d_ff = config.size("moe_intermediate_size", 1, max_width, 1407);
  // Absent: the class default. Null: DeepSeek's code builds no shared expert.
  const int64_t n_shared = config.size("n_shared_experts", 0, 1024, config.is_null("n_shared_experts") ? 0 : 2);
  moe.d_ff_shared = n_shared * moe.d_ff;
  const Dense dense{config.size("intermediate_size", 1, max_width, 11008)};
  const int64_t first = config.size("first_k_dense_replace", 0, INT32_MAX, 0);
  for (int64_t l = 0; l < n_layers; ++l) {
    Layer& layer = model.layers.emplace_back(Layer{mla, dense});
    if (l >= first) layer.ffn = moe;
  }
  return model;
}

constexpr std::string_view example =
    R"({"architectures":["DeepseekV2ForCausalLM"],"model_type":"deepseek_v2","hidden_size":64,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":4,"q_lora_rank":null,"kv_lora_rank":32,"qk_nope_head_dim":16,
"qk_rope_head_dim":16,"v_head_dim":16,"intermediate_size":128,"moe_intermediate_size":32,"n_routed_experts":16,
"n_shared_experts":2,"num_experts_per_tok":4,"first_k_dense_replace":1,"moe_layer_freq":1,"scoring_func":"softmax",
"topk_method":"greedy","n_group":1,"topk_group":1,"norm_topk_prob":false,"routed_scaling_factor":1.0,
"vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-6,"rope_theta":10000,"hidden_act":"silu",
"tie_word_embeddings":false})";

}  // namespace

const Family deepseek_v2{"deepseek_v2", read, names, example, OneBlock::counted};

}  // namespace signalbox::loaders::families
