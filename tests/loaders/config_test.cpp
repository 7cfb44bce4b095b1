// What configs become: every family's numbers, both styles of keys, RoPE against values pinned from transformers.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "loaders/families/family.h"
#include "loaders/families/real_shapes.h"
#include "tests/bad_files/files.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

Model read(const std::string& family, const std::map<std::string, std::string>& changes = {}) {
  return families::read_config(json::parse(example_config(family, changes), "config.json"), "config.json").model;
}

const Gqa& gqa(const Model& model, size_t layer = 0) { return std::get<Gqa>(model.layers[layer].attention); }
const Mla& mla(const Model& model, size_t layer = 0) { return std::get<Mla>(model.layers[layer].attention); }

void check_pin(const Rope& rope, double scale, const json::Value& pin) {
  const auto& expected = pin.find("inv_freq")->items();
  REQUIRE(rope.inv_freq.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    CHECK(rope.inv_freq[i] == doctest::Approx(expected[i].real()).epsilon(1e-6));
  CHECK(rope.magnitude == doctest::Approx(pin.find("attention_scaling")->real()).epsilon(1e-6));
  CHECK(scale == doctest::Approx(pin.find("softmax_scale")->real()).epsilon(1e-6));
}

}  // namespace

TEST_CASE("rope tables and attention scales are those of transformers") {
  const json::Value pins = json::parse_file(test::source_dir() / "tests/goldens/pins.json");
  int checked = 0;
  for (const auto& [pin_name, pin] : pins.members()) {
    const std::string& name = pin_name;
    const json::Value* config = pin.find("config");
    if (!config || !pin.find("inv_freq")) continue;
    std::string family = name;
    while (!family.empty() && !families::find_family(family)) family.pop_back();  // deepseek_v2_lite
    if (family.empty()) continue;
    CAPTURE(name);
    std::map<std::string, std::string> changes;
    for (const auto& [key, value] : config->members()) changes[key] = json::dump(value);
    const Model model = read(family, changes);
    const bool latent = std::holds_alternative<Mla>(model.layers[0].attention);
    check_pin(model.rope, latent ? mla(model).scale : gqa(model).scale, pin);
    ++checked;
  }
  CHECK(checked >= 2);
}

TEST_CASE("published YaRN values") {
  const Model lite = families::real_shape_model("deepseek-v2-lite");
  const auto near = [](double a, double b) { return std::fabs(a - b) <= 5e-6 * std::fabs(b); };
  CHECK(near(lite.rope.inv_freq[10], 0.0562341));
  CHECK(near(lite.rope.inv_freq[11], 0.0390069));
  CHECK(near(lite.rope.inv_freq[16], 0.0055));
  CHECK(near(lite.rope.inv_freq[22], 1.77828e-4));
  CHECK(near(lite.rope.inv_freq[23], 3.33380e-5));
  CHECK(near(lite.rope.magnitude, 1.0));
  CHECK(near(mla(lite).scale, 0.1147214));
  CHECK(lite.rope.adjacent);
  const Model oss = families::real_shape_model("gpt-oss-20b");
  CHECK(near(oss.rope.inv_freq[8], 0.0508133));
  CHECK(near(oss.rope.inv_freq[9], 0.0317057));
  CHECK(near(oss.rope.inv_freq[17], 1.29319e-4));
  CHECK(near(oss.rope.inv_freq[18], 3.83088e-5));
  CHECK(near(oss.rope.magnitude, 1.3465736));
  CHECK(gqa(oss).scale == 0.125f);
  CHECK(!oss.rope.adjacent);
}

