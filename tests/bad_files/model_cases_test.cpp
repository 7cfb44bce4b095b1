// Bad model directories: configs, indexes, weights. Each must give one line that names the file and the key or tensor.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "loaders/model/load.h"
#include "tests/bad_files/files.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

struct ConfigCase {
  const char* family;
  const char* key;
  const char* value;     // JSON text, or "absent"
  const char* expected;  // "": must be accepted
};

const ConfigCase config_cases[] = {
    // What must be there.
    {"mixtral", "model_type", "absent", "the key \"model_type\", found none"},
    {"mixtral", "model_type", "null", "the key \"model_type\", found none"},
    {"mixtral", "model_type", "\"llama\"", "model_type: expected a supported model type ("},
    {"mixtral", "model_type", "7", "model_type: expected a string"},
    {"mixtral", "hidden_size", "absent", "the key \"hidden_size\", found none"},
    {"mixtral", "num_hidden_layers", "absent", "the key \"num_hidden_layers\", found none"},
    {"mixtral", "num_attention_heads", "null", "the key \"num_attention_heads\", found none"},
    {"mixtral", "vocab_size", "absent", "the key \"vocab_size\", found none"},
    {"mixtral", "num_local_experts", "absent",
     "the key \"num_local_experts\" (or \"num_experts\" or \"n_routed_experts\"), found none"},
    {"mixtral", "num_experts_per_tok", "absent",
     "the key \"num_experts_per_tok\" (or \"experts_per_token\"), found none"},
    {"deepseek_v2", "n_routed_experts", "absent", "the key \"n_routed_experts\" (or "},
    {"gpt_oss", "num_local_experts", "null", "the key \"num_local_experts\" (or "},
    {"olmoe", "num_experts_per_tok", "null", "the key \"num_experts_per_tok\" (or "},
    // Sizes: whole, in range.
    {"mixtral", "hidden_size", "0", "hidden_size: expected an integer from 1"},
    {"mixtral", "hidden_size", "-64", "hidden_size: expected an integer from 1"},
    {"mixtral", "hidden_size", "64.0", "hidden_size: expected an integer, found 64.0"},
    {"mixtral", "hidden_size", "6.4e1", "hidden_size: expected an integer"},
    {"mixtral", "hidden_size", "\"64\"", "hidden_size: expected an integer, found \"64\""},
    {"mixtral", "hidden_size", "true", "hidden_size: expected an integer"},
    {"mixtral", "hidden_size", "[64]", "hidden_size: expected an integer"},
    {"mixtral", "hidden_size", "1048577", "hidden_size: expected an integer from 1 to 1048576"},
    {"mixtral", "hidden_size", "9223372036854775807", "hidden_size: expected an integer from 1"},
    {"mixtral", "hidden_size", "18446744073709551615", "hidden_size: expected an integer"},
    {"mixtral", "hidden_size", "66", "hidden_size: expected a multiple of num_attention_heads"},
    {"mixtral", "num_hidden_layers", "0", "num_hidden_layers: expected an integer from 1"},
    {"mixtral", "num_hidden_layers", "1025", "num_hidden_layers: expected an integer from 1 to 1024"},
    {"mixtral", "num_hidden_layers", "4294967299", "num_hidden_layers: expected an integer from 1"},
    {"mixtral", "num_attention_heads", "0", "num_attention_heads: expected an integer from 1"},
    {"mixtral", "num_attention_heads", "4097", "num_attention_heads: expected an integer from 1 to 4096"},
    {"mixtral", "num_key_value_heads", "3",
     "num_key_value_heads: expected a divisor of num_attention_heads (4), found 3"},
    {"mixtral", "num_key_value_heads", "0", "num_key_value_heads: expected an integer from 1"},
    {"mixtral", "num_key_value_heads", "8", "num_key_value_heads: expected a divisor"},
    {"mixtral", "num_attention_heads", "64", "head_dim"},
    {"mixtral", "head_dim", "15", "head_dim: expected an even number"},
    {"mixtral", "head_dim", "1", "head_dim: expected an integer from 2"},
    {"mixtral", "vocab_size", "0", "vocab_size: expected an integer from 1"},
    {"mixtral", "vocab_size", "16777217", "vocab_size: expected an integer from 1 to 16777216"},
    {"mixtral", "num_local_experts", "0", "num_local_experts: expected an integer from 1"},
    {"mixtral", "num_local_experts", "4097", "num_local_experts: expected an integer from 1 to 4096"},
    {"mixtral", "num_experts", "9", "num_experts: expected 8 as num_local_experts says"},
    {"mixtral", "num_experts_per_tok", "0", "num_experts_per_tok: expected an integer from 1"},
    {"mixtral", "num_experts_per_tok", "9", "num_experts_per_tok: expected at most 8"},
    {"mixtral", "experts_per_token", "3", "experts_per_token: expected 2 as num_experts_per_tok says"},
    {"mixtral", "intermediate_size", "0", "intermediate_size: expected an integer from 1"},
    {"mixtral", "max_position_embeddings", "0", "max_position_embeddings: expected an integer from 1"},
    {"mixtral", "rms_norm_eps", "0", "rms_norm_eps: expected a number above 0"},
    {"mixtral", "rms_norm_eps", "-1e-5", "rms_norm_eps: expected a number above 0"},
    {"mixtral", "rms_norm_eps", "\"1e-5\"", "rms_norm_eps: expected a number"},
    {"mixtral", "rms_norm_eps", "2", "norm_eps: expected a number between 0 and 1"},
    {"mixtral", "rms_norm_eps", "1e-60", "rms_norm_eps: expected a number above 0"},
    {"mixtral", "tie_word_embeddings", "1", "tie_word_embeddings: expected true or false, found 1"},
    // Keys that would change the computation.
    {"mixtral", "hidden_act", "\"gelu\"", "hidden_act: expected \"silu\""},
    {"mixtral", "hidden_act", "\"swish\"", "missing"},
    {"mixtral", "attention_bias", "true", "attention_bias: expected false"},
    {"mixtral", "norm_topk_prob", "false", "norm_topk_prob: expected true"},
    {"mixtral", "sliding_window", "0", "sliding_window: expected an integer from 1"},
    {"mixtral", "sliding_window", "-1", "sliding_window: expected an integer from 1"},
    {"mixtral", "layer_types", "[\"sliding_attention\",\"full_attention\",\"full_attention\"]",
     "layer_types: expected full_attention"},
    {"mixtral", "layer_types", "[\"full_attention\"]", "layer_types: expected 3 items"},
    {"mixtral", "partial_rotary_factor", "0.5", "partial_rotary_factor: expected 1"},
    {"mixtral", "clip_qkv", "8.0", "clip_qkv: expected none"},
    {"mixtral", "n_shared_experts", "1", "n_shared_experts: expected 0"},
    {"mixtral", "routed_scaling_factor", "2.5", "routed_scaling_factor: expected 1"},
    {"mixtral", "scoring_func", "\"sigmoid\"", "scoring_func: expected \"softmax\""},
    {"mixtral", "final_logit_softcapping", "30.0", "final_logit_softcapping: expected none"},
    {"mixtral", "attn_logit_softcapping", "50.0", "attn_logit_softcapping: expected none"},
    {"mixtral", "embedding_multiplier", "12.0", "embedding_multiplier: expected 1"},
    {"mixtral", "logit_scale", "0.5", "logit_scale: expected 1"},
    {"mixtral", "alibi", "true", "alibi: expected false"},
    {"mixtral", "is_encoder_decoder", "true", "is_encoder_decoder: expected false"},
    {"mixtral", "vision_config", "{}", "vision_config: expected none"},
    {"mixtral", "quantization_config", "{\"quant_method\":\"gptq\",\"bits\":4}",
     "quantization_config: expected none for this model_type, found quant_method \"gptq\""},
    {"mixtral", "quantization_config", "{\"quant_method\":\"mxfp4\"}", "quantization_config: expected none"},
    {"olmoe", "clip_qkv", "0", "clip_qkv: expected a number above 0"},
    {"olmoe", "clip_qkv", "-1.0", "clip_qkv: expected a number above 0"},
    {"olmoe", "head_dim", "32", "head_dim: expected hidden_size / num_attention_heads"},
    {"olmoe", "sliding_window", "128", "sliding_window: expected none"},
    {"qwen2_moe", "layer_types", "[\"sliding_attention\",\"full_attention\",\"full_attention\"]",
     "expected full_attention where use_sliding_window is false"},
    {"qwen2_moe", "decoder_sparse_step", "0", "decoder_sparse_step: expected an integer from 1"},
    {"qwen2_moe", "mlp_only_layers", "[-1]", "mlp_only_layers[0]: expected an integer from 0"},
    {"qwen2_moe", "mlp_only_layers", "1", "mlp_only_layers: expected an array"},
    {"qwen2_moe", "shared_expert_intermediate_size", "-1",
     "shared_expert_intermediate_size: expected an integer from 0"},
    {"qwen2_moe", "qkv_bias", "\"yes\"", "qkv_bias: expected true or false"},
    {"qwen3_moe", "head_dim", "31", "head_dim: expected an even number"},
    {"qwen3_moe", "use_qk_norm", "false", "use_qk_norm: expected true"},
    {"qwen3_moe", "shared_expert_intermediate_size", "64", "shared_expert_intermediate_size: expected 0"},
    {"deepseek_v2", "topk_method", "\"noaux_tc\"", "topk_method: expected \"greedy\" or \"group_limited_greedy\""},
    {"deepseek_v2", "topk_method", "\"group_limited_greedy\"", "missing"},
    {"deepseek_v2", "scoring_func", "\"sigmoid\"", "scoring_func: expected \"softmax\""},
    {"deepseek_v2", "moe_layer_freq", "2", "moe_layer_freq: expected 1"},
    {"deepseek_v2", "mlp_bias", "true", "mlp_bias: expected false"},
    {"deepseek_v2", "num_key_value_heads", "2", "num_key_value_heads: expected 4 (num_attention_heads)"},
    {"deepseek_v2", "kv_lora_rank", "0", "kv_lora_rank: expected an integer from 1"},
    {"deepseek_v2", "q_lora_rank", "0", "q_lora_rank: expected an integer from 1"},
    {"deepseek_v2", "qk_rope_head_dim", "15", "qk_rope_head_dim: expected an even number"},
    {"deepseek_v2", "routed_scaling_factor", "0", "routed_scaling_factor: expected a number above 0"},
    {"deepseek_v2", "first_k_dense_replace", "-1", "first_k_dense_replace: expected an integer from 0"},
    {"deepseek_v2", "n_shared_experts", "2.5", "n_shared_experts: expected an integer"},
    {"gpt_oss", "sliding_window", "0", "sliding_window: expected an integer from 1"},
    {"gpt_oss", "layer_types", "[\"full_attention\",\"chunked_attention\",\"full_attention\",\"full_attention\"]",
     "layer_types[1]: expected \"full_attention\" or \"sliding_attention\""},
    {"gpt_oss", "swiglu_limit", "0", "swiglu_limit: expected a number above 0"},
    {"gpt_oss", "quantization_config", "{\"quant_method\":\"fp8\"}", "quant_method: expected \"mxfp4\""},
    {"gpt_oss", "quantization_config", "{}", "the key \"quant_method\", found none"},
    // RoPE.
    {"mixtral", "rope_theta", "0", "rope_theta: expected a number above 0"},
    {"mixtral", "rope_theta", "1", "rope_theta: expected a number above 1"},
    {"mixtral", "rope_theta", "\"1e6\"", "rope_theta: expected a number"},
    {"mixtral", "rope_scaling", "{\"rope_type\":\"dynamic\",\"factor\":2.0}",
     "rope_type: expected \"default\", \"linear\", \"yarn\" or \"llama3\", found \"dynamic\""},
    {"mixtral", "rope_scaling", "{\"type\":\"longrope\"}", "rope_scaling.type: expected"},
    {"mixtral", "rope_scaling", "{\"factor\":2.0}", "rope_scaling: expected the key \"rope_type\", found none"},
    {"mixtral", "rope_scaling", "{\"type\":\"linear\"}", "rope_scaling: expected the key \"factor\", found none"},
    {"mixtral", "rope_scaling", "{\"type\":\"linear\",\"factor\":0}", "rope_scaling.factor: expected a number above 0"},
    {"mixtral", "rope_scaling", "{\"type\":\"linear\",\"factor\":-2}",
     "rope_scaling.factor: expected a number above 0"},
    {"mixtral", "rope_scaling", "{\"type\":\"linear\",\"rope_type\":\"yarn\",\"factor\":2}",
     "rope_scaling.type: expected \"yarn\" as rope_type"},
    {"mixtral", "rope_scaling", "\"yarn\"", "rope_scaling: expected an object"},
    {"mixtral", "rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"truncate\":1}",
     "rope_scaling.truncate: expected true or false"},
    {"mixtral", "rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}",
     "original_max_position_embeddings: expected an integer from 1"},
    {"mixtral", "rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":0}",
     "attention_factor: expected a number above 0"},
    {"mixtral", "rope_scaling", "{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1}",
     "the key \"high_freq_factor\", found none"},
    {"mixtral", "rope_scaling", "{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
     "high_freq_factor: expected a number above low_freq_factor"},
    {"mixtral", "rope_scaling", "{\"type\":\"default\",\"mrope_section\":[1,2,3]}", "mrope_section: expected none"},
    {"mixtral", "rope_parameters", "{\"rope_theta\":5.0,\"rope_type\":\"default\"}",
     "rope_theta: expected 5.0 as rope_parameters says"},
    {"mixtral", "rope_parameters", "{\"rope_theta\":1000000.0,\"partial_rotary_factor\":0.5,\"rope_type\":\"default\"}",
     "partial_rotary_factor: expected 1"},
    {"mixtral", "rope_parameters", "{\"full_attention\":{\"rope_theta\":1e4}}",
     "expected one rotary embedding for all layers"},
    {"gpt_oss", "rope_parameters", "{\"rope_type\":\"default\"}", "rope_scaling: expected the same as rope_parameters"},
    // Token ids.
    {"mixtral", "eos_token_id", "-2", "eos_token_id: expected an integer from -1"},
    {"mixtral", "eos_token_id", "\"</s>\"", "eos_token_id: expected an integer"},
    {"mixtral", "eos_token_id", "[2,\"x\"]", "eos_token_id[1]: expected an integer"},
    {"mixtral", "eos_token_id", "2.0", "eos_token_id: expected an integer"},
    // Without effect: read on, to the missing weights.
    {"mixtral", "auto_map", "{\"AutoModel\":\"x.y\"}", "missing"},
    {"mixtral", "router_jitter_noise", "0.1", "missing"},
    {"mixtral", "router_aux_loss_coef", "0.5", "missing"},
    {"mixtral", "attention_dropout", "0.1", "missing"},
    {"mixtral", "some_key_of_nobody", "[1,2]", "missing"},
    {"mixtral", "sliding_window", "null", "missing"},
    {"mixtral", "rope_scaling", "null", "missing"},
    {"mixtral", "rope_scaling", "{}", "missing"},
    {"mixtral", "eos_token_id", "[2,7]", "missing"},
    {"qwen2_moe", "max_window_layers", "21", "missing"},
    {"qwen2_moe", "sliding_window", "4096", "missing"},
    {"deepseek_v2", "aux_loss_alpha", "0.001", "missing"},
    {"deepseek_v2", "ep_size", "1", "missing"},
    {"gpt_oss", "initial_context_length", "4096", "missing"},
};

