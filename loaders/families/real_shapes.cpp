#include "loaders/families/real_shapes.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "base/near_names.h"
#include "base/text.h"
#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

const RealShape shapes[] = {
    {"DeepSeek-V2-Lite", R"({"model_type":"deepseek_v2","hidden_size":2048,"num_hidden_layers":27,
"num_attention_heads":16,"num_key_value_heads":16,"q_lora_rank":null,"kv_lora_rank":512,"qk_nope_head_dim":128,
"qk_rope_head_dim":64,"v_head_dim":128,"intermediate_size":10944,"moe_intermediate_size":1408,"n_routed_experts":64,
"n_shared_experts":2,"num_experts_per_tok":6,"first_k_dense_replace":1,"topk_method":"greedy","norm_topk_prob":false,
"routed_scaling_factor":1.0,"rms_norm_eps":1e-6,"rope_theta":10000,"max_position_embeddings":163840,
"rope_scaling":{"type":"yarn","factor":40,"beta_fast":32,"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707,
"original_max_position_embeddings":4096},"vocab_size":102400,"bos_token_id":100000,"eos_token_id":100001})"},
    {"DeepSeek-V2", R"({"model_type":"deepseek_v2","hidden_size":5120,"num_hidden_layers":60,
"num_attention_heads":128,"num_key_value_heads":128,"q_lora_rank":1536,"kv_lora_rank":512,"qk_nope_head_dim":128,
"qk_rope_head_dim":64,"v_head_dim":128,"intermediate_size":12288,"moe_intermediate_size":1536,"n_routed_experts":160,
"n_shared_experts":2,"num_experts_per_tok":6,"first_k_dense_replace":1,"topk_method":"group_limited_greedy",
"n_group":8,"topk_group":3,"norm_topk_prob":false,"routed_scaling_factor":16.0,"rms_norm_eps":1e-6,
"rope_theta":10000,"max_position_embeddings":163840,"rope_scaling":{"type":"yarn","factor":40,"beta_fast":32,
"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707,"original_max_position_embeddings":4096},"vocab_size":102400})"},
    {"Mixtral-8x7B", R"({"model_type":"mixtral","hidden_size":4096,"num_hidden_layers":32,"num_attention_heads":32,
"num_key_value_heads":8,"intermediate_size":14336,"num_local_experts":8,"num_experts_per_tok":2,"vocab_size":32000,
"rms_norm_eps":1e-5,"rope_theta":1000000.0,"max_position_embeddings":32768})"},
    {"Mixtral-8x22B", R"({"model_type":"mixtral","hidden_size":6144,"num_hidden_layers":56,"num_attention_heads":48,
"num_key_value_heads":8,"intermediate_size":16384,"num_local_experts":8,"num_experts_per_tok":2,"vocab_size":32000,
"rms_norm_eps":1e-5,"rope_theta":1000000.0,"max_position_embeddings":65536})"},
    {"OLMoE-1B-7B", R"({"model_type":"olmoe","hidden_size":2048,"num_hidden_layers":16,"num_attention_heads":16,
"num_key_value_heads":16,"intermediate_size":1024,"num_experts":64,"num_experts_per_tok":8,"norm_topk_prob":false,
"vocab_size":50304,"rope_theta":10000.0,"max_position_embeddings":4096})"},
    {"Qwen1.5-MoE-A2.7B", R"({"model_type":"qwen2_moe","hidden_size":2048,"num_hidden_layers":24,
"num_attention_heads":16,"num_key_value_heads":16,"intermediate_size":5632,"moe_intermediate_size":1408,
"shared_expert_intermediate_size":5632,"num_experts":60,"num_experts_per_tok":4,"norm_topk_prob":false,
"vocab_size":151936,"rms_norm_eps":1e-6,"rope_theta":1000000.0,"max_position_embeddings":8192})"},
    {"Qwen2-57B-A14B", R"({"model_type":"qwen2_moe","hidden_size":3584,"num_hidden_layers":28,
"num_attention_heads":28,"num_key_value_heads":4,"intermediate_size":18944,"moe_intermediate_size":2560,
"shared_expert_intermediate_size":20480,"num_experts":64,"num_experts_per_tok":8,"norm_topk_prob":false,
"vocab_size":151936,"rms_norm_eps":1e-6,"rope_theta":1000000.0,"max_position_embeddings":32768})"},
    {"Qwen3-30B-A3B", R"({"model_type":"qwen3_moe","hidden_size":2048,"num_hidden_layers":48,"num_attention_heads":32,
"num_key_value_heads":4,"head_dim":128,"intermediate_size":6144,"moe_intermediate_size":768,"num_experts":128,
"num_experts_per_tok":8,"norm_topk_prob":true,"vocab_size":151936,"rms_norm_eps":1e-6,"rope_theta":1000000.0,
"max_position_embeddings":40960})"},
    {"Qwen3-235B-A22B", R"({"model_type":"qwen3_moe","hidden_size":4096,"num_hidden_layers":94,
"num_attention_heads":64,"num_key_value_heads":4,"head_dim":128,"intermediate_size":12288,
"moe_intermediate_size":1536,"num_experts":128,"num_experts_per_tok":8,"norm_topk_prob":true,"vocab_size":151936,
"rms_norm_eps":1e-6,"rope_theta":1000000.0,"max_position_embeddings":40960})"},
    {"gpt-oss-20b", R"({"model_type":"gpt_oss","hidden_size":2880,"num_hidden_layers":24,"num_attention_heads":64,
"num_key_value_heads":8,"head_dim":64,"intermediate_size":2880,"num_local_experts":32,"num_experts_per_tok":4,
"vocab_size":201088,"rms_norm_eps":1e-5,"rope_theta":150000,"rope_scaling":{"rope_type":"yarn","factor":32.0,
"beta_fast":32.0,"beta_slow":1.0,"truncate":false,"original_max_position_embeddings":4096},"sliding_window":128,
"swiglu_limit":7.0,"max_position_embeddings":131072})"},
    {"gpt-oss-120b", R"({"model_type":"gpt_oss","hidden_size":2880,"num_hidden_layers":36,"num_attention_heads":64,
"num_key_value_heads":8,"head_dim":64,"intermediate_size":2880,"num_local_experts":128,"num_experts_per_tok":4,
"vocab_size":201088,"rms_norm_eps":1e-5,"rope_theta":150000,"rope_scaling":{"rope_type":"yarn","factor":32.0,
"beta_fast":32.0,"beta_slow":1.0,"truncate":false,"original_max_position_embeddings":4096},"sliding_window":128,
"swiglu_limit":7.0,"max_position_embeddings":131072})"},
};

}  // namespace

std::span<const RealShape> real_shapes() { return shapes; }

const RealShape* find_real_shape(std::string_view name) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  for (const RealShape& shape : shapes)
    if (std::equal(shape.name.begin(), shape.name.end(), name.begin(), name.end(), same)) return &shape;
  return nullptr;
}

Model real_shape_model(std::string_view name) {
  const RealShape* shape = find_real_shape(name);
  if (!shape) throw Error("shape", wrong_name("a known shape", name, names_of(shapes, &RealShape::name)));
  const std::string where(shape->name);
  return read_config(json::parse(shape->config, where), where).model;
}

}  // namespace signalbox::loaders::families
