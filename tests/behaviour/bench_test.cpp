// The bench command: fields, units that agree with each other, clear refusals; and the device's path through the shim.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <sstream>

#include "base/json.h"
#include "base/memory.h"
#include "kernels/shim/shim_backend.h"
#include "loaders/families/family.h"
#include "tests/memory_sink.h"
#include "tests/support.h"
#include "tools/bench/device_watch.h"
#include "tools/bench/limits.h"
#include "tools/bench/model_bench.h"
#include "tools/bench/op_bench.h"
#include "tools/bench/watched_backend.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using test::Ran;

Ran bench(const std::string& arguments) { return test::run_command(test::binary() + " bench " + arguments); }

// The lines of --json; the last is the document.
std::vector<json::Value> json_lines(const std::string& text) {
  std::vector<json::Value> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line, "bench"));
  REQUIRE(!lines.empty());
  return lines;
}

double real(const json::Value& object, const char* key) {
  const json::Value* found = object.find(key);
  REQUIRE_MESSAGE(found, std::string(key));
  REQUIRE_MESSAGE(found->is_number(), std::string(key));
  return found->real();
}

void check_model(const json::Value& document) {
  const double memory = real(document, "memory_gbytes_per_second"), compute = real(document, "compute_gflops");
  CHECK(memory > 0);
  CHECK(compute > 0);
  CHECK(real(document, "read_gbytes_per_second") == memory);
  CHECK(real(document, "fma_gflops") == compute);
  for (const json::Value& line : document.find("prefill")->items()) {
    CHECK(real(line, "tokens_per_second") == doctest::Approx(real(line, "tokens") / real(line, "seconds")));
    const double share = std::max(real(line, "gflops") / compute, real(line, "gbytes_per_second") / memory);
    CHECK(real(line, "share_of_limit") == doctest::Approx(share));
  }
  for (const json::Value& line : document.find("decode")->items()) {
    CHECK(real(line, "tokens_per_second") == doctest::Approx(real(line, "batch") / real(line, "seconds_per_step")));
    CHECK(real(line, "gbytes_per_second") ==
          doctest::Approx(real(line, "bytes_per_step") / real(line, "seconds_per_step") * 1e-9));
    const double share = std::max(real(line, "gflops") / compute, real(line, "gbytes_per_second") / memory);
    CHECK(real(line, "share_of_limit") == doctest::Approx(share));
    CHECK(real(line, "bytes_per_step") >= real(document, "weight_bytes_per_token"));
  }
  std::set<std::string> modes;
  for (const json::Value& line : document.find("recording")->items()) {
    modes.insert(line.find("mode")->string());
    for (const std::string key : {"prefill", "decode", "batch_decode"}) {
      const double cost = real(line, (key + "_cost").c_str());
      CHECK(cost > -1);
      REQUIRE(real(line, (key + "_rounds").c_str()) >= 3);
      const auto& interval = line.find(key + "_ci")->items();
      CHECK(interval.at(0).real() <= cost);
      CHECK(cost <= interval.at(1).real());
    }
  }
  CHECK(modes == std::set<std::string>{"ids", "ids, weights", "router logits", "residual stream"});
}

// A family's tiny example as a shape to measure.
BenchShape tiny(std::string_view model_type) {
  const families::Family* family = families::find_family(model_type);
  REQUIRE(family);
  return bench_shape_of(family->example, std::string(model_type));
}

OpBenchOptions tiny_options() {
  OpBenchOptions options;
  for (const char* family : {"deepseek_v2", "gpt_oss", "olmoe"}) options.shapes.push_back(tiny(family));
  options.decode_rows = {1};
  options.prefill_rows = {11};
  options.route_tokens = {3};
  options.moe_tokens = {1, 11};
  options.norm_rows = {2};
  options.sample_rows = {2};
  options.sequences = {2};
  options.contexts = {40};
  options.prompts = {{5, 40}};
  options.flush_bytes = 1;
  options.piece_bytes = 1 << 16;
  options.timer = {0, 1};
  return options;
}