Files base() {
  static const Files files = made_model(R"({"family":"mixtral","dtype":"bf16","shards":2,"config":{"hidden_size":16,
    "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"intermediate_size":8,"num_local_experts":2,
    "num_experts_per_tok":1,"vocab_size":16}})");
  return files;
}

Files single(const std::string& family, const std::string& dtype = "bf16") {
  return made_model("{\"family\":\"" + family + "\",\"dtype\":\"" + dtype + "\"}");
}

void replace(std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  text.replace(at, from.size(), to);
}

constexpr const char* index_name = "model.safetensors.index.json";
constexpr const char* first_shard = "model-00001-of-00002.safetensors";
constexpr const char* second_shard = "model-00002-of-00002.safetensors";

}  // namespace

TEST_CASE("configs are accepted or refused by key and value") {
  for (const ConfigCase& test : config_cases) {
    CAPTURE(test.family);
    CAPTURE(test.key);
    CAPTURE(test.value);
    std::map<std::string, std::string> changes = {{test.key, test.value}};
    if (std::string(test.value) == "\"group_limited_greedy\"") changes["n_group"] = "4", changes["topk_group"] = "2";
    const std::string message = load_message({{"config.json", example_config(test.family, changes)}});
    CAPTURE(message);
    // A config that is accepted goes on to the weights, which are not there.
    const std::string expected =
        std::string(test.expected) == "missing" ? "model.safetensors: expected this file" : test.expected;
    CHECK(good_message(message, expected));
  }
}

