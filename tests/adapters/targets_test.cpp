// What adapter_config.json says that an adapter changes: PEFT's own answers (tests/adapters/targets_goldens.py), and
// files whose tensors say otherwise.
#include "loaders/peft/targets.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "base/safetensors.h"
#include "loaders/open.h"
#include "loaders/peft/base_model.h"
#include "loaders/peft/places.h"
#include "loaders/peft/read.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::engine;
using namespace signalbox::loaders;
namespace fs = std::filesystem;

// Rank-one pairs of modules of a model, and whole tensors: a file that PEFT might have written.
class AdapterFile {
 public:
  AdapterFile(const fs::path& dir, const Session& session)
      : dir_(dir),
        session_(session),
        family_(*families::find_family(session.family)),
        places_(peft::find_places(family_, session.model)) {}

  void write(const std::string& config, const std::vector<std::string>& modules,
             const std::vector<std::string>& whole = {}) const {
    fs::create_directories(dir_);
    test::write_file(dir_ / "adapter_config.json",
                     R"({"peft_type":"LORA","r":1,"lora_alpha":1,"peft_version":"0.21.2")" + config + "}");
    std::vector<safetensors::TensorHeader> headers;
    for (const std::string& name : modules) {
      const std::string of = "base_model.model." + name;
      if (const auto found = places_.tensors.find(name + ".weight"); found != places_.tensors.end()) {
        headers.push_back({of + ".lora_A.weight", "F32", {1, found->second.cols}});
        headers.push_back({of + ".lora_B.weight", "F32", {found->second.rows, 1}});
        continue;
      }
      // The module of stacked experts: its last parameter.
      const peft::Stack& stack = places_.stacks.at(name).back();
      headers.push_back({of + ".lora_A.weight", "F32", {stack.n_experts, stack.cols}});
      headers.push_back({of + ".lora_B.weight", "F32", {stack.rows, stack.n_experts}});
    }
    for (const std::string& name : whole) {
      const TensorPlace& place = places_.tensors.at(name);
      headers.push_back({"base_model.model." + name, "F32", {place.rows, place.cols}});
    }
    safetensors::Writer writer(dir_ / "adapter_model.safetensors", headers);
    for (const safetensors::TensorHeader& header : headers) {
      const std::vector<float> values(static_cast<size_t>(header.shape[0] * header.shape[1]), 0.25f);
      writer.write(values.data(), values.size() * sizeof(float));
    }
    writer.finish();
  }

  ModelAdapter read() const { return peft::read_adapter(dir_, family_, session_.model); }

