#include "loaders/families/upcycled.h"

namespace signalbox::loaders::families {

namespace {

json::Value common_config(const DenseShape& shape, const char* dtype) {
  json::Value config = json::Value::object();
  config.set("architectures", json::Value::array().push_back("Qwen2MoeForCausalLM")).set("model_type", "qwen2_moe");
  config.set("hidden_size", shape.d_model).set("num_hidden_layers", shape.n_layers);
  config.set("num_attention_heads", shape.n_heads).set("num_key_value_heads", shape.n_kv_heads);
  if (shape.d_head * shape.n_heads != shape.d_model) config.set("head_dim", shape.d_head);
  config.set("intermediate_size", shape.d_ff).set("vocab_size", shape.n_vocab);
  config.set("max_position_embeddings", shape.max_positions).set("rms_norm_eps", shape.norm_eps);
  config.set("rope_theta", shape.rope_theta);
  if (shape.rope_factor)
    config.set("rope_scaling", json::Value::object().set("rope_type", "linear").set("factor", *shape.rope_factor));
  config.set("hidden_act", "silu").set("qkv_bias", true).set("use_sliding_window", false);
  config.set("attention_dropout", 0.0).set("tie_word_embeddings", shape.tied_embeddings);
  config.set("norm_topk_prob", false).set("decoder_sparse_step", 1).set("dtype", dtype);
  for (const auto& [key, id] :
       {std::pair("bos_token_id", shape.bos), {"eos_token_id", shape.eos}, {"pad_token_id", shape.pad}})
    if (id) config.set(key, *id);
  return config;
}

}  // namespace

json::Value dense_config(const DenseShape& shape, const char* dtype) {
  json::Value config = common_config(shape, dtype), dense = json::Value::array();
  for (int64_t l = 0; l < shape.n_layers; ++l) dense.push_back(l);
  // Sizes of the layers with experts, of which there are none: the least that readers take.
  config.set("mlp_only_layers", std::move(dense)).set("num_experts", 1).set("num_experts_per_tok", 1);
  return config.set("moe_intermediate_size", 1).set("shared_expert_intermediate_size", 1);
}

json::Value carved_config(const DenseShape& shape, const CarvedShape& carved, const char* dtype) {
  json::Value config = common_config(shape, dtype);
  config.set("mlp_only_layers", json::Value::array());
  config.set("num_experts", carved.n_experts).set("num_experts_per_tok", carved.n_active);
  config.set("moe_intermediate_size", carved.d_expert);
  return config.set("shared_expert_intermediate_size", carved.d_shared);
}

}  // namespace signalbox::loaders::families
