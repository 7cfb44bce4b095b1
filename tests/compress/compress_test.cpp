// Assignment, alignment, merging and rewriting: each against what is known by construction.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <random>

#include "base/half.h"
#include "base/mxfp4.h"
#include "base/no_number.h"
#include "engine/changed_model.h"
#include "engine/matrix_values.h"
#include "engine/runner.h"
#include "eval/compress/assignment.h"
#include "eval/compress/measure.h"
#include "eval/compress/neurons.h"
#include "eval/compress/plan.h"
#include "loaders/model/load.h"
#include "loaders/model/rewrite.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

double sum_of(const std::vector<float>& scores, const std::vector<int32_t>& columns) {
  double sum = 0;
  for (size_t i = 0; i < columns.size(); ++i) sum += scores[i * columns.size() + columns[i]];
  return sum;
}

std::vector<float> random_values(size_t n, uint32_t seed, float scale = 1) {
  std::mt19937 draw(seed);
  std::vector<float> out(n);
  for (float& value : out) value = scale * (static_cast<float>(draw() >> 8) * 0x1p-23f - 1);
  return out;
}

// A layer of experts whose tensors are vectors of this test.
struct TestExperts {
  int64_t n = 0, d = 0;
  std::vector<std::vector<float>> gate, up, down;  // [expert]
  MoeWeights weights;

  void point() {
    weights.gate.clear();
    weights.up.clear();
    weights.down.clear();
    for (size_t e = 0; e < gate.size(); ++e) {
      weights.gate.push_back({gate[e].data(), DType::f32, n, d, d, nullptr, 0});
      weights.up.push_back({up[e].data(), DType::f32, n, d, d, nullptr, 0});
      weights.down.push_back({down[e].data(), DType::f32, d, n, n, nullptr, 0});
    }
  }
};

// Expert 1 is expert 0 with its neurons in another order and of another scale and sign.
TestExperts planted(int64_t n, int64_t d) {
  TestExperts experts;
  experts.n = n;
  experts.d = d;
  for (uint32_t e = 0; e < 3; ++e) {
    experts.gate.push_back(random_values(static_cast<size_t>(n * d), 10 + e));
    experts.up.push_back(random_values(static_cast<size_t>(n * d), 20 + e));
    experts.down.push_back(random_values(static_cast<size_t>(n * d), 30 + e));
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t j = (5 * i + 3) % n;
    const float factor = static_cast<float>(i % 2 == 0 ? -1 : 1) * std::ldexp(1.0f, static_cast<int>(i % 5) - 2);
    for (int64_t c = 0; c < d; ++c) {
      experts.gate[1][j * d + c] = experts.gate[0][i * d + c];
      experts.up[1][j * d + c] = experts.up[0][i * d + c] * factor;
      experts.down[1][c * n + j] = experts.down[0][c * n + i] / factor;
    }
  }
  experts.point();
  return experts;
}

std::shared_ptr<Prompt> some_tokens(const Model& model) {
  auto prompt = std::make_shared<Prompt>("a");
  for (int64_t t = 0; t < 12; ++t) prompt->tokens.push_back(static_cast<int32_t>((t * 37 + 11) % model.n_vocab));
  return prompt;
}

uint64_t logits_hash(const Model& model, const Weights& weights) {
  const auto backend = make_cpu_backend({1, "auto"});
  Forward forward(*backend, model, weights, 0);
  Job job;
  job.prompt = some_tokens(model);
  job.task = Score{};
  uint64_t hash = 0;
  RunEvents events;
  events.on_done = [&](Result result) { hash = result.logits_hash; };
  run_jobs(forward, {job}, {}, events, nullptr);
  return hash;
}

LoadedModel golden(const std::string& name) { return load_model((goldens_dir() / name / "model").string()); }

// Every second expert stays; merging, the others go to the one before them.
Plan every_second(const Model& model, bool merges) {
  Plan plan;
  plan.merges = merges;
  for (const int32_t layer : model.moe_layers()) {
    LayerPlan& out = plan.layers.emplace_back();
    out.layer = layer;
    for (int32_t e = 0; e < model.layers[layer].moe()->router.n_experts; e += 2) {
      out.keep.push_back(e);
      if (merges) out.groups.push_back({{e, e + 1}, {0.75, 0.25}});
    }
  }
  return plan;
}

}  // namespace

