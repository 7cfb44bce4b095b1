// train lora held to PEFT and torch.optim.AdamW (tests/adapters/lora_goldens.py), its files in both forms, and bits
// that depend on no interruption and no threads.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/csv.h"
#include "base/safetensors.h"
#include "loaders/open.h"
#include "loaders/peft/config.h"
#include "loaders/peft/read.h"
#include "loaders/peft/write.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"
#include "tools/signalbox/lora_targets.h"
#include "train/trained_adapters.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::engine;
namespace fs = std::filesystem;
namespace peft = signalbox::loaders::peft;

constexpr std::string_view key_prefix = "base_model.model.model.layers.";

// What a module of a golden's key is here.
std::string part_of(const std::string& module) {
  const struct {
    const char *module, *part;
  } parts[] = {{"self_attn.q_proj", "q"},
               {"self_attn.k_proj", "k"},
               {"self_attn.v_proj", "v"},
               {"self_attn.o_proj", "o"},
               {"self_attn.kv_a_proj_with_mqa", "kv_a"},
               {"self_attn.kv_b_proj", "kv_b"},
               {"mlp.gate", "router"},
               {"mlp.shared_experts.gate_proj", "shared.gate"},
               {"mlp.shared_experts.up_proj", "shared.up"},
               {"mlp.shared_experts.down_proj", "shared.down"},
               {"mlp.experts.base_layer", "expert.gate"},
               {"mlp.experts", "expert.down"}};
  for (const auto& one : parts)
    if (module == one.module) return one.part;
  FAIL("an unknown module: " << module);
  return "";
}

// Adapters whose A begin as the script's.
class Started : public TrainedAdapters {
 public:
  Started(Session& session, const std::vector<TensorId>& targets, const AdapterSettings& settings, int threads,
          const json::Ref* finals)
      : TrainedAdapters(session, targets, settings, threads) {
    if (!finals) return;
    int64_t n = 0;
    for (const auto& one : finals->members()) {
      const std::string key = one.first.substr(key_prefix.size());
      const size_t dot = key.find('.'), end = key.rfind(".lora_A.weight");
      if (end != std::string::npos) start(key.substr(0, dot), part_of(key.substr(dot + 1, end - dot - 1)), n);
      ++n;
    }
    on_change();
  }
  float value(size_t parameter, size_t i) const { return parameters_[parameter].weight()[i]; }
  // b of something that has been trained.
  void fill_b() {
    for (Parameter& one : parameters_)
      for (size_t i = 0; one.name.ends_with(".b") && i < one.n(); ++i)
        one.weight()[i] = 0.1f * std::cos(0.3f * static_cast<float>(i));
    on_change();
  }

 private:
  void start(const std::string& layer, const std::string& part, int64_t n) {
    bool found = false;
    for (Parameter& one : parameters_) {
      int64_t expert = 0;
      std::string name = one.name;
      if (part.starts_with("expert.")) {
        const std::string before = "layer." + layer + ".expert.";
        if (!name.starts_with(before)) continue;
        expert = std::atoll(name.c_str() + before.size());
        name = "layer." + layer + ".expert" + name.substr(name.find('.', before.size()));
      }
      if (name != "layer." + layer + "." + part + ".a") continue;
      found = true;
      for (int64_t r = 0; r < one.rows; ++r)
        for (int64_t c = 0; c < one.cols; ++c) {
          const double i = static_cast<double>(expert * one.rows + r);
          one.weight()[r * one.cols + c] = static_cast<float>(
              0.2 * std::cos(0.7 * i + 1.3 * static_cast<double>(c) + 0.11 * static_cast<double>(n)));
        }
    }
    CHECK(found);
  }
};

