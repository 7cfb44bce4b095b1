// Bits do not depend on batch, chunk, threads, instruction set, forks or recording; no-op edits and the replay of a
// run's own trace change nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "engine/runner.h"
#include "eval/data/records.h"
#include "loaders/model/load.h"
#include "probes/trace.h"
#include "tests/memory_sink.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
namespace fs = std::filesystem;

const fs::path goldens = test::source_dir() / "tests/goldens";
const char* const cases[] = {"deepseek_v2_lite", "deepseek_v2_full", "mixtral_bf16", "olmoe",
                             "qwen2_moe",        "qwen3_moe",        "gpt_oss",      "gpt_oss_mxfp4"};

// Prompts of different lengths, among them one of a single token and one longer than a block of the KV cache.
std::vector<std::shared_ptr<Prompt>> prompts(int64_t n_vocab) {
  std::vector<std::shared_ptr<Prompt>> made;
  uint32_t state = 12345;
  for (int64_t length : {1, 5, 33, 40, 17, 70}) {
    auto prompt = std::make_shared<Prompt>("r" + std::to_string(made.size()));
    for (int64_t t = 0; t < length; ++t) {
      state = state * 1664525u + 1013904223u;
      prompt->tokens.push_back(static_cast<int32_t>((state >> 8) % n_vocab));
    }
    made.push_back(prompt);
  }
  return made;
}

struct Setup {
  std::string isa = "auto";
  int threads = 0;
  int64_t batch = 8, chunk = 512;
  bool reverse = false;
  std::string points;  // recorded; empty = none
  std::shared_ptr<const EditPlan> plan;
  int samples = 1;
  double temperature = 0;
  bool score = false;
};

struct Outcome {
  std::vector<uint64_t> hashes;
  std::vector<std::vector<int32_t>> tokens;
  std::map<int64_t, std::map<std::string, test::MemorySink::Values>> points;
};

Outcome run(const LoadedModel& loaded, const Setup& setup) {
  auto backend = make_cpu_backend({setup.threads, setup.isa});
  Forward forward(*backend, loaded.model, loaded.weights, setup.plan ? setup.plan->max_slots() : 0);
  std::vector<Job> jobs;
  for (const auto& prompt : prompts(loaded.model.n_vocab)) {
    for (int s = 0; s < setup.samples; ++s) {
      Job job;
      job.index = static_cast<int64_t>(jobs.size());
      job.prompt = prompt;
      job.sample = static_cast<uint32_t>(s);
      if (setup.score)
        job.task = Score{};
      else
        job.task = Generate{12, {.temperature = setup.temperature}};
      job.plan = setup.plan;
      jobs.push_back(job);
    }
  }
  Outcome out;
  out.hashes.resize(jobs.size());
  out.tokens.resize(jobs.size());
  if (setup.reverse) std::reverse(jobs.begin(), jobs.end());
  RunOptions options;
  options.batch = setup.batch;
  options.chunk = setup.chunk;
  RunEvents events;
  events.on_done = [&](Result result) {
    out.hashes[result.index] = result.logits_hash;
    out.tokens[result.index] = result.tokens;
  };
  test::MemorySink sink(setup.points.empty() ? PointSet() : PointSet::parse(setup.points, probe_shape(loaded.model)));
  REQUIRE(run_jobs(forward, jobs, options, events, setup.points.empty() ? nullptr : &sink));
  out.points = std::move(sink.samples);
  return out;
}

bool same_points(const Outcome& a, const Outcome& b) {
  if (a.points.size() != b.points.size()) return false;
  for (const auto& [sample, points] : a.points)
    for (const auto& [name, values] : points) {
      const auto& other = b.points.at(sample).at(name);
      if (values.data.size() != other.data.size() ||
          std::memcmp(values.data.data(), other.data.data(), values.data.size() * sizeof(float)) != 0)
        return false;
    }
  return true;
}