TEST_CASE("configs that are refused for two keys together") {
  const auto message = [](const char* family, std::map<std::string, std::string> changes) {
    return load_message({{"config.json", example_config(family, changes)}});
  };
  CHECK(good_message(message("deepseek_v2", {{"norm_topk_prob", "true"}, {"routed_scaling_factor", "16.0"}}),
                     "norm_topk_prob: expected false with a routed_scaling_factor"));
  CHECK(good_message(message("deepseek_v2", {{"norm_topk_prob", "true"}}), "model.safetensors"));
  CHECK(good_message(
      message("deepseek_v2", {{"topk_method", "\"group_limited_greedy\""}, {"n_group", "3"}, {"topk_group", "1"}}),
      "n_group: expected a divisor of 16 experts"));
  CHECK(good_message(
      message("deepseek_v2", {{"topk_method", "\"group_limited_greedy\""}, {"n_group", "4"}, {"topk_group", "5"}}),
      "topk_group: expected an integer from 1 to 4"));
  CHECK(good_message(message("deepseek_v2", {{"topk_method", "\"group_limited_greedy\""}, {"n_group", "null"}}),
                     "the key \"n_group\", found none"));
}

TEST_CASE("files that are no JSON objects") {
  const auto message = [](const std::string& config) { return load_message({{"config.json", config}}); };
  CHECK(good_message(message(""), "JSON"));
  CHECK(good_message(message("[]"), "expected an object, found an array"));
  CHECK(good_message(message("{\"hidden_size\":8,\"hidden_size\":16}"), "duplicate key \"hidden_size\""));
  CHECK(good_message(message("{\"a\":1} x"), "JSON"));
  CHECK(good_message(message("{\"hidden_size\":1e999}"), "config.json"));
  CHECK(good_message(message(std::string("{\"a\0b\":1}", 9)), "JSON"));
  CHECK(good_message(message("{\"a\":\"\xff\"}"), "JSON"));
  CHECK(good_message(load_message({}), "config.json: expected a file, found none"));
  Files files = base();
  files["generation_config.json"] = "[]";
  CHECK(good_message(load_message(files), "generation_config.json: expected an object"));
  files["generation_config.json"] = "{\"eos_token_id\":{}}";
  CHECK(good_message(load_message(files), "generation_config.json: eos_token_id: expected an integer"));
  files = base();
  files["tokenizer_config.json"] = "{\"eos_token\":5}";
  CHECK(good_message(load_message(files), "tokenizer_config.json: eos_token: expected a string"));
  files["tokenizer_config.json"] = "{\"eos_token\":{\"__type\":\"AddedToken\"}}";
  CHECK(good_message(load_message(files), "eos_token: expected the key \"content\", found none"));
}

