// Weights: every way of storing a tensor gives the same values, and views lie where they should.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/sha256.h"
#include "loaders/model/load.h"
#include "loaders/synthetic/make_model.h"
#include "tests/bad_files/files.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

const char* const family_names[] = {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "gpt_oss"};

LoadedModel make(const TemporaryDirectory& directory, const std::string& spec) {
  synthetic::make_model(json::parse(spec, "spec"), "spec", directory.path());
  return load_model(directory.path().string());
}

float value_at(const Matrix& m, int64_t r, int64_t c) {
  if (m.dtype == DType::f32) return static_cast<const float*>(m.data)[r * m.row_stride + c];
  if (m.dtype == DType::bf16) {
    const uint32_t bits = uint32_t{static_cast<const uint16_t*>(m.data)[r * m.row_stride + c]} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  if (m.dtype == DType::f16) {
    const uint16_t half = static_cast<const uint16_t*>(m.data)[r * m.row_stride + c];
    const int exponent = (half >> 10) & 31;
    const float size = exponent == 0 ? std::ldexp(static_cast<float>(half & 1023), -24)
                                     : std::ldexp(static_cast<float>(1024 + (half & 1023)), exponent - 25);
    return half & 0x8000 ? -size : size;
  }
  static const float levels[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const uint8_t byte = static_cast<const uint8_t*>(m.data)[(r * m.row_stride + c) / 2];
  const int code = c % 2 ? byte >> 4 : byte & 15;
  const float level = code & 8 ? -levels[code & 7] : levels[code & 7];
  return std::ldexp(level, m.scales[r * m.scale_stride + c / 32] - 127);
}

// All values of a model in for_each_tensor's order.
std::vector<std::vector<float>> values(LoadedModel& loaded) {
  std::vector<std::vector<float>> all;
  // for_each_tensor shapes what it visits anew, so walk a copy of the shape and read from the loaded views.
  Weights& w = loaded.weights;
  const auto matrix = [&](const Matrix& m) {
    if (!m) return;
    auto& out = all.emplace_back();
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t c = 0; c < m.cols; ++c) out.push_back(value_at(m, r, c));
  };
  const auto vector = [&](const Vector& v) {
    if (v) all.emplace_back(v.data, v.data + v.n);
  };
  matrix(w.embed), matrix(w.lm_head), vector(w.final_norm);
  for (LayerWeights& layer : w.layers) {
    vector(layer.attn_norm), vector(layer.ffn_norm);
    if (auto* a = std::get_if<GqaWeights>(&layer.attention)) {
      for (const Matrix* m : {&a->q, &a->k, &a->v, &a->o}) matrix(*m);
      for (const Vector* v : {&a->q_bias, &a->k_bias, &a->v_bias, &a->o_bias, &a->q_norm, &a->k_norm, &a->sinks})
        vector(*v);
    } else {
      auto& l = std::get<MlaWeights>(layer.attention);
      for (const Matrix* m : {&l.q_a, &l.q_b, &l.q, &l.kv_a, &l.kv_b, &l.o}) matrix(*m);
      for (const Vector* v : {&l.q_a_norm, &l.kv_a_norm}) vector(*v);
    }
    if (auto* d = std::get_if<DenseWeights>(&layer.ffn)) {
      for (const Matrix* m : {&d->gate, &d->up, &d->down}) matrix(*m);
    } else {
      auto& moe = std::get<MoeWeights>(layer.ffn);
      matrix(moe.router), vector(moe.router_bias);
      for (auto* list : {&moe.gate, &moe.up, &moe.down})
        for (const Matrix& m : *list) matrix(m);
      for (auto* list : {&moe.gate_bias, &moe.up_bias, &moe.down_bias})
        for (const Vector& v : *list) vector(v);
      for (const Matrix* m : {&moe.shared_gate, &moe.shared_up, &moe.shared_down, &moe.shared_scale}) matrix(*m);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("hub style, fused style, shards and dtypes hold the same model" *
          doctest::test_suite("repeats: checkpoints that other tests load too")) {
  for (const char* family : family_names) {
    CAPTURE(family);
    TemporaryDirectory hub, fused, sharded, half;
    const std::string start = std::string("{\"family\":\"") + family + "\",\"seed\":7,";
    LoadedModel a = make(hub, start + "\"dtype\":\"f32\"}"),
                b = make(fused, start + "\"dtype\":\"f32\",\"style\":\"fused\"}");
    LoadedModel c = make(sharded, start + "\"dtype\":\"bf16\",\"shards\":3}"),
                d = make(half, start + "\"dtype\":\"f16\"}");
    const auto base = values(a), half_values = values(d), short_values = values(c);
    CHECK(base == values(b));
    REQUIRE(base.size() == short_values.size());
    size_t bad = 0;
    for (size_t t = 0; t < base.size(); ++t)
      for (size_t i = 0; i < base[t].size(); ++i) {
        bad += std::fabs(base[t][i] - short_values[t][i]) > std::fabs(base[t][i]) / 256 + 1e-30f;
        bad += std::fabs(base[t][i] - half_values[t][i]) > std::fabs(base[t][i]) / 2048 + 1e-7f;
      }
    CHECK(bad == 0);
    CHECK(a.unknown_tensors.empty());
    CHECK(a.model_hash != c.model_hash);
    CHECK(a.family == family);
  }
}

TEST_CASE("MXFP4 experts hold the model up to a quarter of each value's block") {
  TemporaryDirectory plain, blocks;
  LoadedModel a = make(plain, R"({"family":"gpt_oss","dtype":"bf16"})"),
              b = make(blocks, R"({"family":"gpt_oss","dtype":"mxfp4"})");
  const auto& x = std::get<MoeWeights>(a.weights.layers[1].ffn);
  const auto& y = std::get<MoeWeights>(b.weights.layers[1].ffn);
  CHECK(y.gate[3].dtype == DType::mxfp4);
  CHECK(y.gate[3].row_stride == 2 * y.gate[3].cols);  // interleaved with up
  for (auto [m, n] :
       {std::pair(&x.gate[3], &y.gate[3]), std::pair(&x.up[5], &y.up[5]), std::pair(&x.down[7], &y.down[7])}) {
    double error = 0, size = 0;
    for (int64_t r = 0; r < m->rows; ++r)
      for (int64_t c = 0; c < m->cols; ++c) {
        error += std::pow(value_at(*m, r, c) - value_at(*n, r, c), 2);
        size += std::pow(value_at(*m, r, c), 2);
      }
    CHECK(error / size < 0.02);
    CHECK(error > 0);
  }
  CHECK(stored_bytes(y.gate[0]) == 64 * 64 / 2 + 64 * 64 / 32);
}

TEST_CASE("matrices are views into the file, transposed and unaligned ones are copies") {
  TemporaryDirectory directory;
  LoadedModel loaded = make(directory, R"({"family":"mixtral","dtype":"bf16"})");
  const auto file = loaded.resolved.files->open("model.safetensors");
  const auto& moe = std::get<MoeWeights>(loaded.weights.layers[0].ffn);
  CHECK(std::memcmp(moe.gate[2].data, file->data(file->at("model.layers.0.block_sparse_moe.experts.2.w1.weight")),
                    64) == 0);
  CHECK(reinterpret_cast<uintptr_t>(loaded.weights.final_norm.data) % 64 == 0);

  // The same file with one byte more of header: every tensor lies at an odd address.
  Files files = made_model(R"({"family":"mixtral","dtype":"bf16"})");
  std::string& bytes = files.at("model.safetensors");
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  ++length;
  std::memcpy(bytes.data(), &length, 8);
  bytes.insert(8, " ");
  std::map<std::string, std::span<const std::byte>> memory;
  for (const auto& [name, text] : files) memory.emplace(name, std::as_bytes(std::span(text)));
  const auto odd = open_memory("memory", memory);
  LoadedModel unaligned = load_model(ResolvedModel{"memory", "memory", "", odd});
  CHECK(values(unaligned) == values(loaded));
}

TEST_CASE("tied embeddings: one matrix, two equal ones, two different ones") {
  TemporaryDirectory directory;
  LoadedModel tied = make(directory, R"({"family":"olmoe","config":{"tie_word_embeddings":true}})");
  CHECK(tied.model.tied_embeddings);
  CHECK(tied.weights.lm_head.data == tied.weights.embed.data);
  // A checkpoint with a head of its own under a config that says tied: the head counts, as in transformers.
  Files files = made_model(R"({"family":"olmoe"})");
  std::string& config = files.at("config.json");
  config.replace(config.find("\"tie_word_embeddings\": false"), 28, "\"tie_word_embeddings\": true");
  std::map<std::string, std::span<const std::byte>> memory;
  for (const auto& [name, text] : files) memory.emplace(name, std::as_bytes(std::span(text)));
  const LoadedModel other = load_model(ResolvedModel{"memory", "memory", "", open_memory("memory", memory)});
  CHECK(!other.model.tied_embeddings);
  CHECK(other.weights.lm_head.data != other.weights.embed.data);
}

TEST_CASE("end tokens are the union of the files; texts come from the tokenizer's config") {
  TemporaryDirectory directory;
  make(directory, R"({"family":"mixtral","tokenizer":"bytes","config":{"eos_token_id":[9,257]}})");
  write_file(directory / "generation_config.json", R"({"eos_token_id":[300,9],"temperature":0.5})");
  const LoadedConfig config = load_config(directory.path().string());
  CHECK(config.stop_tokens == std::vector<int32_t>{9, 257, 300});
  CHECK(config.bos_token == 256);
  CHECK(config.eos_text == "<|end|>");
  write_file(directory / "tokenizer_config.json",
             R"({"bos_token":{"__type":"AddedToken","content":"<x>"},"eos_token":null})");
  CHECK(load_config(directory.path().string()).bos_text == "<x>");
  CHECK(!load_config(directory.path().string()).eos_text);
}

TEST_CASE("keys of generation_config.json that change greedy text are told, values that change nothing are not") {
  TemporaryDirectory directory;
  make(directory, R"({"family":"mixtral"})");
  const auto told = [&](const std::string& text) {
    write_file(directory / "generation_config.json", text);
    return unapplied_generation(*resolve_model(directory.path().string()).files);
  };
  CHECK(told(R"({"temperature":0.5,"top_p":0.8,"do_sample":true,"max_new_tokens":20,"repetition_penalty":1.0,
                 "no_repeat_ngram_size":0,"suppress_tokens":[],"num_beams":1,"min_length":0,"bad_words_ids":null,
                 "guidance_scale":1,"token_healing":false,"sequence_bias":{}})")
            .empty());
  CHECK(told(R"({"repetition_penalty":1.05,"no_repeat_ngram_size":3,"suppress_tokens":[5],"num_beams":4,
                 "stop_strings":"x","forced_eos_token_id":0})") ==
        std::vector<std::string>{"repetition_penalty = 1.05", "no_repeat_ngram_size = 3", "num_beams = 4",
                                 "suppress_tokens = [5]", "forced_eos_token_id = 0", "stop_strings = \"x\""});
}

TEST_CASE("SHA-256 of known messages") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1'000'000, 'a');
  Sha256 pieces;
  for (size_t at = 0; at < million.size(); at += 977) pieces.update(std::string_view(million).substr(at, 977));
  CHECK(pieces.hex() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