struct LoraRun {
  std::string model, parts;
  AdapterSettings adapters;
  TrainingSettings settings;
  const json::Ref* finals = nullptr;
  bool per_expert = false;
  int64_t n_records = 6;
  LoraRun(const std::string& name, std::string parts)
      : model((test::goldens_dir() / name / "model").string()), parts(std::move(parts)) {
    adapters.rank = 2;
    adapters.alpha = 3;
    settings.schedule = {Shape::constant, 0, 6, 0};
    settings.lr = 1e-2;
    settings.adam.decay = 0.1;
    settings.clip = 0.5;
    settings.batch = 4;
    settings.seed = 5;
    settings.save_every = 2;
  }
  TrainingEnd run(const fs::path& dir, int64_t stop_after = 1000) const {
    Session session = loaders::open_session(model, {});
    const loaders::families::Family& family = *loaders::families::find_family(session.family);
    tools::LoraTargets targets;
    targets.parts = parts;
    AdapterSettings own = adapters;
    own.shares_gate_up = !per_expert;
    Started trained(session, tools::lora_targets(targets, session.model), own, settings.threads, finals);
    std::atomic<bool> interrupted = false;
    Training training;
    training.session = &session;
    training.trained = &trained;
    for (int64_t i = 0; i < n_records; ++i) training.data.push_back(test::example(i));
    for (int64_t i = 0; i < 2; ++i) training.held_out.push_back(test::example(i + 10));
    training.dir = dir;
    training.manifest.schema = training_schema;
    training.settings = settings;
    training.result = peft::weights_name;
    training.write_result = [&] {
      peft::write_adapter(dir, family, session.model, trained.matrices(),
                          {own.rank, own.alpha, own.rslora, per_expert, "golden"});
    };
    training.interrupted = &interrupted;
    int64_t n = 0;
    training.on_step = [&](int64_t, int64_t, double) { interrupted = ++n >= stop_after; };
    return train::train(training);
  }
};

double norm_of(const safetensors::File& file, const std::string& key) {
  const safetensors::TensorInfo& info = file.at(key);
  double squares = 0;
  for (int64_t i = 0; i < info.elements(); ++i) {
    float value;
    std::memcpy(&value, file.data(info) + 4 * i, 4);
    squares += double{value} * double{value};
  }
  return std::sqrt(squares);
}

}  // namespace

TEST_CASE("train lora: losses, norms and the adapter are those of PEFT with AdamW") {
  const json::Value golden = json::parse_file(test::source_dir() / "tests/adapters/lora.json");
  const json::Ref root(golden, "lora.json");
  for (const auto& [name, parts] :
       {std::pair("mixtral", "router,experts,attention"), std::pair("deepseek_v2_lite", "attention,shared")}) {
    const std::string model = name;
    CAPTURE(model);
    test::TemporaryDirectory dir;
    const json::Ref expected = root.at(name), finals = expected.at("finals");
    LoraRun run(name, parts);
    run.finals = &finals;
    CHECK(run.run(dir / "out") == TrainingEnd::complete);
    const CsvTable log = CsvTable::read(dir / "out/log.csv");
    const std::vector<double> losses = test::numbers(expected.at("losses")),
                              norms = test::numbers(expected.at("norms"));
    REQUIRE(log.n_rows() == losses.size());
    for (size_t i = 0; i < losses.size(); ++i) {
      CHECK(std::abs(log.number(i, log.column("loss")) - losses[i]) < 2e-5);
      CHECK(std::abs(log.number(i, log.column("grad_norm")) / norms[i] - 1) < 3e-4);
    }
    const auto file = safetensors::File::open(dir / "out/adapter_model.safetensors");
    CHECK(file->tensors().size() == finals.members().size());
    for (const auto& one : finals.members()) {
      const std::string& key = one.first;
      CAPTURE(key);
      CHECK(std::abs(norm_of(*file, key) - one.second.number()) < 3e-4 * one.second.number());
    }
  }
}

