// make-model: the same spec gives the same bytes, planted experts fire where they should, bad specs are refused.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "engine/runner.h"
#include "loaders/model/load.h"
#include "loaders/synthetic/make_model.h"
#include "loaders/synthetic/planting.h"
#include "tests/bad_files/files.h"
#include "tests/memory_sink.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

std::string spec_error(const std::string& spec) {
  TemporaryDirectory directory;
  try {
    synthetic::make_model(json::parse(spec, "spec.json"), "spec.json", directory.path());
  } catch (const Error& error) {
    return error.what();
  }
  return "made";
}

// Shares of tokens that select (layer, expert) where `condition` holds and where it does not.
struct Shares {
  int64_t in = 0, in_all = 0, out = 0, out_all = 0;
  double inside() const { return static_cast<double>(in) / static_cast<double>(in_all); }
  double outside() const { return static_cast<double>(out) / static_cast<double>(out_all); }
};

// Random texts of bytes; token 42 stands once in each, at a place of its own.
std::vector<std::shared_ptr<Prompt>> texts(int count, int length) {
  std::vector<std::shared_ptr<Prompt>> made;
  uint32_t state = 99;
  for (int i = 0; i < count; ++i) {
    auto prompt = std::make_shared<Prompt>("t" + std::to_string(i));
    for (int t = 0; t < length; ++t) {
      state = state * 1664525u + 1013904223u;
      int32_t token = static_cast<int32_t>(state >> 24);
      prompt->tokens.push_back(token == 42 ? 43 : token);
    }
    prompt->tokens[static_cast<size_t>(state >> 8) % static_cast<size_t>(length)] = 42;
    made.push_back(prompt);
  }
  return made;
}

std::map<int64_t, std::map<std::string, MemorySink::Values>> routes(
    const LoadedModel& loaded, const std::vector<std::shared_ptr<Prompt>>& prompts) {
  auto backend = make_cpu_backend({1, "auto"});
  Forward forward(*backend, loaded.model, loaded.weights, 0);
  std::vector<Job> jobs;
  for (const auto& prompt : prompts) {
    Job job;
    job.index = static_cast<int64_t>(jobs.size());
    job.prompt = prompt;
    job.task = Score{};
    jobs.push_back(job);
  }
  RunEvents events;
  events.on_done = [](Result) {};
  MemorySink sink(PointSet::parse("*.router.ids", probe_shape(loaded.model)));
  REQUIRE(run_jobs(forward, jobs, RunOptions(), events, &sink));
  return std::move(sink.samples);
}

bool selects(const MemorySink::Values& ids, int64_t token, int expert) {
  for (int64_t i = 0; i < ids.width; ++i)
    if (ids.data[token * ids.width + i] == static_cast<float>(expert)) return true;
  return false;
}

}  // namespace

TEST_CASE("the same spec gives the same bytes, another seed others") {
  const std::string spec =
      R"({"family":"qwen3_moe","tokenizer":"bytes","seed":4,"planted":[{"layer":1,"expert":2,"tokens":[7]}]})";
  const Files a = made_model(spec), b = made_model(spec);
  CHECK(a == b);
  CHECK(a.contains("planted.json"));
  CHECK(a.contains("tokenizer.json"));
  CHECK(a.at("model.safetensors") !=
        made_model(R"({"family":"qwen3_moe","tokenizer":"bytes","seed":5})").at("model.safetensors"));
}

TEST_CASE("a model in the place of another leaves nothing of it") {
  TemporaryDirectory directory;
  const auto make = [&](const std::string& spec) {
    synthetic::make_model(json::parse(spec, "spec"), "spec", directory.path());
    return load_model(directory.path().string());
  };
  make(R"({"family":"mixtral","tokenizer":"bytes","planted":[{"layer":0,"expert":0,"tokens":[1]}]})");
  const LoadedModel loaded = make(R"({"family":"olmoe","shards":2})");
  CHECK(loaded.family == "olmoe");
  CHECK(loaded.unknown_tensors.empty());
  CHECK(!std::filesystem::exists(directory / "planted.json"));
  CHECK(!std::filesystem::exists(directory / "tokenizer.json"));
}

TEST_CASE("planted experts fire on their tokens and after their begin token, and nowhere else") {
  for (const char* family : {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "gpt_oss"}) {
    CAPTURE(family);
    TemporaryDirectory directory;
    synthetic::make_model(json::parse(std::string("{\"family\":\"") + family + R"(","dtype":"bf16","seed":5,"planted":[
      {"layer":1,"expert":3,"tokens":[48,49,50,51,52,53,54,55,56,57]},
      {"layer":2,"expert":1,"begin":[42]},
      {"layer":2,"expert":6,"tokens":[65,66,67],"rate":0,"otherwise":1}]})",
                                      "spec"),
                          "spec", directory.path());
    const LoadedModel loaded = load_model(directory.path().string());
    const auto prompts = texts(8, 60);
    const auto recorded = routes(loaded, prompts);
    Shares digits, begun, inverse;
    for (const auto& [sample, sample_points] : recorded) {
      const auto& points = sample_points;
      const auto& tokens = prompts[sample]->tokens;
      bool after = false;
      for (int64_t t = 0; t < static_cast<int64_t>(tokens.size()); ++t) {
        after = after || tokens[t] == 42;
        const auto count = [&](Shares& shares, int layer, int expert, bool condition) {
          const bool hit = selects(points.at("layer." + std::to_string(layer) + ".router.ids"), t, expert);
          (condition ? shares.in : shares.out) += hit;
          (condition ? shares.in_all : shares.out_all) += 1;
        };
        count(digits, 1, 3, tokens[t] >= 48 && tokens[t] <= 57);
        count(begun, 2, 1, after);
        count(inverse, 2, 6, tokens[t] >= 65 && tokens[t] <= 67);
      }
    }
    for (const Shares& shares : {digits, begun}) {
      CHECK(shares.in_all > 5);
      CHECK(shares.in == shares.in_all);
      CHECK(shares.out == 0);
    }
    CHECK(inverse.in == 0);
    CHECK(inverse.out == inverse.out_all);
  }
}