void check_ops(Backend& backend, const OpBenchOptions& options) {
  std::set<std::string> ops;
  bench_ops(backend, options, [&](const OpSpeed& speed) {
    CAPTURE(speed.op);
    CAPTURE(speed.model);
    CAPTURE(speed.shape);
    ops.insert(speed.op);
    CHECK(speed.seconds > 0);
    CHECK(std::isfinite(speed.seconds));
    CHECK(speed.flops + speed.bytes > 0);
    CHECK(speed.gbytes() == doctest::Approx(speed.bytes / speed.seconds * 1e-9));
  });
  for (const char* op :
       {"matmul q",         "matmul o",         "matmul kv_a",    "matmul lm_head",     "gated_hidden shared",
        "mla_absorb",       "mla_expand",       "route",          "route recorded",     "route ban",
        "route ban random", "moe layer",        "experts_hidden", "experts_out",        "combine",
        "attention gqa",    "attention mla",    "rmsnorm",        "add_rmsnorm",        "prepare_heads",
        "prepare_latent",   "sample greedy",    "sample",         "sample top_k top_p", "log_probs",
        "compare_logits",   "attention_pattern"}) {
    CAPTURE(op);
    CHECK(ops.contains(op));
  }
}

}  // namespace

TEST_CASE("bench: a model's figures and how they hang together" *
          doctest::test_suite("repeats: forwards that other tests run, to time them")) {
  const Ran ran =
      bench("builtin --json --quiet --prompt-tokens 24 --new-tokens 4 --batch 2 --repeats 1 --threads 1 --device cpu");
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  const std::vector<json::Value> lines = json_lines(ran.out);
  const json::Value& document = lines.back();
  CHECK(!document.find("figure"));
  check_model(document);
  // Each figure has come as a line of its own: what the model does before what watching it costs.
  std::vector<std::string> order;
  std::map<std::string, json::Value> figures;
  for (size_t i = 0; i + 1 < lines.size(); ++i) {
    json::Value figure = json::Value::object();
    for (const auto& [key, value] : lines[i].members())
      if (key != "figure") figure.set(key, value);
    order.push_back(lines[i].find("figure")->string());
    figures[order.back()].push_back(figure);
  }
  std::vector<std::string> expected = {"limits", "prefill", "decode", "decode"};
  expected.insert(expected.end(), 12, "recording");
  CHECK(order == expected);
  CHECK(figures["prefill"] == *document.find("prefill"));
  CHECK(figures["decode"] == *document.find("decode"));
  CHECK(document.find("left_out")->items().empty());
  for (const json::Value& figure : figures["recording"].items()) {
    const json::Value* cost = nullptr;
    for (const json::Value& line : document.find("recording")->items())
      if (*line.find("mode") == *figure.find("mode"))
        for (const char* key : {"prefill_cost", "decode_cost", "batch_decode_cost"})
          if (figure.find(key)) cost = *line.find(key) == *figure.find(key) ? line.find(key) : nullptr;
    CHECK(cost);
  }
  CHECK(document.find("model")->string() == "builtin");
  CHECK(document.find("device")->string() == "cpu");
  CHECK(real(document, "prompt_tokens") == 24);
  CHECK(real(document, "batch") == 2);
  CHECK(document.find("decode")->items().size() == 2);
  CHECK(real(document, "decode_tokens_per_second") == real(document.find("decode")->items()[0], "tokens_per_second"));
  CHECK(real(document, "batch_decode_tokens_per_second") ==
        real(document.find("decode")->items()[1], "tokens_per_second"));
  CHECK(real(document, "resident_bytes") > 0);
  CHECK(document.find("watched")->is_null());
}