std::shared_ptr<const EditPlan> plan_of(const std::string& text, const LoadedModel& loaded,
                                        const fs::path& base = ".") {
  const json::Value value = json::parse(text, "edits");
  return EditPlan::parse(json::Ref(value, "edits"), base, probe_shape(loaded.model), 7);
}

}  // namespace

TEST_CASE("bits do not depend on batch, chunk, order, threads or instruction set" *
          doctest::test_suite("repeats: the same kernels on the same values, to compare bits")) {
  for (const char* name : cases) {
    CAPTURE(name);
    const LoadedModel loaded = load_model((goldens / name / "model").string());
    for (const bool score : {false, true}) {
      Setup base;
      base.batch = 1;
      base.threads = 1;
      base.score = score;
      base.points = "*";
      const Outcome expected = run(loaded, base);
      Setup others[5];
      others[0].batch = 3, others[0].chunk = 1;
      others[1].batch = 8, others[1].chunk = 7;
      others[2].threads = 2, others[2].batch = 31, others[2].chunk = 64;
      others[3].threads = 3, others[3].batch = 2, others[3].reverse = true;
      others[4].isa = "scalar", others[4].batch = 5, others[4].chunk = 16;
      for (const Setup& other : others) {
        Setup setup = other;
        setup.score = score;
        setup.points = base.points;
        const Outcome found = run(loaded, setup);
        CHECK(found.hashes == expected.hashes);
        CHECK(found.tokens == expected.tokens);
        CHECK(same_points(found, expected));
        setup.points.clear();
        CHECK(run(loaded, setup).hashes == expected.hashes);  // recording changes nothing
      }
    }
  }
}

TEST_CASE("samples of a prompt share its cache and equal separate runs") {
  for (const char* name : {"deepseek_v2_lite", "gpt_oss"}) {
    const LoadedModel loaded = load_model((goldens / name / "model").string());
    Setup shared;
    shared.samples = 5;
    shared.temperature = 1;
    Setup separate = shared;
    separate.points = "*.router.ids";  // while recording, every sample runs its own prompt
    const Outcome a = run(loaded, shared), b = run(loaded, separate);
    CHECK(a.tokens == b.tokens);
    CHECK(a.hashes == b.hashes);
    CHECK(a.tokens[10] != a.tokens[11]);  // samples do differ
    shared.batch = 2;
    CHECK(run(loaded, shared).hashes == a.hashes);
  }
}

TEST_CASE("edits that act on generated tokens share the prompt's cache and equal separate runs") {
  const LoadedModel loaded = load_model((goldens / "deepseek_v2_lite" / "model").string());
  const auto plan =
      plan_of(R"({"edits":[{"op":"misroute","policy":"random","tokens":{"phase":"generated"}}]})", loaded);
  Setup shared;
  shared.samples = 3;
  shared.plan = plan;
  Setup separate = shared;
  separate.points = "*.router.ids";
  CHECK(run(loaded, shared).hashes == run(loaded, separate).hashes);
}

TEST_CASE("no-op edits leave the bits as they are, others do not") {
  for (const char* name : cases) {
    CAPTURE(name);
    const LoadedModel loaded = load_model((goldens / name / "model").string());
    const int32_t k = loaded.model.n_active();
    const Outcome base = run(loaded, {});
    const std::string top_k = R"({"edits":[{"op":"top_k","k":)" + std::to_string(k) + "}]}";
    for (const std::string& spec : std::initializer_list<std::string>{
             R"({"edits":[]})", R"({"edits":[{"op":"deactivate","mode":"bias","by":0,"experts":[1]}]})",
             R"({"edits":[{"op":"scale_expert","by":1,"experts":[1]}]})", R"({"edits":[{"op":"temperature","t":1}]})",
             top_k, R"({"edits":[{"op":"misroute","policy":"shift","by":0}]})",
             R"({"edits":[{"op":"misroute","policy":"worst","tokens":{"positions":"5000:6000"}}]})",
             R"({"edits":[{"op":"misroute","policy":"worst","tokens":{"margin_below":0}}]})"}) {
      CAPTURE(spec);
      const auto plan = plan_of(spec, loaded);
      Setup setup;
      setup.plan = plan;
      CHECK(run(loaded, setup).hashes == base.hashes);
    }
    const auto worst = plan_of(R"({"edits":[{"op":"misroute","policy":"worst"}]})", loaded);
    Setup setup;
    setup.plan = worst;
    CHECK(run(loaded, setup).hashes != base.hashes);
  }
}

