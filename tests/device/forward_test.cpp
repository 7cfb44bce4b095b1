// The whole forward of every family on a device: against the CPU at every probe point, in order of execution; graphs,
// recording, edits and batches against themselves.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "engine/device_weights.h"
#include "engine/runner.h"
#include "eval/data/records.h"
#include "kernels/shim/shim_backend.h"
#include "loaders/model/load.h"
#include "probes/trace.h"
#include "tests/device/device.h"
#include "tests/memory_sink.h"
#include "tests/support.h"
#include "tests/tolerances.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
namespace fs = std::filesystem;

// Every family and every stored form; the re-saved ones differ in their files alone.
const char* const families[] = {"deepseek_v2_lite", "deepseek_v2_full", "mixtral", "mixtral_window_f16", "olmoe",
                                "qwen2_moe",        "qwen3_moe",        "gpt_oss", "gpt_oss_mxfp4"};

// The model with the weights that a device will hold: matrices rounded to bf16, but for the router's.
struct RoundedModel {
  LoadedModel loaded;
  ModelShape shape;
  explicit RoundedModel(const std::string& name)
      : loaded(load_model((test::goldens_dir() / name / "model").string())), shape(probe_shape(loaded.model)) {
    for_each_tensor(loaded.model, loaded.weights, [&](const TensorPlace& slot) {
      if (!slot.matrix || slot.id.role == Role::router) return;
      Matrix& m = *slot.matrix;
      if (m.dtype == DType::bf16 || m.dtype == DType::mxfp4) return;
      auto copy = std::make_shared<std::vector<uint16_t>>(static_cast<size_t>(m.rows * m.cols));
      for (int64_t r = 0; r < m.rows; ++r) {
        std::vector<float> row(static_cast<size_t>(m.cols));
        const int32_t zero = static_cast<int32_t>(r);
        cpu_->embed(Tensor(row.data(), 1, m.cols), m, &zero);  // a row of any dtype as f32
        for (int64_t c = 0; c < m.cols; ++c) {
          const float rounded = test::rounded_bf16(row[static_cast<size_t>(c)]);
          uint32_t bits;
          std::memcpy(&bits, &rounded, 4);
          (*copy)[static_cast<size_t>(r * m.cols + c)] = static_cast<uint16_t>(bits >> 16);
        }
      }
      m = Matrix{copy->data(), DType::bf16, m.rows, m.cols, m.cols, nullptr, 0};
      loaded.weights.owners.push_back(copy);
      if (slot.id.role == Role::embed && loaded.model.tied_embeddings) loaded.weights.lm_head = loaded.weights.embed;
    });
  }
  std::shared_ptr<const EditPlan> plan(const std::string& text, const fs::path& base = ".") const {
    const json::Value value = json::parse(text, "edits");
    return EditPlan::parse(json::Ref(value, "edits"), base, shape, 7);
  }

 private:
  std::unique_ptr<Backend> cpu_ = make_cpu_backend({});
};

std::shared_ptr<Prompt> make_prompt(const std::string& id, int64_t length, int64_t n_vocab, uint32_t seed) {
  auto prompt = std::make_shared<Prompt>(id);
  for (int64_t t = 0; t < length; ++t)
    prompt->tokens.push_back(static_cast<int32_t>(((seed = seed * 1664525u + 1013904223u) >> 8) % n_vocab));
  return prompt;
}

Job make_job(int64_t index, std::shared_ptr<const Prompt> prompt, int64_t max_new,
             std::shared_ptr<const EditPlan> plan = {}) {
  Job job;
  job.index = index;
  job.prompt = std::move(prompt);
  job.task = Generate{max_new, {}};
  job.plan = std::move(plan);
  return job;
}

struct Outcome {
  std::map<int64_t, std::vector<int32_t>> tokens;
  std::map<int64_t, uint64_t> hashes;
  std::map<int64_t, std::vector<double>> log_probs;
  std::map<int64_t, std::map<std::string, test::MemorySink::Values>> points;
};