TEST_CASE("bad indexes") {
  REQUIRE(load_message(base()) == "loaded");
  struct IndexCase {
    const char *from, *to, *expected;
  };
  const std::string embed = "\"model.embed_tokens.weight\": \"";
  const IndexCase cases[] = {
      {"\"weight_map\"", "\"map\"", "the key \"weight_map\", found none"},
      {"\"model.norm.weight\": \"model", "\"model.norm.weight\": \"../model", "without '/' and \"..\""},
      {"\"model.norm.weight\": \"model", "\"model.norm.weight\": \"/model", "without '/' and \"..\""},
      {"\"model.norm.weight\": \"model", "\"model.norm.weight\": \"sub/model", "without '/' and \"..\""},
      {"\"model.norm.weight\": \"model-00002-of-00002.safetensors\"", "\"model.norm.weight\": \"\"",
       "expected a file name"},
      {"\"model.norm.weight\": \"model-00002-of-00002.safetensors\"", "\"model.norm.weight\": \"..\"",
       "expected a file name"},
      {"\"model.norm.weight\": \"model-00002-of-00002.safetensors\"", "\"model.norm.weight\": 2",
       "expected a string, found 2"},
      {"\"model.norm.weight\": \"model-00002-of-00002.safetensors\"", "\"model.norm.weight\": \"other.safetensors\"",
       "other.safetensors: expected a file as"},
      {"\"model.norm.weight\": \"model-00002-of-00002.safetensors\"",
       "\"model.norm.weight\": \"model-00001-of-00002.safetensors\"", "expected the tensor \"model.norm.weight\" as"},
      {"\"model.norm.weight\"", "\"model.norm.wait\"", "expected the tensor \"model.norm.wait\" as"},
      {"\"model.norm.weight\"", "\"lm_head.weight\"", "duplicate key"},
  };
  for (const IndexCase& test : cases) {
    CAPTURE(test.to);
    Files files = base();
    replace(files.at(index_name), test.from, test.to);
    const std::string message = load_message(files);
    CAPTURE(message);
    CHECK(good_message(message, test.expected));
  }
  Files files = base();
  files[index_name] = "{\"weight_map\":{}}";
  CHECK(good_message(load_message(files), "at least one tensor, found none"));
  files[index_name] = "{\"weight_map\":[]}";
  CHECK(good_message(load_message(files), "weight_map: expected an object"));
  files = base();
  files.erase(second_shard);
  CHECK(good_message(load_message(files), "expected a file as"));
  files = base();
  files.at(second_shard).pop_back();
  CHECK(good_message(load_message(files), second_shard));
  files = base();
  files[second_shard] = files.at(first_shard);
  CHECK(good_message(load_message(files), ".index.json says, found none"));
  files = base();
  files.erase(index_name);
  CHECK(good_message(load_message(files), "expected this file or model.safetensors.index.json, found none"));
  files["pytorch_model.bin"] = "x";
  CHECK(good_message(load_message(files), "found pytorch_model.bin, which is not read"));
}

