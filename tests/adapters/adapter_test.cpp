// LoRA adapters held to PEFT's (tests/adapters/adapter_goldens.py), merged and beside the weights; axes and order of
// packed experts; several adapters in one batch; what is refused.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "engine/low_rank.h"
#include "loaders/open.h"
#include "loaders/peft/read.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"

namespace {

using namespace signalbox;
using namespace signalbox::engine;
using namespace signalbox::loaders;
namespace fs = std::filesystem;

struct Golden {
  const char *name, *model;
};
constexpr Golden goldens[] = {{"mixtral", "mixtral"},
                              {"mixtral_018", "mixtral"},
                              {"olmoe", "olmoe"},
                              {"qwen2_moe", "qwen2_moe"},
                              {"deepseek_v2_lite", "deepseek_v2_lite"},
                              {"gpt_oss", "gpt_oss"},
                              {"gpt_oss_018", "gpt_oss"},
                              {"mixtral_experts", "mixtral"},
                              {"qwen3_moe_experts", "qwen3_moe"}};

fs::path adapter_dir(const std::string& name) { return test::source_dir() / "tests/adapters" / name; }

Session open_with(const std::string& model, const std::vector<std::string>& adapters, bool merge = true) {
  OpenOptions options;
  options.threads = 2;
  options.adapters = adapters;
  options.merge_adapters = merge;
  return open_session(test::golden_model(model), options);
}

// Logits of the last tokens of records, [3, n_vocab]; each record in a forward of its own.
std::vector<float> last_logits(const Session& session, const AdapterSum* adapters) {
  std::vector<float> all;
  for (int64_t i = 0; i < 3; ++i) {
    const std::vector<int32_t> tokens = test::record_tokens(i);
    KvPool pool(*session.backend, session.model, KvPool::blocks_for(64));
    SequenceCache cache(pool);
    Batch batch;
    batch.append(cache, nullptr, 0, tokens, {}, static_cast<int64_t>(tokens.size()), 1);
    batch.members.back().adapters = adapters;
    Forward forward = session.forward(0);
    const Outputs outputs = forward.run(batch, nullptr);
    all.insert(all.end(), outputs.logits.row(0), outputs.logits.row(0) + session.model.n_vocab);
  }
  return all;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}

std::vector<float> stored(const fs::path& file, const char* name) {
  const auto opened = safetensors::File::open(file);
  const safetensors::TensorInfo& info = opened->at(name);
  std::vector<float> values(static_cast<size_t>(info.elements()));
  std::memcpy(values.data(), opened->data(info), info.bytes);
  return values;
}

const families::Family& family_of(const Session& session) { return *families::find_family(session.family); }

struct Tensor2 {
  std::string name;
  int64_t rows, cols;
  std::vector<float> values;
};

void write_adapter_files(const fs::path& dir, const std::string& config, const std::vector<Tensor2>& tensors) {
  fs::create_directories(dir);
  test::write_file(dir / "adapter_config.json", config);
  std::vector<safetensors::TensorHeader> headers;
  for (const Tensor2& one : tensors) headers.push_back({one.name, "F32", {one.rows, one.cols}});
  safetensors::Writer writer(dir / "adapter_model.safetensors", headers);
  for (const Tensor2& one : tensors) writer.write(one.values.data(), one.values.size() * sizeof(float));
  writer.finish();
}

std::vector<float> wave(int64_t n, double step) {
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<float>(std::cos(step * static_cast<double>(i) + step)));
  return values;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("adapters: logits are PEFT's, merged into the weights and beside them") {
  for (const Golden& golden : goldens) {
    CAPTURE(golden.name);
    const fs::path dir = adapter_dir(golden.name);
    const std::vector<float> expected = stored(dir / "logits.safetensors", "logits");
    const Session merged = open_with(golden.model, {dir.string()});
    CHECK(largest_difference(last_logits(merged, nullptr), expected) < 1e-5);
    const Session plain = open_with(golden.model, {});
    CHECK(largest_difference(last_logits(plain, nullptr), expected) > 1);
    CHECK(merged.model_hash != plain.model_hash);
    if (std::string(golden.name) == "qwen2_moe") {
      CHECK(message_of([&] { open_with(golden.model, {dir.string()}, false); }).find("lm_head whole") !=
            std::string::npos);
      continue;
    }
    const Session beside = open_with(golden.model, {dir.string()}, false);
    CHECK(beside.model_hash != merged.model_hash);
    CHECK(largest_difference(last_logits(beside, beside.beside.get()), expected) < 1e-5);
    // Without an adapter a sequence is as in the model itself, to the bit.
    CHECK(last_logits(beside, nullptr) == last_logits(plain, nullptr));
  }
}

TEST_CASE("adapters: b = 0 changes no bit, and only what an adapter changes is copied") {
  test::TemporaryDirectory dir;
  Session session = open_with("mixtral", {});
  const std::string config =
      R"({"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj"],"layers_to_transform":1})";
  const std::string q = "base_model.model.model.layers.1.self_attn.q_proj.lora_";
  write_adapter_files(dir / "zero", config,
                      {{q + "A.weight", 2, 32, wave(64, 0.3)}, {q + "B.weight", 32, 2, std::vector<float>(64)}});
  const std::vector<float> plain = last_logits(session, nullptr);
  CHECK(last_logits(open_with("mixtral", {(dir / "zero").string()}), nullptr) == plain);
  const Session beside = open_with("mixtral", {(dir / "zero").string()}, false);
  CHECK(last_logits(beside, beside.beside.get()) == plain);

  write_adapter_files(dir / "one", config,
                      {{q + "A.weight", 2, 32, wave(64, 0.3)}, {q + "B.weight", 32, 2, wave(64, 0.7)}});
  std::vector<ModelAdapter> read;
  read.push_back(peft::read_adapter(dir / "one", family_of(session), session.model));
  Weights weights = session.weights;
  Model model = session.model;
  merge_adapters(model, weights, read, 1);
  std::vector<const void*> before, after;
  for_each_tensor(session.model, session.weights,
                  [&](const TensorPlace& place) { before.push_back(place.matrix ? place.matrix->data : nullptr); });
  int64_t copied = 0;
  size_t i = 0;
  for_each_tensor(model, weights, [&](const TensorPlace& place) {
    if (place.matrix && place.matrix->data != before[i]) {
      ++copied;
      CHECK(weight_name(place.id) == "layer.1.q");
    }
    ++i;
  });
  CHECK(copied == 1);
}

TEST_CASE("adapters: of stacked experts the expert is the slower index of A and the faster of B") {
  test::TemporaryDirectory dir;
  // Three experts, rank 2; hidden and expert width are equal, so that only peft_version tells the axes of down_proj.
  const json::Value config = json::parse(
      R"({"model_type":"qwen3_moe","hidden_size":4,"num_hidden_layers":1,"num_attention_heads":1,
"num_key_value_heads":1,"head_dim":4,"intermediate_size":4,"moe_intermediate_size":4,"num_experts":3,
"num_experts_per_tok":1,"decoder_sparse_step":1,"norm_topk_prob":true,"vocab_size":8,"max_position_embeddings":16,
"rms_norm_eps":1e-6,"rope_theta":10000.0,"hidden_act":"silu","tie_word_embeddings":false})",
      "config.json");
  const families::Reading reading = families::read_config(config, "config.json");
  const int64_t n = 3, r = 2, d = 4;
  const std::vector<float> a = wave(n * r * d, 0.4), b = wave(d * r * n, 0.9);
  const std::string experts = "base_model.model.model.layers.0.mlp.experts.lora_";
  const auto read = [&](const std::string& version, const std::vector<float>& b_values) {
    write_adapter_files(
        dir / "x",
        R"({"peft_type":"LORA","r":2,"lora_alpha":3,"target_parameters":["experts.down_proj"])" + version + "}",
        {{experts + "A.weight", n * r, d, a}, {experts + "B.weight", d, r * n, b_values}});
    return peft::read_adapter(dir / "x", *reading.family, reading.model);
  };
  // A matrix [out, in] of zeros with the adapter: of expert e, s sum_k B[o, k n + e] A[e r + k, i].
  const auto check = [&](const ModelAdapter& adapter, bool swapped, bool expert_slowest) {
    REQUIRE(adapter.matrices.size() == 3);
    double most = 0;
    for (const AdaptedMatrix& one : adapter.matrices) {
      const int64_t e = one.id.expert;
      std::vector<float> values(static_cast<size_t>(d * d));
      add_product(values, one.adapter);
      for (int64_t o = 0; o < d; ++o)
        for (int64_t i = 0; i < d; ++i) {
          double sum = 0;
          for (int64_t k = 0; k < r; ++k) {
            const int64_t column = expert_slowest ? e * r + k : k * n + e;
            const int64_t row_b = swapped ? i : o, col_a = swapped ? o : i;
            sum +=
                1.5 * b[static_cast<size_t>(row_b * r * n + column)] * a[static_cast<size_t>((e * r + k) * d + col_a)];
          }
          most = std::max(most, std::abs(sum - values[static_cast<size_t>(o * d + i)]));
        }
    }
    return most;
  };
  const std::string now = R"(,"peft_version":"0.21.2")", old = R"(,"peft_version":"0.18.1")";
  CHECK(check(read(now, b), false, false) < 1e-6);
  CHECK(check(read(now, b), false, true) > 0.1);
  CHECK(check(read(old, b), true, false) < 1e-6);
  CHECK(check(read(old, b), false, false) > 0.1);
  CHECK(message_of([&] { read("", b); }).find("expected a peft_version") != std::string::npos);
  CHECK(message_of([&] { read(R"(,"peft_version":"0.18.2.dev0")", b); }).find("expected a peft_version") !=
        std::string::npos);
}