Outcome run(Backend& backend, const RoundedModel& model, const Weights& weights, const std::vector<Job>& jobs,
            const std::string& points = {}, int64_t batch = 8, int64_t chunk = 512) {
  int32_t slots = 0;
  for (const Job& job : jobs) slots = std::max(slots, job.plan ? job.plan->max_slots() : 0);
  Forward forward(backend, model.loaded.model, weights, slots);
  test::MemorySink sink(points.empty() ? PointSet() : PointSet::parse(points, model.shape));
  Outcome out;
  RunOptions options;
  options.batch = batch;
  options.chunk = chunk;
  RunEvents events;
  events.on_done = [&](Result result) {
    out.tokens[result.index] = result.tokens;
    out.hashes[result.index] = result.logits_hash;
    out.log_probs[result.index] = result.logprobs;
  };
  const bool complete = run_jobs(forward, jobs, options, events, points.empty() ? nullptr : &sink);
  REQUIRE(complete);
  out.points = std::move(sink.samples);
  return out;
}

// Distance over the length of what is expected, and the largest single difference beyond 5 % of the value, over the
// root mean square.
struct Distance {
  double relative = 0, worst = 0;
};
Distance distance(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size() || want.empty()) return {INFINITY, INFINITY};
  double square = 0, difference = 0, worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double w = static_cast<double>(want[i]), d = static_cast<double>(got[i]) - w;
    square += w * w;
    difference += d * d;
    worst = std::isnan(d) ? INFINITY : std::max(worst, std::abs(d) - 0.05 * std::abs(w));
  }
  const double rms = std::sqrt(square / static_cast<double>(want.size())) + 1e-6;
  return {std::sqrt(difference / static_cast<double>(want.size())) / rms, worst / rms};
}

bool same_values(const Outcome& a, const Outcome& b, const std::string& only = {}) {
  for (const auto& [sample, points] : a.points)
    for (const auto& [name, values] : points) {
      if (!only.empty() && name.find(only) == std::string::npos) continue;
      const auto& other = b.points.at(sample).at(name);
      if (values.data.size() != other.data.size() ||
          std::memcmp(values.data.data(), other.data.data(), values.data.size() * sizeof(float)) != 0)
        return false;
    }
  return true;
}

// Runs `check` with the shim and, where there is one, a GPU.
void with_devices(bool invariant, const std::function<void(Backend&)>& check) {
  CudaOptions options;
  options.invariant = invariant;
  if (!test::gpu_only()) check(*make_shim_backend(options));
  if (!test::have_gpu()) return;
  const auto gpu = make_cuda_backend(options);
  check(*gpu);
}

// The route that the CPU took, imposed on others: near-ties then do not send them elsewhere.
std::shared_ptr<const EditPlan> replay_of(const RoundedModel& model, const std::vector<Job>& jobs,
                                          const test::TemporaryDirectory& directory) {
  auto cpu = make_cpu_backend({});
  Forward forward(*cpu, model.loaded.model, model.loaded.weights, 0);
  TraceOptions options;
  options.dir = directory / "trace";
  options.shape = model.shape;
  options.points = PointSet::parse("*.router.ids,*.router.weights", model.shape);
  TraceWriter writer(options);
  run_jobs(forward, jobs, RunOptions{}, RunEvents{}, &writer);
  std::vector<std::string> ids;
  for (const Job& job : jobs) ids.push_back(job.prompt->id);
  writer.finish(ids, [](int64_t) { return json::Value::object(); });
  return model.plan(R"([{"op":"replay","trace":"trace/trace.safetensors"}])", directory.path());
}

// expert.direct is not defined where no token follows: the same rows on every device.
std::vector<float> defined(std::vector<float> values) {
  std::erase_if(values, [](float value) { return std::isnan(value); });
  return values;
}

}  // namespace