TEST_CASE("an index says which file holds a tensor, and remarks on sizes") {
  // A third file holds all tensors of the first again; the index takes one of them from there.
  Files files = base();
  files["overlay.safetensors"] = files.at(first_shard);
  const std::string embed = "\"model.embed_tokens.weight\": \"";
  replace(files.at(index_name), (embed + first_shard + "\"").c_str(), (embed + "overlay.safetensors\"").c_str());
  std::map<std::string, std::span<const std::byte>> memory;
  for (const auto& [name, text] : files) memory.emplace(name, std::as_bytes(std::span(text)));
  const LoadedModel loaded = load_model(ResolvedModel{"model", "model", "", open_memory("model", memory)});
  const auto within = [&](const void* data, const std::string& file) {
    const char* at = static_cast<const char*>(data);
    return at >= files.at(file).data() && at < files.at(file).data() + files.at(file).size();
  };
  CHECK(within(loaded.weights.embed.data, "overlay.safetensors"));
  CHECK(!within(loaded.weights.lm_head.data, "overlay.safetensors"));
  // A tensor that the index does not name is in one file, or nobody knows which one counts.
  replace(files.at(index_name), (embed + "overlay.safetensors\",").c_str(), "");
  CHECK(load_message(files) == "loaded");
  for (const char* size : {"1", "-5", "0.5", "\"many\"", "null"}) {
    Files other = base();
    std::string& index = other.at(index_name);
    const size_t at = index.find("\"total_size\": ") + 14;
    index.replace(at, index.find_first_of(",}\n", at) - at, size);
    CHECK(load_message(other) == "loaded");
  }
}