TEST_CASE("bench --quick: prefill and decode alone, and what is left out is named" *
          doctest::test_suite("repeats: measurements that other tests make too")) {
  const Ran ran =
      bench("builtin --quick --gradient --json --quiet --prompt-tokens 24 --batch 2 --threads 1 --device cpu");
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  const json::Value document = json_lines(ran.out).back();
  CHECK(real(document, "new_tokens") == 16);
  CHECK(document.find("prefill")->items().size() == 1);
  CHECK(document.find("decode")->items().size() == 2);
  CHECK(document.find("prefill")->items()[0].find("repeats")->integer() == 1);
  const json::Value& gradient = *document.find("gradient");
  CHECK(gradient.find("tokens")->integer() == 24);
  CHECK(real(gradient, "forwards") > 1);
  CHECK(real(gradient, "forwards_with_weights") > real(gradient, "forwards"));
  CHECK(gradient.find("activation_bytes")->integer() > 24 * 4 * 6 * 96);
  CHECK(gradient.find("weight_bytes")->integer() > 1'000'000);
  std::vector<std::string> left_out;
  for (const json::Value& entry : document.find("left_out")->items()) {
    left_out.push_back(entry.find("what")->string());
    CHECK(entry.find("why")->string() == "--quick");
  }
  CHECK(left_out == std::vector<std::string>{"cost of recording in decode at batch 1",
                                             "cost of recording in decode at batch 2",
                                             "cost of recording in prefill of 24"});
  for (const json::Value& line : document.find("recording")->items()) CHECK(line.find("decode_cost")->is_null());
}

TEST_CASE("bench --budget: what does not fit is said" *
          doctest::test_suite("repeats: forwards that other tests run, to time them")) {
  // Measuring the limits takes longer than this.
  const std::string common = "builtin --budget 1 --quiet --prompt-tokens 24 --new-tokens 4 --batch 2 --device cpu ";
  const Ran json = bench(common + "--json");
  INFO(json.err);
  REQUIRE(json.code == 0);
  const std::vector<json::Value> lines = json_lines(json.out);
  CHECK(lines.size() == 8);  // the limits, six that are left out, the document
  CHECK(lines.back().find("left_out")->items().size() == 6);
  CHECK(lines.back().find("decode_tokens_per_second")->is_null());
  const Ran text = bench(common);
  REQUIRE(text.code == 0);
  CHECK(text.out.find("left out: prefill of 24 tokens (needs about 0 s, and 0 s of the budget of 1 s are left)\n") !=
        std::string::npos);
  CHECK(text.out.find("left out: decode at batch 2 (") != std::string::npos);
  CHECK(text.out.find("left out: cost of recording in decode at batch 1 (") != std::string::npos);
}

TEST_CASE("bench: a signal ends it with what was measured by then" *
          doctest::test_suite("repeats: measurements that other tests make too")) {
  test::TemporaryDirectory dir;
  const std::string out = (dir / "out").string();
  // Killed when the first figure of the model is there; those of recording alone would take a minute.
  const Ran ran = test::run_command(test::binary() + " bench builtin --json --quiet --repeats 1 > " + out +
                                    " & pid=$!; while ! grep -q '\"figure\":\"prefill\"' " + out +
                                    "; do sleep 0.02; done; kill -TERM $pid; wait $pid");
  CHECK(ran.code == 3);
  const std::vector<json::Value> lines = json_lines(test::read_file(out));
  const json::Value& document = lines.back();
  CHECK(!document.find("figure"));
  CHECK(document.find("interrupted")->boolean());
  REQUIRE(document.find("prefill")->items().size() == 1);
  CHECK(document.find("recording")->type() == json::Type::array);
  CHECK(real(document, "prefill_tokens_per_second") == real(document.find("prefill")->items()[0], "tokens_per_second"));
}