TEST_CASE("adapters: sequences of one batch with different ones give the bits that they give alone") {
  const std::string model = "mixtral";
  const Session session = open_with(model, {});
  const auto sum = [&](const std::vector<const char*>& names) {
    std::vector<ModelAdapter> adapters;
    for (const char* name : names)
      adapters.push_back(peft::read_adapter(adapter_dir(name), family_of(session), session.model));
    return std::make_shared<const AdapterSum>(std::move(adapters));
  };
  const std::shared_ptr<const AdapterSum> sums[] = {nullptr, sum({"mixtral"}), sum({"mixtral_018"}),
                                                    sum({"mixtral", "mixtral_018"})};
  std::vector<Job> jobs;
  const auto prompt = std::make_shared<Prompt>("r", test::record_tokens(3));
  for (size_t i = 0; i < std::size(sums); ++i) {
    Job job;
    job.index = static_cast<int64_t>(i);
    job.prompt = prompt;
    job.adapters = sums[i];
    job.task = Score{};
    jobs.push_back(job);
  }
  const auto hashes = [&](const std::vector<Job>& of, int64_t chunk) {
    RunOptions options = session.options;
    options.batch = 8;
    options.chunk = chunk;
    std::vector<std::pair<uint64_t, std::vector<double>>> found(jobs.size());
    RunEvents events;
    events.on_done = [&](Result result) {
      found[static_cast<size_t>(result.index)] = {result.logits_hash, result.logprobs};
    };
    CHECK(session.run(of, options, events, nullptr));
    return found;
  };
  const auto together = hashes(jobs, 64), chunked = hashes(jobs, 5);
  for (const Job& job : jobs) {
    const auto i = static_cast<size_t>(job.index);
    CHECK(together[i].first == hashes({job}, 64)[i].first);
    CHECK(together[i].first == chunked[i].first);
    for (size_t other = 0; other < i; ++other) CHECK(together[i].first != together[other].first);
  }
  // The sum of two is what both give merged.
  const Session merged = open_with(model, {adapter_dir("mixtral").string(), adapter_dir("mixtral_018").string()});
  CHECK(largest_difference(last_logits(session, sums[3].get()), last_logits(merged, nullptr)) < 1e-4);
}