TEST_CASE("linear and llama3 scaling") {
  const Model plain = read("mixtral"), linear = read("mixtral", {{"rope_scaling", R"({"type":"linear","factor":4})"}});
  for (size_t i = 0; i < plain.rope.inv_freq.size(); ++i)
    CHECK(linear.rope.inv_freq[i] == doctest::Approx(plain.rope.inv_freq[i] / 4));
  const Model llama = read("mixtral", {{"rope_scaling", R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
    "high_freq_factor":4.0,"original_max_position_embeddings":64})"}});
  // Wavelengths below 16 stay, those above 64 are divided by 8.
  CHECK(llama.rope.inv_freq[0] == plain.rope.inv_freq[0]);
  CHECK(llama.rope.inv_freq.back() == doctest::Approx(plain.rope.inv_freq.back() / 8));
  CHECK(llama.rope.magnitude == 1);
}

TEST_CASE("rope_parameters say what rope_theta and rope_scaling say") {
  const Model hub = read("gpt_oss");
  const Model resaved =
      read("gpt_oss",
           {{"rope_theta", "absent"},
            {"rope_scaling", "absent"},
            {"rope_parameters",
             R"({"rope_type":"yarn","rope_theta":150000,"factor":4.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":false,
          "original_max_position_embeddings":128})"}});
  CHECK(hub.rope.inv_freq == resaved.rope.inv_freq);
  CHECK(hub.rope.magnitude == resaved.rope.magnitude);
  CHECK(hub.rope.magnitude > 1);
}

TEST_CASE("routers of the families") {
  const Router mixtral = read("mixtral").layers[0].moe()->router;
  CHECK((mixtral.n_experts == 8 && mixtral.n_active == 2 && mixtral.renormalize && !mixtral.softmax_over_selected));
  CHECK(!read("olmoe").layers[0].moe()->router.renormalize);
  CHECK(read("olmoe", {{"norm_topk_prob", "true"}}).layers[0].moe()->router.renormalize);
  const Router oss = read("gpt_oss").layers[0].moe()->router;
  CHECK((oss.softmax_over_selected && oss.bias && !oss.renormalize));
  const Model full = families::real_shape_model("DeepSeek-V2");
  const Router v2 = full.layers[1].moe()->router;
  CHECK((v2.n_groups == 8 && v2.n_groups_kept == 3 && v2.scale == 16 && v2.group_score == Router::GroupScore::max));
  CHECK(mla(full).q_rank == 1536);
  const Router normed = read("deepseek_v2", {{"norm_topk_prob", "true"}}).layers[1].moe()->router;
  CHECK((normed.renormalize && normed.renormalize_epsilon == 1e-20f));
  // Without groups n_group has no effect.
  CHECK(read("deepseek_v2", {{"n_group", "8"}, {"topk_group", "3"}}).layers[1].moe()->router.n_groups == 1);
}

TEST_CASE("which layers have experts") {
  CHECK(read("deepseek_v2").moe_layers() == std::vector<int32_t>{1, 2});
  CHECK(read("qwen3_moe", {{"mlp_only_layers", "[1, 9]"}}).moe_layers() == std::vector<int32_t>{0, 2});
  CHECK(read("qwen2_moe", {{"decoder_sparse_step", "2"}}).moe_layers() == std::vector<int32_t>{1});
  CHECK(read("qwen2_moe").layers[0].moe()->d_ff_shared == 64);
  CHECK(read("qwen2_moe").layers[0].moe()->shared_gate);
  CHECK(read("deepseek_v2").layers[1].moe()->d_ff_shared == 64);
  CHECK(read("deepseek_v2", {{"n_shared_experts", "null"}}).layers[1].moe()->d_ff_shared == 0);
}

TEST_CASE("attention of the families") {
  CHECK(gqa(read("mixtral")).window == 0);
  CHECK(gqa(read("mixtral", {{"sliding_window", "8"}})).window == 8);
  CHECK(gqa(read("mixtral", {{"head_dim", "null"}})).d_head == 16);
  CHECK(gqa(read("mixtral", {{"num_key_value_heads", "null"}})).n_kv_heads == 4);
  CHECK(gqa(read("olmoe", {{"clip_qkv", "0.5"}})).clip == 0.5f);
  CHECK(gqa(read("olmoe")).qk_norm == Gqa::QkNorm::whole);
  CHECK(gqa(read("qwen3_moe")).qk_norm == Gqa::QkNorm::per_head);
  CHECK(gqa(read("qwen3_moe", {{"attention_bias", "true"}})).o_bias);
  CHECK((gqa(read("qwen2_moe")).qkv_bias && !gqa(read("qwen2_moe")).o_bias));
  CHECK(!gqa(read("qwen2_moe", {{"qkv_bias", "false"}})).qkv_bias);
  const Model oss = read("gpt_oss");
  CHECK((gqa(oss, 0).window == 32 && gqa(oss, 1).window == 0 && gqa(oss, 0).sinks && gqa(oss, 0).o_bias));
  const Model windows =
      read("qwen2_moe", {{"use_sliding_window", "true"}, {"sliding_window", "16"}, {"max_window_layers", "2"}});
  CHECK((gqa(windows, 0).window == 16 && gqa(windows, 1).window == 0 && gqa(windows, 2).window == 0));
  CHECK(gqa(read("qwen3_moe", {{"use_sliding_window", "true"}, {"sliding_window", "16"}}), 1).window == 16);
  CHECK(mla(read("deepseek_v2", {{"rms_norm_eps", "1e-3"}})).latent_eps == 1e-6f);
  CHECK(mla(read("deepseek_v2", {{"q_lora_rank", "absent"}})).q_rank == 0);
}

TEST_CASE("defaults where a key is absent") {
  CHECK(read("olmoe", {{"rms_norm_eps", "absent"}}).norm_eps == 1e-5f);
  CHECK(read("mixtral", {{"rms_norm_eps", "absent"}}).norm_eps == 1e-5f);
  CHECK(read("qwen3_moe", {{"rms_norm_eps", "null"}}).norm_eps == 1e-6f);
  CHECK(read("mixtral", {{"rope_theta", "absent"}}).rope.inv_freq ==
        read("mixtral", {{"rope_theta", "1e6"}}).rope.inv_freq);
  CHECK(read("qwen2_moe", {{"rope_theta", "absent"}}).rope.inv_freq ==
        read("qwen2_moe", {{"rope_theta", "10000"}}).rope.inv_freq);
  CHECK(read("gpt_oss", {{"head_dim", "absent"}}).rope.n_dims() == 64);
  // Without any scaling key this family has YaRN by default.
  CHECK(read("gpt_oss", {{"rope_scaling", "absent"}}).rope.magnitude == doctest::Approx(1.3465736));
}

TEST_CASE("released shapes are read and have the published sizes") {
  for (const families::RealShape& shape : families::real_shapes()) {
    CAPTURE(shape.name);
    CHECK(families::real_shape_model(shape.name).n_layers() > 0);
  }
  const auto billions = [](const char* name) {
    const ParameterCount count = count_parameters(families::real_shape_model(name));
    return std::pair(static_cast<double>(count.total) / 1e9, static_cast<double>(count.active) / 1e9);
  };
  CHECK(billions("DeepSeek-V2-Lite").first == doctest::Approx(15.7).epsilon(0.01));
  CHECK(billions("DeepSeek-V2").first == doctest::Approx(235.7).epsilon(0.01));
  CHECK(billions("Mixtral-8x7B").first == doctest::Approx(46.7).epsilon(0.01));
  CHECK(billions("OLMoE-1B-7B").first == doctest::Approx(6.92).epsilon(0.01));
  CHECK(billions("Qwen1.5-MoE-A2.7B").first == doctest::Approx(14.3).epsilon(0.01));
  CHECK(billions("Qwen3-30B-A3B").first == doctest::Approx(30.5).epsilon(0.01));
  CHECK(billions("gpt-oss-20b").first == doctest::Approx(20.9).epsilon(0.01));
  CHECK(billions("gpt-oss-120b").first == doctest::Approx(116.8).epsilon(0.01));
  CHECK_THROWS_WITH_AS(families::real_shape_model("x"), doctest::Contains("expected a known shape ("), Error);
}

TEST_CASE("active parameters: each once, tied or not") {
  // One layer of width 4: attention 4 x 16, two norms of 4 and two of 4 for q and k, a block of 3 x 4 x 6.
  const auto count = [](bool tied, bool dense) {
    const json::Value config = json::parse(
        R"({"model_type":"qwen3_moe","hidden_size":4,"num_hidden_layers":1,"num_attention_heads":1,
"num_key_value_heads":1,"head_dim":4,"intermediate_size":6,"moe_intermediate_size":2,"num_experts":5,
"num_experts_per_tok":2,"decoder_sparse_step":1,"norm_topk_prob":true,"vocab_size":8,"max_position_embeddings":16,
"rms_norm_eps":1e-6,"rope_theta":10000.0,"hidden_act":"silu","mlp_only_layers":)" +
            std::string(dense ? "[0]" : "[]") + R"(,"tie_word_embeddings":)" + (tied ? "true}" : "false}"),
        "config.json");
    return count_parameters(families::read_config(config, "config.json").model);
  };
  constexpr int64_t attention = 4 * 16 + 2 * 4, norms = 3 * 4, table = 8 * 4, row = 4;
  constexpr int64_t block = 3 * 4 * 6, router = 5 * 4, expert = 3 * 4 * 2;
  const int64_t common = attention + norms;
  CHECK(count(true, true).total == common + block + table);
  CHECK(count(true, true).active == common + block + table);
  CHECK(count(false, true).total == common + block + 2 * table);
  CHECK(count(false, true).active == common + block + table + row);
  CHECK(count(true, false).total == common + router + 5 * expert + table);
  CHECK(count(true, false).active == common + router + 2 * expert + table);
  CHECK(count(false, false).active == common + router + 2 * expert + table + row);
}

TEST_CASE("a missing key is named as its family calls it") {
  struct Required {
    const char *family, *experts;
  };
  constexpr Required families[] = {
      {"deepseek_v2", "n_routed_experts"}, {"mixtral", "num_local_experts"}, {"olmoe", "num_experts"},
      {"qwen2_moe", "num_experts"},        {"qwen3_moe", "num_experts"},     {"gpt_oss", "num_local_experts"}};
  CHECK(families::all_families().size() == std::size(families));
  const auto message = [](const std::string& family, const std::map<std::string, std::string>& changes) {
    try {
      read(family, changes);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("read");
  };
  const std::string named[] = {"num_experts", "num_local_experts", "n_routed_experts"};
  for (const auto& entry : families) {
    const char* const family = entry.family;
    const char* const experts = entry.experts;
    CAPTURE(family);
    for (const char* form : {"absent", "null"}) {
      CAPTURE(form);
      std::string others;
      for (const std::string& key : named)
        if (key != experts) others += (others.empty() ? "\"" : " or \"") + key + "\"";
      CHECK(message(family, {{experts, form}}) ==
            "config.json: expected the key \"" + std::string(experts) + "\" (or " + others + "), found none");
      CHECK(message(family, {{"num_experts_per_tok", form}}) ==
            "config.json: expected the key \"num_experts_per_tok\" (or \"experts_per_token\"), found none");
      for (const char* key : {"model_type", "hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads"})
        CHECK(message(family, {{key, form}}) ==
              "config.json: expected the key \"" + std::string(key) + "\", found none");
      // Under the name of another family it is there.
      for (const std::string& key : named)
        if (key != experts) CHECK(message(family, {{experts, form}, {key, "8"}}) == "read");
    }
    // What is wrong is told of the key that says it.
    const std::string other = named[0] == experts ? named[1] : named[0];
    CHECK(message(family,
                  {{experts, "absent"}, {other, "3"}, {"num_experts_per_tok", "absent"}, {"experts_per_token", "4"}}) ==
          "config.json: experts_per_token: expected at most 3 (" + other + "), found 4");
  }
  // Keys that another key calls for, and keys inside of objects.
  CHECK(message("deepseek_v2", {{"topk_method", "\"group_limited_greedy\""}, {"n_group", "absent"}}) ==
        "config.json: expected the key \"n_group\", found none");
  CHECK(message("deepseek_v2", {{"topk_method", "\"group_limited_greedy\""}, {"topk_group", "null"}}) ==
        "config.json: expected the key \"topk_group\", found none");
  CHECK(message("olmoe", {{"rope_parameters", R"({"rope_type":"linear","factor":null})"}}) ==
        "config.json: rope_parameters: expected the key \"factor\", found none");
  CHECK(message("olmoe", {{"rope_scaling", R"({"rope_type":"llama3","factor":2,"low_freq_factor":1})"}}) ==
        "config.json: rope_scaling: expected the key \"high_freq_factor\", found none");
  CHECK(message("gpt_oss", {{"quantization_config", R"({"quant_method":null})"}}) ==
        "config.json: quantization_config: expected the key \"quant_method\", found none");
}