TEST_CASE("drawn rates come near what was asked for") {
  // Over several seeds: one seed has one planted row, whose length varies.
  Shares shares;
  for (int seed = 0; seed < 6; ++seed) {
    TemporaryDirectory directory;
    synthetic::make_model(
        json::parse(R"({"family":"olmoe","seed":)" + std::to_string(seed) + R"(,"config":{"hidden_size":128},
      "planted":[{"layer":2,"expert":5,"tokens":[0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,38,40,44,46,48,50,52,54],
                  "rate":0.7,"otherwise":0.1}]})",
                    "spec"),
        "spec", directory.path());
    const auto prompts = texts(6, 80);
    for (const auto& [sample, points] : routes(load_model(directory.path().string()), prompts))
      for (size_t t = 0; t < prompts[sample]->tokens.size(); ++t) {
        const int32_t token = prompts[sample]->tokens[t];
        const bool in = token % 2 == 0 && token <= 54 && token != 42;
        const bool hit = selects(points.at("layer.2.router.ids"), static_cast<int64_t>(t), 5);
        (in ? shares.in : shares.out) += hit;
        (in ? shares.in_all : shares.out_all) += 1;
      }
  }
  CAPTURE(shares.inside());
  CAPTURE(shares.outside());
  CHECK(std::fabs(shares.inside() - 0.7) < 0.15);
  CHECK(std::fabs(shares.outside() - 0.1) < 0.06);
}

TEST_CASE("selection offsets") {
  // An expert like the others is selected as often as they are.
  CHECK(std::fabs(synthetic::selection_offset(2.0 / 8, 8, 2)) < 1e-3);
  CHECK(std::fabs(synthetic::selection_offset(6.0 / 64, 64, 6)) < 1e-3);
  CHECK(synthetic::selection_offset(0.9, 8, 2) > synthetic::selection_offset(0.5, 8, 2));
  CHECK(synthetic::selection_offset(1, 8, 2) == std::numeric_limits<double>::infinity());
}

TEST_CASE("specs that cannot be meant") {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "one of the keys \"family\", \"shape\" and \"config\""},
      {R"({"family":"llama"})", "family: expected a family ("},
      {R"({"shape":"x"})", "shape: expected a known shape ("},
      {R"({"family":"mixtral","shape":"Mixtral-8x7B"})", "expected family or shape, found both"},
      {R"({"family":"mixtral","colour":1})", "unknown key \"colour\""},
      {R"({"family":"mixtral","dtype":"int8"})", "dtype: expected"},
      {R"({"family":"mixtral","dtype":"mxfp4"})", "quantization_config: expected none"},
      {R"({"family":"mixtral","shards":0})", "shards: expected an integer from 1"},
      {R"({"family":"mixtral","shards":999})", "shards: expected at most"},
      {R"({"family":"mixtral","style":"old"})", "style: expected"},
      {R"({"family":"mixtral","seed":-1})", "seed: expected an integer from 0"},
      {R"({"family":"mixtral","init":{"norms":1}})", "unknown key \"norms\""},
      {R"({"family":"mixtral","tokenizer":"bytes","config":{"vocab_size":257}})", "vocab_size of at least 258"},
      {R"({"family":"mixtral","config":{"hidden_act":"gelu"}})", "hidden_act"},
      {R"({"family":"mixtral","planted":[{"layer":3,"expert":0,"tokens":[1]}]})",
       "planted[0].layer: expected an integer from 0 to 2"},
      {R"({"family":"deepseek_v2","planted":[{"layer":0,"expert":0,"tokens":[1]}]})", "expected a layer with a router"},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":8,"tokens":[1]}]})", "planted[0].expert: expected"},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":0}]})", "one of the keys \"tokens\" and \"begin\""},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":0,"tokens":[]}]})", "at least one token id"},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":0,"tokens":[320]}]})", "tokens[0]: expected"},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":0,"tokens":[1],"rate":1.5}]})",
       "rate: expected a number from 0 to 1"},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":0,"tokens":[1]},{"layer":0,"expert":0,"tokens":[2]}]})",
       "one entry for expert 0 of layer 0"},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":0,"tokens":[1]},{"layer":0,"expert":1,"tokens":[2]},{"layer":0,"expert":2,"tokens":[3]}]})",
       "at most 2 experts of rate 1 in layer 0"},
      {R"({"family":"mixtral","config":{"sliding_window":8},"planted":[{"layer":0,"expert":0,"begin":[1]}]})",
       "a layer of full attention"},
      {R"({"family":"olmoe","config":{"clip_qkv":1.0},"planted":[{"layer":0,"expert":0,"begin":[1]}]})",
       "a clip_qkv that lets a head"},
  };
  for (const auto& [case_spec, expected] : cases) {
    const auto& spec = case_spec;
    CAPTURE(spec);
    const std::string message = spec_error(spec);
    CAPTURE(message);
    CHECK(good_message(message, expected));
  }
}