TEST_CASE("device: weights take what the backend says before they are loaded") {
  if (test::gpu_only()) return test::skip("the shim counts its memory to the byte");
  const auto cpu = make_cpu_backend({});
  const auto shim = make_shim_backend({});  // which counts its memory to the byte
  for (const char* name : families) {
    CAPTURE(std::string(name));
    const LoadedModel loaded = load_model((test::goldens_dir() / name / "model").string());
    CHECK(device_weight_bytes(*cpu, loaded.model, loaded.weights) == host_weight_bytes(loaded.model, loaded.weights));
    upload_weights(*shim, loaded.model, loaded.weights, {});  // leaves the memory behind through which pieces pass
    const size_t before = shim->free_bytes();
    const Weights weights = upload_weights(*shim, loaded.model, loaded.weights, {});
    CHECK(static_cast<int64_t>(before - shim->free_bytes()) ==
          device_weight_bytes(*shim, loaded.model, loaded.weights));
  }
}

TEST_CASE("device: every family at every probe point") {
  for (const char* name : families) {
    CAPTURE(std::string(name));
    const RoundedModel model(name);
    std::vector<Job> plain, replayed;
    const test::TemporaryDirectory directory;
    for (int64_t i = 0; i < 2; ++i)
      plain.push_back(
          make_job(i, make_prompt("p" + std::to_string(i), i == 0 ? 13 : 37, model.loaded.model.n_vocab, 5 + i), 0));
    const auto plan = replay_of(model, plain, directory);
    replayed = plain;
    for (Job& job : replayed) job.plan = plan;
    const auto cpu = make_cpu_backend({});
    const Outcome want = run(*cpu, model, model.loaded.weights, replayed, "*");
    for (const bool invariant : {false, true}) {
      with_devices(invariant, [&](Backend& device) {
        CAPTURE(device.name());
        CAPTURE(invariant);
        const Weights weights = upload_weights(device, model.loaded.model, model.loaded.weights, {});
        const Outcome got = run(device, model, weights, replayed, "*");
        int64_t flips = 0, routes = 0;
        double largest_flip = 0;
        for (int64_t sample = 0; sample < 2; ++sample) {
          for (const PointAt& at : PointSet::parse("*", model.shape).all()) {
            const std::string point = point_name(at.point, at.layer);
            CAPTURE(point);
            REQUIRE(got.points.at(sample).contains(point));
            const auto& w = want.points.at(sample).at(point);
            const auto& g = got.points.at(sample).at(point);
            if (at.point == Point::router_ids) {
              REQUIRE(g.data == w.data);  // replayed
              const std::string original = "layer." + std::to_string(at.layer) + ".router.original_ids";
              const auto& wo = want.points.at(sample).at(original);
              const auto& go = got.points.at(sample).at(original);
              const auto& margin = want.points.at(sample).at("layer." + std::to_string(at.layer) + ".router.margin");
              for (int64_t t = 0; t < wo.rows(); ++t) {
                std::vector<float> a(wo.data.begin() + t * wo.width, wo.data.begin() + (t + 1) * wo.width);
                std::vector<float> b(go.data.begin() + t * wo.width, go.data.begin() + (t + 1) * wo.width);
                std::sort(a.begin(), a.end());
                std::sort(b.begin(), b.end());
                ++routes;
                if (a == b) continue;
                ++flips;
                // Where groups are limited, a near-tie of two groups is none of their experts' logits.
                if (model.loaded.model.layers[static_cast<size_t>(at.layer)].moe()->router.n_groups == 1)
                  largest_flip = std::max(largest_flip, static_cast<double>(margin.data[static_cast<size_t>(t)]));
              }
              continue;
            }
            if (at.point == Point::router_margin) continue;  // a difference of logits, which are compared
            if (at.point == Point::router_group_margin) {    // a difference of scores below 1, of such logits
              for (size_t t = 0; t < w.data.size(); ++t)
                REQUIRE(std::abs(g.data[t] - w.data[t]) <= test::tolerance::near_tie_margin);
              continue;
            }
            const Distance d = distance(defined(g.data), defined(w.data));
            CAPTURE(d.relative);
            CAPTURE(d.worst);
            REQUIRE(d.relative <= test::tolerance::device_forward_relative);
            REQUIRE(d.worst <= test::tolerance::device_forward_worst);
          }
        }
        CAPTURE(flips);
        CAPTURE(routes);
        CHECK(largest_flip <= test::tolerance::near_tie_margin);
        CHECK(static_cast<double>(flips) <= 0.1 * static_cast<double>(routes));
      });
    }
  }
}

