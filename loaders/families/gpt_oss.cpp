// gpt-oss: biases everywhere, attention sinks, sliding and full layers in turn, top-k on the logits with a softmax over
// the chosen ones, a clamped activation, experts as [in, out] or as MXFP4 blocks.
#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

const NameRow names[] = {
    {Role::sinks, "model.layers.{l}.self_attn.sinks"},
    {Role::router, "model.layers.{l}.mlp.router.weight"},
    {Role::router_bias, "model.layers.{l}.mlp.router.bias"},
    {Role::expert_gate, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::mxfp4, 2, 0, true},
    {Role::expert_up, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::mxfp4, 2, 1, true},
    {Role::expert_down, "model.layers.{l}.mlp.experts.down_proj", Layout::mxfp4},
    {Role::expert_gate, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::transposed, 2, 0, true},
    {Role::expert_up, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::transposed, 2, 1, true},
    {Role::expert_down, "model.layers.{l}.mlp.experts.down_proj", Layout::transposed},
    {Role::expert_gate_bias, "model.layers.{l}.mlp.experts.gate_up_proj_bias", Layout::stacked, 2, 0, true},
    {Role::expert_up_bias, "model.layers.{l}.mlp.experts.gate_up_proj_bias", Layout::stacked, 2, 1, true},
    {Role::expert_down_bias, "model.layers.{l}.mlp.experts.down_proj_bias", Layout::stacked},
};

constexpr const char* default_scaling =
    R"({"rope_type":"yarn","factor":32.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":false,)"
    R"("original_max_position_embeddings":4096})";

void check_quantization(const Config& config) {
  auto quantization = config.root().find("quantization_config");
  if (!quantization) return;
  auto method = quantization->find("quant_method");
  if (!method) quantization->fail("expected the key \"quant_method\", found none");
  if (method->string() != "mxfp4") method->fail_type("\"mxfp4\"");
  // What was converted shows in the stored names: blocks and scales. The list is only checked for its form.
  if (auto keep = quantization->find("modules_to_not_convert"))
    for (const json::Ref& item : keep->items()) item.string();
}

Model read(const Config& config) {
  refuse_unsupported(config, {"attention_bias", "sliding_window", "layer_types", "swiglu_limit", "swiglu_alpha",
                              "quantization_config"});
  check_quantization(config);
  Model model = read_common(config, {131072, 1e-5});
  const int64_t n_layers = read_layer_count(config);
  Gqa gqa = read_gqa(config, model, 8, 64);
  gqa.qkv_bias = gqa.o_bias = config.boolean("attention_bias", true);
  gqa.sinks = true;
  Moe moe;
  moe.router = read_router_sizes(config, "num_local_experts");
  moe.router.softmax_over_selected = true;
  moe.router.bias = true;
  moe.bias = true;
  moe.d_ff = config.size("intermediate_size", 1, int64_t{1} << 20, 2880);
  model.activation.kind = Activation::Kind::clamped;
  model.activation.alpha = config.positive("swiglu_alpha", 1.702);
  model.activation.limit = config.positive("swiglu_limit", 7);
  model.rope = read_rope(config, gqa.d_head, model.max_positions, {150000, default_scaling});
  const auto types = read_layer_types(config, n_layers);
  for (int64_t l = 0; l < n_layers; ++l) {
    const bool sliding = types ? (*types)[l] : l % 2 == 0;
    gqa.window = sliding ? config.size("sliding_window", 1, INT32_MAX, 128) : 0;
    model.layers.push_back(Layer{gqa, moe});
  }
  return model;
}

constexpr std::string_view example =
    R"({"architectures":["GptOssForCausalLM"],"model_type":"gpt_oss","hidden_size":64,"num_hidden_layers":4,
"num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,"intermediate_size":64,"num_local_experts":8,
"num_experts_per_tok":2,"vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":150000,
"rope_scaling":{"rope_type":"yarn","factor":4.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":false,
"original_max_position_embeddings":128},"sliding_window":32,"swiglu_limit":7.0,"attention_bias":true,
"hidden_act":"silu","tie_word_embeddings":false})";

}  // namespace

const Family gpt_oss{"gpt_oss", read, names, example};

}  // namespace signalbox::loaders::families