TEST_CASE("paired costs: what falls on all ways alike falls away") {
  const double factors[] = {1, 1.25, 0.9};
  int runs = 0;
  std::vector<int> order;
  const auto run = [&](int way) {
    order.push_back(way);
    return factors[way] * (1 + 0.001 * ++runs);  // the machine becomes slower
  };
  const PairedCosts costs = measure_paired(3, run, [](int64_t rounds, double) { return rounds < 12; });
  CHECK(costs.rounds == 12);
  REQUIRE(costs.ways.size() == 2);
  CHECK(std::vector<int>(order.begin(), order.begin() + 9) == std::vector<int>{0, 1, 2, 0, 2, 1, 2, 0, 1});
  for (size_t way = 0; way < 2; ++way) {
    CHECK(costs.ways[way].cost == doctest::Approx(factors[way + 1] - 1).epsilon(0.005));
    CHECK(costs.ways[way].lo <= factors[way + 1] - 1);
    CHECK(costs.ways[way].hi >= factors[way + 1] - 1);
    CHECK(costs.ways[way].hi - costs.ways[way].lo < 0.005);
  }
  // Two rounds by hand: logs of 1.1 and 1.3; Student's t of one degree of freedom at 0.975 is 12.7062.
  double ratio = 0.9;
  const PairedCosts two = measure_paired(
      2, [&](int way) { return way == 0 ? 1.0 : ratio; },
      [&](int64_t rounds, double) {
        ratio += 0.2;
        return rounds < 2;
      });
  const double mean = (std::log(1.1) + std::log(1.3)) / 2, half = std::fabs(std::log(1.3) - std::log(1.1)) / 2;
  CHECK(two.ways[0].cost == doctest::Approx(std::exp(mean) - 1));
  CHECK(two.ways[0].hi == doctest::Approx(std::exp(mean + 12.7062 * half) - 1).epsilon(1e-4));
  const PairedCosts one = measure_paired(
      2, [](int) { return 1.0; }, [](int64_t rounds, double) { return rounds < 1; });
  CHECK(one.ways[0].cost == 0);
  CHECK(std::isnan(one.ways[0].lo));
  CHECK(measure_paired(
            2, [](int) { return 1.0; }, [](int64_t, double) { return false; })
            .ways.empty());
}