TEST_CASE("device: bits do not depend on batch, chunk or graphs under --numerics invariant" *
          doctest::test_suite("repeats: the same kernels on the same values, to compare bits")) {
  for (const char* name : {"deepseek_v2_lite", "gpt_oss_mxfp4", "qwen2_moe", "mixtral"}) {
    CAPTURE(std::string(name));
    const RoundedModel model(name);
    std::vector<Job> jobs;
    const auto ban = model.plan(R"([{"op":"deactivate","mode":"ban","experts":[1]}])");
    const auto random = model.plan(R"([{"op":"misroute","policy":"random","tokens":{"phase":"generated"}}])");
    for (const int64_t length : {1, 5, 33, 40})
      jobs.push_back(make_job(static_cast<int64_t>(jobs.size()),
                              make_prompt("r" + std::to_string(jobs.size()), length, model.loaded.model.n_vocab, 3), 4,
                              jobs.size() == 1   ? ban
                              : jobs.size() == 2 ? random
                                                 : nullptr));
    jobs.push_back(make_job(4, jobs[3].prompt, 4, random));  // shares a prompt's cache
    with_devices(true, [&](Backend& device) {
      CAPTURE(device.name());
      const Weights weights = upload_weights(device, model.loaded.model, model.loaded.weights, {});
      const Outcome base = run(device, model, weights, jobs);
      const Outcome single = run(device, model, weights, jobs, "", 1, 7);
      CHECK(single.hashes == base.hashes);
      CHECK(single.tokens == base.tokens);
      const Outcome again = run(device, model, weights, jobs, "", 3, 512);
      CHECK(again.hashes == base.hashes);
    });
  }
}

TEST_CASE("device: graphs, recording and the order of threads change no bit" *
          doctest::test_suite("repeats: every family in three orders of threads")) {
  for (const char* name : {"deepseek_v2_lite", "gpt_oss", "qwen3_moe"}) {
    CAPTURE(std::string(name));
    const RoundedModel model(name);
    const auto ban =
        model.plan(R"([{"op":"deactivate","mode":"ban","experts":[0]},{"op":"scale_expert","by":0.5,"experts":[2]}])");
    std::vector<Job> jobs = {make_job(0, make_prompt("a", 9, model.loaded.model.n_vocab, 1), 7),
                             make_job(1, make_prompt("b", 4, model.loaded.model.n_vocab, 2), 7, ban)};
    test::for_each_device([&](Backend& device, const std::string&) {
      const Weights weights = upload_weights(device, model.loaded.model, model.loaded.weights, {});
      const Outcome base = run(device, model, weights, jobs);
      // Routes alone: recorded inside graphs, drained later. All points: the forward stops for each.
      const Outcome routes = run(device, model, weights, jobs,
                                 "*.router.ids,*.router.weights,*.router.margin,*.router.logits,*.router.scores");
      CHECK(routes.hashes == base.hashes);
      // What attention, router and experts read is read beside them, or from where they find it.
      const Outcome inner = run(device, model, weights, jobs,
                                "*.attn.q,*.attn.k,*.attn.v,*.attn.pattern,*.attn.z,*.router.in,*.expert.in,"
                                "*.expert.contribution");
      CHECK(inner.hashes == base.hashes);
      const Outcome all = run(device, model, weights, jobs, "*");
      CHECK(all.tokens == base.tokens);
      CHECK(same_values(routes, all, "router."));
      for (const auto& [sample, points] : routes.points)
        CHECK(points.at("layer." + std::to_string(model.shape.moe_layers().front()) + ".router.ids").rows() ==
              static_cast<int64_t>(jobs[static_cast<size_t>(sample)].prompt->tokens.size()) + 7);
    });
    CudaOptions eager;
    eager.graphs = false;
    const auto graphs = test::one_device(), plain = test::one_device(eager);
    const Outcome a = run(*graphs, model, upload_weights(*graphs, model.loaded.model, model.loaded.weights, {}), jobs);
    const Outcome b = run(*plain, model, upload_weights(*plain, model.loaded.model, model.loaded.weights, {}), jobs);
    CHECK(a.hashes == b.hashes);
    CHECK(a.tokens == b.tokens);
  }
}