TEST_CASE("bad weights") {
  struct WeightCase {
    const char *family, *dtype, *from, *to, *expected;
  };
  // Edits of the header that keep its length.
  const WeightCase cases[] = {
      {"mixtral", "bf16", "\"model.norm.weight\"", "\"model.norm.wright\"",
       "expected the tensor \"model.norm.weight\", found none"},
      {"mixtral", "bf16", "experts.7.w2", "experts.9.w2", "experts.7.w2.weight\""},
      {"mixtral", "bf16", "\"lm_head.weight\"", "\"lm_hood.weight\"", "expected the tensor \"lm_head.weight\""},
      {"mixtral", "bf16", "\"dtype\":\"BF16\",\"shape\":[320,64]", "\"dtype\":\"I16\",\"shape\":[320,64] ",
       "expected F32, F16 or BF16, found I16"},
      {"mixtral", "bf16", "\"shape\":[320,64]", "\"shape\":[64,320]", "expected the shape [320, 64], found [64, 320]"},
      {"mixtral", "bf16", "\"shape\":[320,64]", "\"shape\":[640,32]", "expected the shape [320, 64], found [640, 32]"},
      {"mixtral", "bf16", "\"shape\":[32,64]", "\"shape\":[64,32]",
       "k_proj.weight\": expected the shape [32, 64], found [64, 32]"},
      {"olmoe", "bf16", "q_norm.weight", "q_nerm.weight", "q_norm.weight\", found none"},
      {"qwen2_moe", "bf16", "q_proj.bias", "q_proj.bios", "q_proj.bias\", found none"},
      {"qwen2_moe", "bf16", "shared_expert_gate", "shared_expert_gait", "shared_expert_gate.weight\", found none"},
      {"deepseek_v2", "bf16", "kv_a_layernorm", "kv_a_layernerm", "kv_a_layernorm.weight\", found none"},
      {"gpt_oss", "bf16", "self_attn.sinks", "self_attn.sonks", "self_attn.sinks\", found none"},
      {"gpt_oss", "bf16", "\"shape\":[8,64,128]", "\"shape\":[8,128,64]",
       "expected the shape [8, 64, 128], found [8, 128, 64]"},
      {"gpt_oss", "mxfp4", "gate_up_proj_scales", "gate_up_proj_scoles", "gate_up_proj_scales\" beside the blocks"},
      {"gpt_oss", "mxfp4", "down_proj_blocks", "down_proj_blacks", "down_proj_blocks\" or"},
      {"gpt_oss", "mxfp4", "\"shape\":[8,128,2,16]", "\"shape\":[8,128,1,32]",
       "expected the shape [8, 128, 2, 16], found [8, 128, 1, 32]"},
      {"gpt_oss", "mxfp4", "\"shape\":[8,128,2]", "\"shape\":[8,2,128]",
       "expected the shape [8, 128, 2], found [8, 2, 128]"},
      {"gpt_oss", "mxfp4", "\"dtype\":\"U8\"", "\"dtype\":\"I8\"", "expected U8, found I8"},
  };
  for (const WeightCase& test : cases) {
    CAPTURE(test.family);
    CAPTURE(test.to);
    Files files = single(test.family, test.dtype);
    REQUIRE(load_message(files) == "loaded");
    replace(files.at("model.safetensors"), test.from, test.to);
    const std::string message = load_message(files);
    CAPTURE(message);
    CHECK(good_message(message, test.expected));
  }
}