TEST_CASE("adapters: what cannot be applied is refused by name") {
  test::TemporaryDirectory dir;
  const Session session = open_with("mixtral", {});
  const std::string good = R"("peft_type":"LORA","r":2,"lora_alpha":4)";
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
  const Tensor2 a{q + "A.weight", 2, 32, wave(64, 0.3)}, b{q + "B.weight", 32, 2, wave(64, 0.7)};
  const auto refusal = [&](const std::string& config, const std::vector<Tensor2>& tensors) {
    write_adapter_files(dir / "x", "{" + config + "}", tensors);
    return message_of([&] { peft::read_adapter(dir / "x", family_of(session), session.model); });
  };
  const auto renamed = [](Tensor2 tensor, const std::string& name) {
    tensor.name = name;
    return tensor;
  };
  CHECK(refusal(good, {a, b}).empty());
  const struct {
    std::string config;
    std::vector<Tensor2> tensors;
    const char* says;
  } cases[] = {
      {R"("peft_type":"LOHA")", {a, b}, "peft_type: expected \"LORA\""},
      {good + R"(,"use_dora":true)", {a, b}, "use_dora: expected no such key"},
      {good + R"(,"fan_in_fan_out":true)", {a, b}, "fan_in_fan_out: expected no such key"},
      {good + R"(,"bias":"all")", {a, b}, "bias: expected \"none\""},
      {good + R"(,"init_lora_weights":"pissa_niter_4")", {a, b}, "init_lora_weights: expected an initialisation"},
      {good + R"(,"trainable_token_indices":[3])", {a, b}, "trainable_token_indices: expected no such key"},
      {R"("peft_type":"LORA","r":3,"lora_alpha":4)", {a, b}, "expected the rank 3"},
      {good, {a}, "expected a lora_B of the same module beside it"},
      {good, {renamed(a, "layers.0.x"), b}, "expected a name that begins with \"base_model.model.\""},
      {good, {renamed(a, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight")}, "expected a lora_B"},
      {good,
       {renamed(a, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"),
        renamed(b, "base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight")},
       "expected the name of one of the model's modules, found \"model.layers.7.self_attn.q_proj\""},
      {good,
       {renamed(a, "base_model.model.model.layers.0.block_sparse_moe.experts.8.w1.lora_A.weight"),
        renamed(b, "base_model.model.model.layers.0.block_sparse_moe.experts.8.w1.lora_B.weight")},
       "found \"model.layers.0.block_sparse_moe.experts.8.w1\""},
      {good, {a, {q + "B.weight", 16, 2, wave(32, 0.7)}}, "expected the shape [32, 2], found [16, 2]"},
      {good, {a, {q + "B.weight", 32, 2, std::vector<float>(64, INFINITY)}}, "expected finite values"},
      {good, {a, b, {q + "magnitude_vector", 1, 32, wave(32, 1)}}, "expected the name of one of the model's modules"},
  };
  for (const auto& one : cases) {
    const std::string found = refusal(one.config, one.tensors);
    CHECK_MESSAGE(found.find(one.says) != std::string::npos, found);
    CHECK_MESSAGE(found.find('\n') == std::string::npos, found);
  }
  CHECK(message_of([&] { peft::read_adapter(dir / "none", family_of(session), session.model); }) != "");
  CHECK(message_of([&] { open_with("mixtral", {adapter_dir("gpt_oss").string()}); }) != "");
}