  // What is said of it; empty: it is read.
  std::string refusal(const std::string& config, const std::vector<std::string>& modules,
                      const std::vector<std::string>& whole = {}) const {
    write(config, modules, whole);
    try {
      read();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

 private:
  fs::path dir_;
  const Session& session_;
  const families::Family& family_;
  peft::Places places_;
};

std::vector<std::string> strings(const json::Ref& list) {
  std::vector<std::string> out;
  for (const json::Ref& item : list.items()) out.push_back(item.string());
  return out;
}

}  // namespace

TEST_CASE("adapters: targets are the modules that PEFT changes, and the file must have them all and no others") {
  const test::TemporaryDirectory dir;
  const json::Value root = json::parse_file(test::source_dir() / "tests/adapters/targets.json");
  std::map<std::string, Session> sessions;
  for (const json::Ref& one : json::Ref(root, "targets.json").at("cases").items()) {
    const std::string text = json::dump(one.at("config").value()), name = one.at("model").string();
    CAPTURE(name);
    CAPTURE(text);
    const peft::Targets targets(one.at("config"));
    const std::vector<std::string> changed = strings(one.at("targets"));
    const std::set<std::string> set(changed.begin(), changed.end());
    for (const std::string& module : strings(one.at("linear"))) {
      CAPTURE(module);
      CHECK(targets.why_not(module, module != "lm_head").empty() == set.contains(module));
    }
    // As a file: read when it has a pair of each of them; refused without one, and with one more.
    if (!sessions.contains(name)) sessions.emplace(name, open_session(test::golden_model(name), {}));
    const AdapterFile file(dir / "x", sessions.at(name));
    const std::string keys = "," + text.substr(1, text.size() - 2);
    // What is kept whole must be there, too: of a layer all would have to.
    if (text.find("modules_to_save") != std::string::npos) continue;
    const std::string said = file.refusal(keys, changed);
    CHECK_MESSAGE(said.empty(), said);
    CHECK(file.read().matrices.size() == changed.size());
    std::vector<std::string> fewer(changed.begin(), changed.end() - 1), more = changed;
    if (!fewer.empty() && changed.back().find("self_attn") != std::string::npos) {
      const std::string without = file.refusal(keys, fewer);
      CHECK_MESSAGE(without.find("target_modules: expected tensors in ") != std::string::npos, without);
      CHECK_MESSAGE(without.find("found none of \"" + changed.back() + "\"") != std::string::npos, without);
    }
    for (const std::string& module : strings(one.at("linear")))
      if (!set.contains(module) && more.size() == changed.size()) more.push_back(module);
    if (more.size() == changed.size()) continue;
    const std::string with = file.refusal(keys, more);
    CHECK_MESSAGE(with.find("adapter_model.safetensors: tensor \"base_model.model." + more.back() +
                            ".lora_A.weight\"") != std::string::npos,
                  with);
    CHECK_MESSAGE(with.find("adapter_config.json names for an adapter") != std::string::npos, with);
  }
}

TEST_CASE("adapters: a configuration that contradicts its tensors, or itself, is refused by both names") {
  const test::TemporaryDirectory dir;
  const Session session = open_session(test::golden_model("mixtral"), {});
  const AdapterFile file(dir / "x", session);
  const std::string q0 = "model.layers.0.self_attn.q_proj", q1 = "model.layers.1.self_attn.q_proj",
                    q2 = "model.layers.2.self_attn.q_proj", experts = "model.layers.0.mlp.experts";
  const struct {
    std::string config;
    std::vector<std::string> modules, whole;
    std::vector<const char*> says;
  } cases[] = {
      {R"(,"target_modules":["v_proj"])", {q0}, {}, {"q_proj.lora_A.weight\"", "is not one by its target_modules"}},
      {R"(,"target_modules":["q_proj"],"exclude_modules":"model.*.0.*")",
       {q0, q1, q2},
       {},
       {"layers.0.self_attn.q_proj\"", "is not one by its exclude_modules"}},
      {R"(,"target_modules":["q_proj"],"layers_to_transform":[0,1])",
       {q0, q1, q2},
       {},
       {"layers.2.self_attn.q_proj\"", "is not one by its layers_to_transform"}},
      {R"(,"target_modules":["q_proj"],"modules_to_save":["layers.1"])",
       {q0, q1, q2},
       {},
       {"layers.1.self_attn.q_proj\"", "is not one by its modules_to_save"}},
      {R"(,"target_modules":["q_proj"])", {q0, q2}, {}, {"target_modules: expected tensors in", "layers.1.self_attn"}},
      {R"(,"target_modules":["q_proj"],"target_parameters":["mlp.gate.weight"])",
       {q0, q1, q2},
       {},
       {"target_parameters: expected tensors in", "layers.0.mlp.gate\""}},
      {R"(,"target_parameters":["layers.0.mlp.experts.down_proj","layers.1.mlp.experts.down_proj"])",
       {experts},
       {},
       {"target_parameters: expected tensors in", "layers.1.mlp.experts.down_proj\""}},
      {R"(,"target_modules":["q_proj"])",
       {q0, q1, q2, experts},
       {},
       {"experts.lora_A.weight\"", "expected target_parameters in", "experts.gate_up_proj"}},
      {R"(,"target_modules":["q_proj"],"modules_to_save":["lm_head"])",
       {q0, q1, q2},
       {},
       {"modules_to_save: expected tensors in", "none of \"lm_head\""}},
      {R"(,"target_modules":["q_proj"])",
       {q0, q1, q2},
       {"model.layers.0.self_attn.k_proj.weight"},
       {"k_proj.weight\"", "expected modules_to_save in"}},
      {R"(,"target_modules":"q_proj","layers_to_transform":[0])",
       {q0},
       {},
       {"layers_to_transform: expected none beside"}},
      {R"(,"target_modules":["q_proj"],"layers_pattern":"layers")",
       {q0},
       {},
       {"expected layers_to_transform beside it"}},
      {R"(,"target_modules":{"q_proj":1})", {q0}, {}, {"target_modules: expected a list of names or a regular"}},
      {R"(,"target_modules":"(")", {q0}, {}, {"target_modules"}},
  };
  for (const auto& one : cases) {
    const std::string said = file.refusal(one.config, one.modules, one.whole);
    CAPTURE(one.config);
    for (const char* part : one.says) CHECK_MESSAGE(said.find(part) != std::string::npos, said);
    CHECK(said.find("adapter_config.json") != std::string::npos);
    CHECK(said.find('\n') == std::string::npos);
  }
  // And what agrees.
  CHECK(file.refusal("", {q0, q2}).empty());
  CHECK(file.refusal(R"(,"target_modules":["q_proj"],"target_parameters":["layers.0.mlp.experts.down_proj"])",
                     {q0, q1, q2, experts})
            .empty());
  CHECK(file.refusal(R"(,"target_modules":["q_proj"],"modules_to_save":["layers.1.self_attn"])", {q0, q2},
                     {"model.layers.1.self_attn.k_proj.weight"})
            .empty());
  CHECK(file.refusal(R"(,"target_modules":["q_proj"])", {q0, q1, q2}, {"lm_head.weight"}).empty());
}

TEST_CASE("adapters: one of another base model is told, and read") {
  const auto told = [](const std::string& name, const std::string& weights, const std::string& model,
                       const std::string& path, const std::string& own) {
    const ResolvedModel on{model, path, "", nullptr};
    return peft::other_base("DIR", {name, weights}, on, [&] { return own; });
  };
  CHECK(told("mistralai/Mixtral-8x7B-v0.1", "", "mistralai/Mixtral-8x7B-v0.1@main", "/cache/x", "").empty());
  CHECK(told("mistralai/Mixtral-8x7B-v0.1", "", "/models/mixtral-8x7b-v0.1/", "/models/mixtral-8x7b-v0.1", "").empty());
  CHECK(told("a/b", "", "/h/models--a--b/snapshots/0123", "/h/models--a--b/snapshots/0123", "").empty());
  CHECK(told("", "", "x", "x", "").empty());
  CHECK(told("a/b", "", "a/b-Instruct", "/cache/x", "") ==
        "DIR: made for a/b by its adapter_config.json, put on a/b-Instruct all the same");
  // Weights decide where they are known, whatever the names.
  CHECK(told("a/b", "12", "c/d", "/c/d", "12").empty());
  CHECK(told("a/b", "12", "a/b", "/a/b", "34") ==
        "DIR: made for other weights than those of a/b (for those of a/b), put on them all the same");
  // Directories are told apart whatever their last name.
  const test::TemporaryDirectory dir;
  fs::create_directories(dir / "one/model");
  fs::create_directories(dir / "two/model");
  const std::string one = (dir / "one/model").string(), two = (dir / "two/model").string();
  CHECK(told(one, "", two, two, "") != "");
  CHECK(told(one, "", one + "/", one, "").empty());
}