TEST_CASE("compress: the best assignment is the best of all permutations") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const int64_t n = 1 + seed % 6;
    std::vector<float> scores = random_values(static_cast<size_t>(n * n), seed);
    if (seed % 4 == 0)
      for (float& score : scores) score = std::round(score * 2);  // ties
    std::vector<int32_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    double best = -1e9;
    do {
      best = std::max(best, sum_of(scores, order));
    } while (std::next_permutation(order.begin(), order.end()));
    std::vector<int32_t> found = best_assignment(scores, n);
    CHECK(sum_of(scores, found) == doctest::Approx(best));
    std::sort(found.begin(), found.end());
    for (int64_t i = 0; i < n; ++i) CHECK(found[i] == i);
  }
  CHECK(best_assignment({}, 0).empty());
  // A planted permutation among many rows.
  const int64_t n = 60;
  std::vector<float> scores = random_values(static_cast<size_t>(n * n), 99);
  for (int64_t i = 0; i < n; ++i) scores[i * n + (7 * i + 2) % n] += 4;
  const std::vector<int32_t> found = best_assignment(scores, n);
  for (int64_t i = 0; i < n; ++i) CHECK(found[i] == (7 * i + 2) % n);
}

TEST_CASE("compress: order, scale and sign of neurons are no difference") {
  const TestExperts experts = planted(16, 12);
  const auto backend = make_cpu_backend({1, "auto"});
  const Activation silu;
  const Neurons a = read_neurons(experts.weights, 0, silu), b = read_neurons(experts.weights, 1, silu),
                c = read_neurons(experts.weights, 2, silu);
  for (const int64_t exact : {int64_t{4096}, int64_t{1}}) {
    const Alignment same = align(a, b, *backend, exact), other = align(a, c, *backend, exact);
    CHECK(same.exact == (exact > 1));
    CHECK(same.similarity == doctest::Approx(1).epsilon(1e-6));
    for (int64_t i = 0; i < 16; ++i) {
      CHECK(same.of[i] == (5 * i + 3) % 16);
      CHECK(same.sign[i] == (i % 2 == 0 ? -1 : 1));
    }
    CHECK(other.similarity < 0.6);
  }
  // Where up has an offset its scale says something: only the order is free.
  Activation clamped;
  clamped.kind = Activation::Kind::clamped;
  const double rescaled =
      align(read_neurons(experts.weights, 0, clamped), read_neurons(experts.weights, 1, clamped), *backend).similarity;
  CHECK(rescaled < 0.95);
}

TEST_CASE("compress: what merging makes of copies is the copy, bit by bit") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TestExperts experts = planted(16, 12);
    if (dtype == DType::bf16) {
      // Powers of two keep bf16 values exact.
      for (auto* list : {&experts.gate, &experts.up, &experts.down})
        for (auto& values : *list)
          for (float& value : values) value = float_of_bf16(bf16_of_float(value));
    }
    Model model;
    model.d_model = 12;
    model.n_vocab = 8;
    model.norm_eps = 1e-6f;
    model.max_positions = 8;
    model.rope.inv_freq = {1};
    Moe moe;
    moe.router.n_experts = 3;
    moe.router.n_active = 1;
    moe.d_ff = 16;
    Gqa gqa;
    gqa.n_heads = gqa.n_kv_heads = 1;
    gqa.d_head = 2;
    model.layers.push_back({gqa, moe});
    Weights weights;
    weights.layers.resize(1);
    weights.layers[0].ffn = experts.weights;
    Plan plan;
    plan.merges = true;
    plan.layers.push_back({0, {0, 2}, {{{0, 1}, {0.625, 0.375}}}});
    ApplyOptions options;
    options.stored_dtype = [&](const TensorId&) { return dtype; };
    const ChangedModel changed = apply_plan(model, weights, plan, options);
    const MoeWeights& merged = std::get<MoeWeights>(changed.weights.layers[0].ffn);
    std::vector<float> row(16), was(16);
    for (const int32_t e : {0, 1}) {
      for (int64_t i = 0; i < 16; ++i) {
        engine::read_row(merged.up[e], i, row.data());
        engine::read_row(experts.weights.up[0], i, was.data());
        CHECK(std::equal(row.begin(), row.begin() + 12, was.begin()));
        engine::read_row(merged.gate[e], i, row.data());
        engine::read_row(experts.weights.gate[0], i, was.data());
        CHECK(std::equal(row.begin(), row.begin() + 12, was.begin()));
      }
      for (int64_t i = 0; i < 12; ++i) {
        engine::read_row(merged.down[e], i, row.data());
        engine::read_row(experts.weights.down[0], i, was.data());
        CHECK(row == was);
      }
    }
    CHECK(merged.up[0].data == merged.up[1].data);
    CHECK(merged.up[2].data == experts.weights.up[2].data);
    CHECK(changed.changes[0].same_as == std::vector<int32_t>{0, 0, 2});
  }
}