TEST_CASE("an MXFP4 scale of 255 is refused") {
  Files files = single("gpt_oss", "mxfp4");
  std::string& bytes = files.at("model.safetensors");
  const auto file = safetensors::File::from_memory("made", std::as_bytes(std::span(bytes)));
  const safetensors::TensorInfo& scales = file->at("model.layers.3.mlp.experts.down_proj_scales");
  const size_t at = static_cast<size_t>(reinterpret_cast<const char*>(file->data(scales)) - bytes.data());
  bytes[at + scales.bytes - 1] = static_cast<char>(254);
  CHECK(load_message(files) == "loaded");
  bytes[at + scales.bytes - 1] = static_cast<char>(255);
  CHECK(good_message(load_message(files), "down_proj_scales\": expected scales below 255, found 255"));
}

TEST_CASE("a config that promises far more than the file holds costs nothing") {
  Files files = base();
  std::string config = files.at("config.json");
  replace(config, "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 1024");
  replace(config, "\"num_local_experts\": 2", "\"num_local_experts\": 4096");
  files["config.json"] = config;
  CHECK(good_message(load_message(files), "expected the shape [4096, 16], found [2, 16]"));
}

TEST_CASE("names that are no model") {
  TemporaryDirectory directory;
  const auto message = [](const std::string& name) -> std::string {
    try {
      load_config(name);
    } catch (const Error& error) {
      return error.what();
    }
    return "loaded";
  };
  CHECK(good_message(message((directory / "none").string()), "found none of them"));
  write_file(directory / "file", "x");
  CHECK(good_message(message((directory / "file").string()), "expected a directory of model files"));
  CHECK(good_message(message("../../no/such/place"), "found none of them"));
  CHECK(good_message(message(""), "found none of them"));
  CHECK(good_message(message("org/name@.."), "found none of them"));
  CHECK(good_message(message("org/na me"), "found none of them"));
  std::filesystem::create_directory(directory / "model");
  std::filesystem::create_directory(directory / "model" / "config.json");
  CHECK(good_message(message((directory / "model").string()), "expected a regular file"));
  std::filesystem::remove(directory / "model" / "config.json");
  std::filesystem::create_symlink("nowhere", directory / "model" / "config.json");
  CHECK(good_message(message((directory / "model").string()), "a link to nothing"));
  std::filesystem::remove(directory / "model" / "config.json");
  REQUIRE(mkfifo((directory / "model" / "config.json").c_str(), 0600) == 0);
  CHECK(good_message(message((directory / "model").string()), "expected a regular file"));
}