TEST_CASE("train lora: an end at any step and other threads change no bit") {
  test::TemporaryDirectory dir;
  for (const bool per_expert : {false, true}) {
    LoraRun run("qwen2_moe", "");
    run.per_expert = per_expert;
    run.adapters.rslora = per_expert;
    const fs::path whole = dir / (per_expert ? "a" : "b"), parts = dir / (per_expert ? "c" : "d");
    CHECK(run.run(whole) == TrainingEnd::complete);
    run.settings.threads = 2;
    run.settings.groups.tokens = 1;
    CHECK(run.run(parts, 3) == TrainingEnd::interrupted);
    CHECK(fs::exists(parts / state_file));
    CHECK_FALSE(fs::exists(parts / peft::weights_name));
    while (run.run(parts, 1) == TrainingEnd::interrupted) continue;
    test::check_equal(whole, parts);
    CHECK(run.run(whole) == TrainingEnd::was_complete);
  }
}

TEST_CASE("train lora: both forms of a written adapter read back to the same numbers") {
  test::TemporaryDirectory dir;
  for (const char* name : {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2_lite", "gpt_oss"})
    for (const bool per_expert : {false, true}) {
      CAPTURE(name);
      CAPTURE(per_expert);
      Session session = loaders::open_session((test::goldens_dir() / name / "model").string(), {});
      const loaders::families::Family& family = *loaders::families::find_family(session.family);
      if (per_expert && std::string(name) == "gpt_oss") {
        CHECK_THROWS_WITH_AS(peft::check_form(family, session.model, true),
                             doctest::Contains("--per-expert: expected a family whose experts have modules"), Error);
        continue;
      }
      tools::LoraTargets chosen;
      chosen.parts = "router,experts,attention,lm_head";
      chosen.experts = "2:1,2:3-4";
      AdapterSettings settings;
      settings.rank = 3;
      settings.rslora = true;
      settings.shares_gate_up = !per_expert;
      Started trained(session, tools::lora_targets(chosen, session.model), settings, 1, nullptr);
      trained.fill_b();
      fs::create_directories(dir / "x");
      peft::write_adapter(dir / "x", family, session.model, trained.matrices(),
                          {settings.rank, settings.alpha, settings.rslora, per_expert, "golden"});
      const ModelAdapter read = peft::read_adapter(dir / "x", family, session.model);
      std::map<std::string, const Adapter*> found;
      for (const AdaptedMatrix& one : read.matrices) found[weight_name(one.id)] = &one.adapter;
      const std::vector<AdaptedMatrix> written = trained.matrices();
      CHECK(found.size() == written.size());
      for (const AdaptedMatrix& one : written) {
        const std::string matrix = weight_name(one.id);
        REQUIRE_MESSAGE(found.contains(matrix), matrix);
        const auto n = static_cast<size_t>(one.adapter.a.cols * one.adapter.b.rows);
        std::vector<float> a(n), b(n);
        add_product(a, one.adapter);
        add_product(b, *found[matrix]);
        double most = 0;
        for (size_t i = 0; i < n; ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
        CHECK(most < 1e-6);
      }
    }
}

TEST_CASE("train lora: eight records are learnt by heart (SIGNALBOX_LONG_TESTS)") {
  const char* asked = std::getenv("SIGNALBOX_LONG_TESTS");
  if (!asked || std::string(asked) != "1") return;
  test::TemporaryDirectory dir;
  LoraRun run("mixtral", "router,experts,attention,lm_head");
  run.n_records = 8;
  run.settings.batch = 8;
  run.settings.lr = 3e-3;
  run.settings.adam.decay = 0;
  run.settings.clip = 1;
  run.settings.schedule = {Shape::cosine, 10, 300, 0};
  run.settings.save_every = 0;
  run.adapters = {16, 32, false, true, 0};
  run.run(dir / "out");
  const CsvTable log = CsvTable::read(dir / "out/log.csv");
  CHECK(log.number(log.n_rows() - 1, log.column("loss")) < 0.05);
}