TEST_CASE("sequences with different edits in one batch equal their separate runs") {
  const LoadedModel loaded = load_model((goldens / "qwen3_moe" / "model").string());
  const auto backend = make_cpu_backend({});
  const std::vector<std::shared_ptr<const EditPlan>> plans = {
      nullptr, plan_of(R"({"edits":[{"op":"deactivate","mode":"ban","experts":[0,1]}]})", loaded),
      plan_of(R"({"edits":[{"op":"misroute","policy":"gumbel","tau":1}]})", loaded),
      plan_of(R"({"edits":[{"op":"ablate","point":"resid_mid","layers":"1","value":"zero"}]})", loaded)};
  const auto given = prompts(loaded.model.n_vocab);
  auto job_of = [&](size_t plan, size_t prompt) {
    Job job;
    job.index = static_cast<int64_t>(plan * given.size() + prompt);
    job.prompt = given[prompt];
    job.task = Generate{8, {}};
    job.plan = plans[plan];
    return job;
  };
  std::map<int64_t, uint64_t> together, alone;
  std::vector<Job> all;
  for (size_t p = 0; p < plans.size(); ++p)
    for (size_t r = 0; r < given.size(); ++r) all.push_back(job_of(p, r));
  Forward forward(*backend, loaded.model, loaded.weights, 0);
  RunOptions options;
  options.batch = 16;
  options.chunk = 24;
  RunEvents events;
  events.on_done = [&](Result result) { together[result.index] = result.logits_hash; };
  run_jobs(forward, all, options, events, nullptr);
  events.on_done = [&](Result result) { alone[result.index] = result.logits_hash; };
  for (const Job& job : all) run_jobs(forward, {job}, RunOptions{}, events, nullptr);
  CHECK(together == alone);
}

TEST_CASE("replaying a run's own trace leaves the bits as they are") {
  for (const char* name : cases) {
    CAPTURE(name);
    const LoadedModel loaded = load_model((goldens / name / "model").string());
    const ModelShape shape = probe_shape(loaded.model);
    test::TemporaryDirectory scratch;
    auto backend = make_cpu_backend({});
    Forward forward(*backend, loaded.model, loaded.weights, 0);
    std::vector<Job> jobs;
    for (const auto& prompt : prompts(loaded.model.n_vocab)) {
      Job job;
      job.index = static_cast<int64_t>(jobs.size());
      job.prompt = prompt;
      job.task = Generate{6, {}};
      jobs.push_back(job);
    }
    TraceOptions trace_options;
    trace_options.dir = scratch / "trace";
    trace_options.shape = shape;
    trace_options.points = PointSet::parse(default_points, shape);
    TraceWriter trace(trace_options);
    std::vector<uint64_t> base(jobs.size()), replayed(jobs.size());
    RunEvents events;
    events.on_done = [&](Result result) { base[result.index] = result.logits_hash; };
    run_jobs(forward, jobs, {}, events, &trace);
    std::vector<std::string> ids;
    for (const Job& job : jobs) ids.push_back(job.prompt->id);
    trace.finish(ids, [&](int64_t i) { return json::Value::object().set("id", ids[i]); });

    for (const std::string policy : {"model", "recorded"}) {
      const auto plan =
          plan_of(R"({"edits":[{"op":"replay","trace":"trace","weights":")" + policy + "\"}]}", loaded, scratch.path());
      for (Job& job : jobs) job.plan = plan;
      events.on_done = [&](Result result) { replayed[result.index] = result.logits_hash; };
      run_jobs(forward, jobs, {}, events, nullptr);
      CHECK(replayed == base);
    }
  }
}