TEST_CASE("compress: what is written is what was judged, in every layout") {
  // One expert a tensor, in one file and in shards; transposed, in blocks; gate over up; F32, F16 and BF16.
  for (const char* name : {"mixtral_window_f16", "olmoe", "gpt_oss_mxfp4", "gpt_oss_resaved", "deepseek_v2_resaved"}) {
    CAPTURE(name);
    const LoadedModel loaded = golden(name);
    const Rewrite rewrite(loaded.resolved.files, loaded.family, loaded.model);
    ApplyOptions options;
    options.stored_dtype = [&](const TensorId& id) { return rewrite.stored_dtype(id); };
    for (const bool merges : {false, true}) {
      CAPTURE(merges);
      const ChangedModel changed =
          apply_plan(loaded.model, loaded.weights, every_second(loaded.model, merges), options);
      TemporaryDirectory scratch;
      rewrite.write(changed, scratch / "model");
      const LoadedModel written = load_model((scratch / "model").string());
      CHECK(written.unknown_tensors.empty());
      CHECK(logits_hash(written.model, written.weights) == logits_hash(changed.model, changed.weights));
      CHECK(logits_hash(written.model, written.weights) != logits_hash(loaded.model, loaded.weights));
      const Rewrite::Sizes sizes = rewrite.sizes(changed), original = rewrite.original_sizes();
      int64_t stored = 0;
      for (const auto& entry : std::filesystem::directory_iterator(scratch / "model"))
        if (entry.path().extension() == ".safetensors") stored += static_cast<int64_t>(entry.file_size());
      CHECK(sizes.stored_bytes == stored);
      CHECK(sizes.bytes < original.bytes);
      CHECK((sizes.stored_bytes < original.stored_bytes) == !merges);
      CHECK(written.model.n_experts() == (merges ? 8 : 4));
      CHECK_THROWS_WITH_AS(rewrite.write(changed, scratch / "model"), doctest::Contains("expected a new directory"),
                           Error);
    }
    // Nothing taken away: the same model.
    TemporaryDirectory scratch;
    rewrite.write(keep_experts(loaded.model, loaded.weights, {}), scratch / "same");
    const LoadedModel same = load_model((scratch / "same").string());
    CHECK(logits_hash(same.model, same.weights) == logits_hash(loaded.model, loaded.weights));
  }
}