TEST_CASE("device: a forward serves several runs, each with a cache of its own") {
  const RoundedModel model("qwen2_moe");
  const auto shim = test::one_device();
  const Weights weights = upload_weights(*shim, model.loaded.model, model.loaded.weights, {});
  const std::vector<Job> jobs = {make_job(0, make_prompt("a", 9, model.loaded.model.n_vocab, 1), 9)};
  const Outcome want = run(*shim, model, weights, jobs);
  Forward forward(*shim, model.loaded.model, weights, 0);
  for (int i = 0; i < 3; ++i) {
    uint64_t hash = 0;
    RunEvents events;
    events.on_done = [&](Result result) { hash = result.logits_hash; };
    run_jobs(forward, jobs, RunOptions{}, events, nullptr);
    CHECK(hash == want.hashes.at(0));
  }
}

TEST_CASE("device: log-probabilities are near the CPU's, and faults are told in the same words") {
  const RoundedModel model("olmoe");
  std::vector<Job> jobs = {make_job(0, make_prompt("a", 30, model.loaded.model.n_vocab, 1), 0)};
  jobs[0].task = Score{};
  const auto cpu = make_cpu_backend({});
  const Outcome want = run(*cpu, model, model.loaded.weights, jobs);
  const auto fails = [&](Backend& backend, const Weights& weights) {
    const auto plan = model.plan(
        R"([{"op":"deactivate","mode":"ban","experts":[0]},{"op":"misroute","policy":"shift","by":1,"layers":"1"}])");
    std::string text;
    try {
      run(backend, model, weights, {make_job(0, make_prompt("a", 30, model.loaded.model.n_vocab, 1), 0, plan)});
    } catch (const Error& error) {
      text = error.what();
    }
    return text;
  };
  const std::string expected = fails(*cpu, model.loaded.weights);
  REQUIRE(expected.find("layer 1") != std::string::npos);
  with_devices(false, [&](Backend& device) {
    CAPTURE(device.name());
    const Weights weights = upload_weights(device, model.loaded.model, model.loaded.weights, {});
    const Outcome got = run(device, model, weights, jobs);
    REQUIRE(got.log_probs.at(0).size() == 29);
    for (size_t i = 0; i < 29; ++i)
      CHECK(std::abs(got.log_probs.at(0)[i] - want.log_probs.at(0)[i]) < test::tolerance::log_prob);
    // The position is that of the first token of that layer whose route cannot be; near-ties may move it.
    const std::string told = fails(device, weights);
    CHECK(told.substr(0, told.find("position")) == expected.substr(0, expected.find("position")));
  });
}