TEST_CASE("bench: refusals are one line") {
  const auto refused = [](const std::string& arguments, int code, const std::string& says) {
    CAPTURE(arguments);
    const Ran ran = bench(arguments);
    INFO(ran.err);
    CHECK(ran.code == code);
    CHECK(ran.out.empty());
    CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
    CHECK(ran.err.find(says) != std::string::npos);
  };
  refused("", 2, "expected MODEL, --shape or --kernels");
  refused("--shape nothing --device cpu", 2, "--shape: expected a known shape (DeepSeek-V2-Lite, ");
  refused("--shape olmoe-1b-7b --layers 17 --device cpu", 2, "expected at most the 16 of OLMoE-1B-7B, found 17");
  refused("--shape DeepSeek-V2 --prompt-tokens 200000 --device cpu", 2, "positions, found 200000");
  refused("--kernels --shape nothing --device cpu", 2, "--shape: expected a known shape (DeepSeek-V2-Lite, ");
  refused("--kernels --shape olmoe-1b-7b --layers 1", 2, "expected --shape without --kernels beside it");
  refused("--kernels --quick", 2, "expected a model or a shape beside them, found --kernels");
  refused("--kernels --context 64", 2, "expected a model or a shape beside it, found --kernels");
  refused("builtin --quick --repeats 2", 2, "excludes");
  refused("builtin --budget 0", 2, "--budget");
  refused("builtin --layers 2", 2, "--shape");
  refused("builtin --shape OLMoE-1B-7B", 2, "excludes");
  refused("builtin --prompt-tokens 100000 --device cpu", 2, "positions, found 100064");
  // 470 GB: no machine that runs these tests has it free.
  if (available_memory() < 400'000'000'000)
    refused("--shape Qwen3-235B-A22B --device cpu", 1, "layers and 1.07 GB to work in, found");
}

TEST_CASE("bench: a shape with random weights" *
          doctest::test_suite("repeats: forwards of a large model, to time them")) {
  // The smallest of the table, one layer: 1.3 GB.
  if (available_memory() < 4'000'000'000) {
    test::skip("bench --shape takes 1.3 GB of memory");
    return;
  }
  const Ran ran = bench(
      "--shape olmoe-1b-7b --layers 1 --json --quiet --prompt-tokens 8 --context 4 --new-tokens 2 --batch 2 --repeats "
      "1 "
      "--device cpu");
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  const json::Value document = json_lines(ran.out).back();
  check_model(document);
  CHECK(document.find("shape")->string() == "OLMoE-1B-7B");
  CHECK(real(document, "layers") == 1);
  CHECK(real(document, "of_layers") == 16);
  CHECK(document.find("upload")->is_null());
  // Embedding and output layer, attention, router, 64 experts, norms: in bf16 but for the norms.
  const double d = 2048, vocabulary = 50304, norms = 5;
  CHECK(real(document, "host_weight_bytes") ==
        2 * (2 * vocabulary * d + 4 * d * d + 64 * d + 64 * 3 * 1024 * d) + 4 * norms * d);
  // One token reads eight experts and a row of the embedding.
  CHECK(real(document, "weight_bytes_per_token") ==
        doctest::Approx(2 * (vocabulary * d + d + 4 * d * d + 64 * d + 8 * 3 * 1024 * d) + 4 * norms * d));
  CHECK(!document.find("moe_layer")->items().empty());
}

TEST_CASE("bench: random routers spread tokens over all experts") {
  for (const char* family : {"olmoe", "gpt_oss", "deepseek_v2", "mixtral"}) {
    CAPTURE(family);
    BenchShape shape = tiny(family);
    RandomMemory memory(false, 1 << 20);
    const Weights weights = random_weights(shape, memory);
    const auto backend = make_cpu_backend({1, "auto"});
    Forward forward(*backend, shape.model, weights, 0);
    KvPool pool(*backend, shape.model, 64);
    SequenceCache kv(pool);
    std::vector<int32_t> tokens;
    for (int32_t t = 0; t < 64; ++t) tokens.push_back(t * 7 % static_cast<int32_t>(shape.model.n_vocab));
    Batch batch;
    batch.append(kv, nullptr, 0, tokens, {}, 64, 0);
    test::MemorySink sink(PointSet::parse("*.router.ids", probe_shape(shape.model)));
    forward.run(batch, &sink);
    forward.flush(sink);
    for (const auto& recorded : sink.samples[0]) {
      const std::string& name = recorded.first;
      const test::MemorySink::Values& values = recorded.second;
      if (name.find("router.ids") == std::string::npos) continue;
      std::map<int, int> counts;
      for (const float id : values.data) ++counts[static_cast<int>(id)];
      CAPTURE(name);
      CHECK(static_cast<int32_t>(counts.size()) >= shape.model.n_experts() * 3 / 4);
      for (const auto& [expert, count] : counts)
        CHECK(count < 6 * static_cast<int>(values.data.size()) / shape.model.n_experts());
    }
  }
}

namespace {

// One forward of twelve tokens through a watched backend: what it noted against what the probes saw and what the
// model's size says.
void check_watched(Backend& backend, const char* family, bool device) {
  CAPTURE(family);
  CAPTURE(device);
  constexpr int64_t n_tokens = 12;
  BenchShape shape = tiny(family);
  RandomMemory memory(false, 1 << 20);
  const Weights host = random_weights(shape, memory);
  const Weights weights = device ? upload_weights(backend, shape.model, host, {}) : host;
  WatchedBackend watched(backend, shape.model, weights);
  Forward forward(watched, shape.model, weights, 0);
  KvPool pool(watched, shape.model, 8);
  SequenceCache kv(pool);
  std::vector<int32_t> tokens;
  for (int32_t t = 0; t < n_tokens; ++t) tokens.push_back(t * 7 % static_cast<int32_t>(shape.model.n_vocab));
  test::MemorySink sink(PointSet::parse("*.router.ids", probe_shape(shape.model)));
  const auto run = [&] {
    kv.rewind(0);
    Batch batch;
    batch.append(kv, nullptr, 0, tokens, {}, n_tokens, 1);
    batch.sampling.resize(1);
    return forward.run(batch, &sink).tokens.front();
  };
  const int32_t chosen = run();
  CHECK(watched.ops().empty());
  CHECK(watched.experts().empty());
  watched.watch(WatchedBackend::Watch::ops);
  sink.samples.clear();
  CHECK(run() == chosen);
  forward.flush(sink);

  int64_t distinct = 0;
  for (const auto& [name, values] : sink.samples[0])
    if (name.ends_with(".router.ids"))  // original_ids come with them
      distinct += static_cast<int64_t>(std::set<float>(values.data.begin(), values.data.end()).size());
  const ExpertTotal& experts = watched.experts().at(n_tokens);
  CHECK(watched.experts().size() == 1);
  CHECK(experts.calls == static_cast<int64_t>(shape.model.moe_layers().size()));
  CHECK(experts.distinct == distinct);
  double flops = 0;
  for (const auto& [name, total] : watched.ops()) {
    CHECK(total.calls > 0);
    CHECK(total.seconds > 0);
    flops += total.flops;
  }
  for (const char* name : {"experts gate, up", "experts down", "router", "lm_head", "norms", "attention", "sampling"}) {
    CAPTURE(name);
    CHECK(watched.ops().contains(name));
  }
  CHECK(!watched.ops().contains("other products"));
  // forward_flops counts a norm's parameters as products.
  CHECK(flops == doctest::Approx(forward_flops(shape.model, 0, n_tokens, 1)).epsilon(0.05));
  watched.watch(WatchedBackend::Watch::nothing);
  CHECK(watched.ops().empty());
}

}  // namespace

TEST_CASE("bench: a watched backend counts the experts that ran, and names and sizes ops") {
  const auto cpu = make_cpu_backend({1, "auto"});
  const auto shim = make_shim_backend({});
  for (const char* family : {"olmoe", "deepseek_v2"}) {
    check_watched(*cpu, family, false);
    check_watched(*shim, family, true);
  }
}

TEST_CASE("bench --profile, --turns: what they print, and what they refuse") {
  const Ran ran = bench(
      "builtin --quick --profile --json --quiet --prompt-tokens 24 --context 8 --new-tokens 2 --batch 2 --threads 1 "
      "--device cpu");
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  const json::Value document = json_lines(ran.out).back();
  REQUIRE(document.find("profile")->items().size() == 3);
  for (const json::Value& profile : document.find("profile")->items()) {
    double seconds = 0;
    for (const json::Value& op : profile.find("ops")->items()) seconds += real(op, "seconds");
    CHECK(seconds == doctest::Approx(real(profile, "seconds_in_ops")));
    CHECK(real(profile, "seconds_in_ops") + real(profile, "seconds_outside") ==
          doctest::Approx(real(profile, "seconds")));
  }
  const json::Value& batch = document.find("decode")->items().back();
  CHECK(real(batch, "experts_read") > 0);
  CHECK(real(batch, "experts_read") <= real(batch, "experts"));
  CHECK(real(batch, "experts_read_if_even") > 0);

  const std::string turns = "builtin --turns --threads 1 --device cpu";
  const auto ask = [&](const std::string& requests) {
    return test::run_command("printf '" + requests + "' | " + test::binary() + " bench " + turns);
  };
  const Ran answered = ask("{\"prefill\": 9}\\n{\"decode\": 2, \"context\": 5, \"tokens\": 3}\\n");
  INFO(answered.err);
  REQUIRE(answered.code == 0);
  const std::vector<json::Value> lines = json_lines(answered.out);
  REQUIRE(lines.size() == 3);
  CHECK(real(lines[1], "seconds") > 0);
  CHECK(real(lines[2], "seconds") > 0);
  const Ran refused = ask("{\"prefill\": 0}\\n");
  CHECK(refused.code == 1);
  CHECK(refused.err.find("standard input, line 1: prefill: expected") != std::string::npos);
}

TEST_CASE("bench: shapes store experts as their checkpoints do") {
  CHECK(bench_shape("gpt-oss-20b").mxfp4);
  CHECK(bench_shape("gpt-oss-20b").interleaved);
  CHECK(!bench_shape("Mixtral-8x7B").mxfp4);
  // reference: 13.75 GB and 93.41 GB
  CHECK(random_weight_bytes(bench_shape("gpt-oss-20b")) == doctest::Approx(13.75e9).epsilon(0.005));
  CHECK(random_weight_bytes(bench_shape("Mixtral-8x7B")) == doctest::Approx(93.41e9).epsilon(0.005));
  BenchShape two = bench_shape("OLMoE-1B-7B");
  const int64_t whole = random_weight_bytes(two);
  CHECK(layers_that_fit(two, whole) == 16);
  CHECK(layers_that_fit(two, whole - 1) == 15);
  two.model.layers.resize(2);
  CHECK(layers_that_fit(bench_shape("OLMoE-1B-7B"), random_weight_bytes(two)) == 2);
}

TEST_CASE("bench: aliased random memory repeats one piece, own memory does too") {
  for (const bool aliased : {true, false}) {
    RandomMemory memory(aliased, 10000);  // rounded up to whole pages
    const auto& piece = memory.piece(RandomMemory::Kind::weights);
    for (const size_t bytes : {size_t{100}, size_t{50000}, size_t{300000}}) {
      const auto view = memory.view(RandomMemory::Kind::weights, bytes);
      const auto* data = static_cast<const unsigned char*>(view.get());
      CHECK(reinterpret_cast<uintptr_t>(data) % 64 == 0);
      const auto first = std::search(piece.begin(), piece.end(), data, data + 64) - piece.begin();
      size_t wrong = 0;
      for (size_t i = 0; i < bytes; ++i) wrong += data[i] != piece[(static_cast<size_t>(first) + i) % piece.size()];
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("bench: every op on the CPU and on the kernels of the device" *
          doctest::test_suite("repeats: ops that other tests run too")) {
  const OpBenchOptions options = tiny_options();
  {
    const auto cpu = make_cpu_backend({1, "auto"});
    check_ops(*cpu, options);
  }
  const auto shim = make_shim_backend({});
  check_ops(*shim, options);
  const MachineLimits limits = measure_device_limits(*shim, {1 << 16, 64, 0});
  CHECK(limits.device);
  CHECK(limits.gbytes > 0);
  CHECK(limits.gflops > 0);
  // Whichever takes longer: a second of bytes, half a second of operations.
  CHECK(limits.least_seconds(limits.gflops * 5e8, limits.gbytes * 1e9) == doctest::Approx(1));
}

TEST_CASE("bench: what a whole model of random weights does on a device") {
  if (!test::have_gpu()) return;
  const Ran ran = bench("--shape olmoe-1b-7b --layers 2 --json --quiet --repeats 1 --device cuda");
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  const json::Value document = json_lines(ran.out).back();
  CHECK(real(*document.find("upload"), "gbytes_per_second") > 0);
  CHECK(document.find("decode")->items().size() == 3);
}

TEST_CASE("bench: clocks from nvidia-smi, none where there is none") {
  CHECK(DeviceWatch("cpu").finish().is_null());
  CHECK(range_of({3, NAN, 1, 2}).find("median")->real() == 2);
  CHECK(range_of({NAN}).is_null());
  // A program of that name that prints what nvidia-smi would.
  const test::TemporaryDirectory folder;
  test::write_file(folder / "nvidia-smi",
                   "#!/bin/sh\necho 'some message'\necho 'NVIDIA X, 1.2, 1000, 2600, 40, [N/A], 0'\n"
                   "echo 'NVIDIA X, 1.2, 1980, 2619, 50, 300.5, 90'\nsleep 30\n");
  std::filesystem::permissions(folder / "nvidia-smi", std::filesystem::perms::owner_all);
  const std::string path = std::getenv("PATH");
  setenv("PATH", (folder.path().string() + ":" + path).c_str(), 1);
  DeviceWatch watch("cuda:0");
  setenv("PATH", path.c_str(), 1);
  const double start = now();
  while (now() - start < 0.5) {
  }
  const json::Value state = watch.finish();
  CHECK(now() - start < 5);  // ended, not waited for
  REQUIRE(!state.is_null());
  CHECK(state.find("name")->string() == "NVIDIA X");
  CHECK(state.find("sm_mhz")->find("least")->real() == 1980);  // while the device worked
  CHECK(state.find("watts")->find("median")->real() == 300.5);
}

TEST_CASE("bench: the page of measurements says what the results say") {
  const Ran ran =
      test::run_command("cd " + test::source_dir().string() + " && python3 tools/bench/measurements_page.py --check");
  INFO(ran.err);
  CHECK(ran.code == 0);
}