TEST_CASE("compress: sizes that cannot be are refused, with the layer") {
  const Model model = golden("mixtral").model, grouped = golden("deepseek_v2_full").model;
  const auto said = [](const Model& of, int64_t keep, bool merges) -> std::string {
    try {
      check_keep(of, keep, merges);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK(said(model, 1, false) == "--keep: layer 0: expected a number from 2 (active experts) to 8 (experts), found 1");
  CHECK(said(model, 9, true) == "--keep: layer 0: expected a number from 2 (active experts) to 8 (experts), found 9");
  CHECK(said(model, 2, false).empty());
  CHECK(said(grouped, 6, false) ==
        "--keep: layer 1: expected a multiple of its 4 groups of experts (n_group), found 6");
  CHECK(said(grouped, 4, false) ==
        "--keep: layer 1: expected at least 8: its 2 groups (topk_group) must hold 3 active experts, found 4");
  CHECK(said(grouped, 4, true).empty());
  CHECK(kept_of_share(0.5, 7, 2) == 4);
  CHECK(kept_of_share(0.35, 20, 2) == 7);
  CHECK(kept_of_share(0.01, 64, 6) == 6);
  CHECK(kept_of_share(1, 64, 6) == 64);
  CHECK_THROWS_WITH(keep_experts(model, golden("mixtral").weights, {{0, {3, 1}}}),
                    "experts of layer 0: expected ascending ids below 8, found 1");
}

TEST_CASE("compress: blocks of e2m1 values keep their values") {
  std::vector<uint8_t> codes(16), again(16);
  std::vector<float> values(32), back(32);
  for (int round = 0; round < 50; ++round) {
    const std::vector<float> drawn = random_values(16, static_cast<uint32_t>(round));
    for (size_t i = 0; i < 16; ++i) codes[i] = static_cast<uint8_t>(std::fabs(drawn[i]) * 255);
    floats_of_mxfp4(codes.data(), static_cast<uint8_t>(100 + round), values.data());
    const uint8_t scale = mxfp4_of_floats(values.data(), again.data());
    floats_of_mxfp4(again.data(), scale, back.data());
    CHECK(back == values);
  }
}

TEST_CASE("compress: super experts stay, whatever their score, and nothing is merged into them") {
  // 99.5th percentile and a tenth of the largest, in three of four layers.
  std::vector<LayerMeasures> layers(4);
  for (int32_t l = 0; l < 4; ++l) {
    layers[l].layer = l + 1;
    layers[l].n_experts = 100;
    layers[l].experts.resize(100);
    for (int32_t e = 0; e < 99; ++e) layers[l].experts[e].add(1, 1, 1);  // the last is never used
  }
  layers[0].experts[7].add(1, 1, 900);
  layers[2].experts[3].add(1, 1, 91);
  layers[2].experts[4].add(1, 1, 89);    // below a tenth
  layers[3].experts[5].add(1, 1, 1000);  // too late
  layers[0].experts[7].add(1, 1, 2);
  CHECK(super_experts(layers) == std::map<int32_t, std::vector<int32_t>>{{1, {7}}});
  for (int i = 0; i < 8; ++i) {
    LayerMeasures more = layers[1];
    more.layer = 5 + i;
    layers.push_back(more);
  }
  std::map<int32_t, std::vector<int32_t>> found = super_experts(layers);
  CHECK(found == std::map<int32_t, std::vector<int32_t>>{{1, {7}}, {4, {5}}});
  layers[3].experts[5] = layers[0].experts[0];
  found = super_experts(layers);
  CHECK(found == std::map<int32_t, std::vector<int32_t>>{{1, {7}}, {3, {3}}});

  const Model model = golden("mixtral").model;
  std::vector<LayerMeasures> measures(3);
  std::vector<LayerPairs> pairs(3);
  std::vector<std::vector<double>> scores(3, {8, 7, 6, 5, 4, 3, 2, no_number});
  for (int32_t l = 0; l < 3; ++l) {
    measures[l].layer = pairs[l].layer = l;
    measures[l].n_experts = pairs[l].n_experts = 8;
    measures[l].experts.resize(8);
    pairs[l].weight.assign(64, 0.5);
    pairs[l].overlap.assign(64, 0);
    pairs[l].output.assign(64, no_number);
    pairs[l].weight[6 * 8 + 7] = pairs[l].weight[7 * 8 + 6] = 1;  // most like a super expert
  }
  PlanInputs inputs;
  inputs.model = &model;
  inputs.measures = &measures;
  inputs.pairs = &pairs;
  inputs.kept_always = {{1, {7}}};
  CHECK(best_plan(inputs, "plan", 3, scores).layers[0].keep == std::vector<int32_t>{0, 1, 2});
  CHECK(best_plan(inputs, "plan", 3, scores).layers[1].keep == std::vector<int32_t>{0, 1, 7});
  for (uint64_t seed = 0; seed < 5; ++seed) CHECK(random_plan(inputs, 2, seed).layers[1].keep.back() == 7);
  CHECK(random_plan(inputs, 4, 1).layers[0].keep != random_plan(inputs, 4, 2).layers[0].keep);
  inputs.merges = true;
  const Plan merged = best_plan(inputs, "plan", 3, scores);
  CHECK(merged.layers[1].groups.size() == 1);  // all alike: to the lowest id
  CHECK(merged.layers[1].groups[0].experts == std::vector<int32_t>{0, 2, 3, 4, 5, 6});
  CHECK(merged.layers[1].groups[0].weights[5] == doctest::Approx(1.0 / 6));
  inputs.kept_always = {{1, {5, 6, 7}}};
  CHECK_THROWS_WITH(best_plan(inputs, "plan", 2, scores),
                    "--keep: layer 1: expected at least 3 (its super experts), found 2");
  CHECK_THROWS_WITH(best_plan(inputs, "plan", 3, scores),
                    "--keep: layer 1: expected at least 4 (its super experts and one to merge into), found 3");
}