TEST_CASE("device: edits of what attention, router and experts read act as on the CPU") {
  for (const char* name : {"qwen2_moe", "deepseek_v2_lite"}) {
    CAPTURE(std::string(name));
    const RoundedModel model(name);
    const std::string moe = "layer." + std::to_string(model.shape.moe_layers().front());
    // Where one token is edited, and the first point of its layer that must show it.
    const std::pair<std::string, std::string> places[] = {
        {"layer.0.attn.q", "layer.0.attn.out"},       {"layer.0.attn.k", "layer.0.attn.out"},
        {"layer.0.attn.v", "layer.0.attn.out"},       {"layer.0.attn.z", "layer.0.attn.out"},
        {moe + ".router.in", moe + ".router.logits"}, {moe + ".expert.in", moe + ".expert.contribution"},
        {moe + ".shared.in", moe + ".shared.out"}};
    const auto prompt = make_prompt("a", 12, model.loaded.model.n_vocab, 1);
    const auto cpu = make_cpu_backend({});
    const Outcome plain = run(*cpu, model, model.loaded.weights, {make_job(0, prompt, 0)}, "*");
    with_devices(false, [&](Backend& device) {
      CAPTURE(device.name());
      const Weights weights = upload_weights(device, model.loaded.model, model.loaded.weights, {});
      for (const auto& place : places) {
        const std::string &point = place.first, &shows = place.second;
        CAPTURE(point);
        const auto plan =
            model.plan(R"([{"op":"ablate","point":")" + point + R"(","value":"zero","tokens":{"positions":"4:9"}}])");
        const std::vector<Job> jobs = {make_job(0, prompt, 0, plan)};
        const Outcome want = run(*cpu, model, model.loaded.weights, jobs, "*");
        const Outcome got = run(device, model, weights, jobs, "*");
        const auto& written = got.points.at(0).at(point);
        for (int64_t i = 4 * written.width; i < 9 * written.width; ++i)
          REQUIRE(written.data[static_cast<size_t>(i)] == 0);
        const auto& shown = want.points.at(0).at(shows).data;
        CHECK(distance(shown, plain.points.at(0).at(shows).data).relative > 0.05);
        CHECK(distance(got.points.at(0).at(shows).data, shown).relative <= test::tolerance::device_forward_relative);
        // A latent is key and value at once, yet a write to one of them is none to the other.
        for (const auto& [one, other] : {std::pair("attn.k", "attn.v"), std::pair("attn.v", "attn.k")}) {
          if (point != "layer.0." + std::string(one)) continue;
          const std::string untouched = "layer.0." + std::string(other);
          CHECK(want.points.at(0).at(untouched).data == plain.points.at(0).at(untouched).data);
          CHECK(distance(got.points.at(0).at(untouched).data, plain.points.at(0).at(untouched).data).relative <=
                test::tolerance::device_forward_relative);
        }
      }
    });
  }
}

TEST_CASE("device: point edits act as on the CPU") {
  for (const char* name : {"qwen2_moe", "deepseek_v2_lite"}) {
    CAPTURE(std::string(name));
    const RoundedModel model(name);
    const std::string layer = "layer." + std::to_string(model.shape.moe_layers().front());
    const auto plan = model.plan(R"([{"op":"ablate","point":")" + layer +
                                 R"(.expert.out","value":"zero","experts":[1,2]},{"op":"ablate","point":")" + layer +
                                 R"(.expert.hidden","value":"zero","neurons":[0,3]},
                                 {"op":"ablate","point":"layer.0.attn.out","value":"zero","tokens":{"positions":"2:5"}}])");
    const std::vector<Job> jobs = {make_job(0, make_prompt("a", 12, model.loaded.model.n_vocab, 1), 0, plan)};
    const auto cpu = make_cpu_backend({});
    const Outcome want = run(*cpu, model, model.loaded.weights, jobs, "*");
    with_devices(false, [&](Backend& device) {
      CAPTURE(device.name());
      const Outcome got =
          run(device, model, upload_weights(device, model.loaded.model, model.loaded.weights, {}), jobs, "*");
      for (const std::string& point : {std::string("layer.0.attn.out"), layer + ".expert.hidden"}) {
        const Distance d = distance(got.points.at(0).at(point).data, want.points.at(0).at(point).data);
        CAPTURE(point);
        CHECK(d.relative <= test::tolerance::device_forward_relative);
      }
      const auto& hidden = got.points.at(0).at(layer + ".expert.hidden");
      const int64_t d_ff = model.shape.layers[static_cast<size_t>(model.shape.moe_layers().front())].d_ff;
      for (int64_t i = 0; i < hidden.rows() * hidden.width / d_ff; ++i)
        REQUIRE(hidden.data[static_cast<size_t>(i * d_ff)] == 0);
      const auto& ids = got.points.at(0).at(layer + ".router.ids");
      const auto& out = got.points.at(0).at(layer + ".expert.out");
      const int64_t d_model = model.shape.d_model;
      for (size_t i = 0; i < ids.data.size(); ++i) {
        const bool zero = out.data[i * static_cast<size_t>(d_model)] == 0;
        REQUIRE(zero == (ids.data[i] == 1 || ids.data[i] == 2));
      }
    });
  }
}
