// The exhaustive map against one scored run a cell, bit for bit, and gradients as they are written to disk.
#include "eval/causal/map.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/files.h"
#include "base/safetensors.h"
#include "eval/causal/gradient_trace.h"
#include "eval/causal/mean_contribution.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "probes/trace.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
namespace fs = std::filesystem;

struct Setup {
  Session session;
  std::vector<Record> records;
  RecordJobs made;
  // `name`: of a model of the goldens, or the directory above one.
  Setup(const std::string& name, const std::vector<std::string>& lines, const EditPlan* = nullptr)
      : session(open_session((test::goldens_dir() / name / "model").string(), {})) {
    for (size_t i = 0; i < lines.size(); ++i)
      records.push_back(parse_record(json::parse(lines[i], "records"), "records:" + std::to_string(i + 1)));
    made = make_jobs(session, records, Generate{}, nullptr);
  }
};

const std::vector<std::string> two = {
    R"({"id":"a","tokens":[5,9,33,17,40,12,61,8,25,30],"spans":{"x":[2,5]},"answer":7,"foil":9})",
    R"({"id":"b","tokens":[44,3,9,71],"answer":11,"foil":3})"};

std::vector<float> floats(const safetensors::File& file, const std::string& name) {
  const auto& info = file.at(name);
  std::vector<float> out(info.elements());
  std::memcpy(out.data(), file.data(info), out.size() * 4);
  return out;
}

// nll of a whole run under one edit.
double nll(const Setup& setup, size_t record, const std::string& edit) {
  Job job = setup.made.jobs[record];
  job.index = 0;
  job.task = Score{};
  if (!edit.empty()) {
    const json::Value edits = json::parse("[" + edit + "]", "edits");
    job.plan = setup.session.edits(json::Ref(edits, "edits"), ".", 0);
  }
  double sum = 0;
  setup.session.run({job}, setup.session.options,
                    {{},
                     [&](Result result) {
                       for (const double x : result.logprobs) sum += x;
                     },
                     {}},
                    nullptr);
  return -sum / static_cast<double>(job.n_given() - 1);
}

// Later tokens and layers whose set of experts is another under the edit.
int32_t flips_of(const Setup& setup, size_t record, const std::string& edit, int64_t position, int32_t layer) {
  const test::TemporaryDirectory dir;
  std::vector<std::vector<std::set<int32_t>>> routes;
  for (const bool edited : {false, true}) {
    Job job = setup.made.jobs[record];
    job.index = 0;
    TraceRequest request;
    request.dir = dir / (edited ? "edited" : "base");
    request.points = PointSet::parse("*.router.ids", setup.session.shape);
    if (edited) {
      const json::Value edits = json::parse("[" + edit + "]", "edits");
      request.plan = job.plan = setup.session.edits(json::Ref(edits, "edits"), ".", 0);
    }
    setup.session.trace({job}, setup.session.options, request, [&](int64_t) { return setup.records[record].source; },
                        {});
    const auto file = safetensors::File::open(request.dir / "trace.safetensors");
    const auto& info = file->at("router.ids");
    const auto* ids = reinterpret_cast<const uint8_t*>(file->data(info));
    routes.emplace_back();
    for (int64_t i = 0; i < info.shape[0] * info.shape[1]; ++i) {
      routes.back().emplace_back();
      for (int64_t slot = 0; slot < info.shape[2]; ++slot) routes.back().back().insert(ids[i * info.shape[2] + slot]);
    }
  }
  const std::vector<int32_t> layers = setup.session.model.moe_layers();
  int32_t flips = 0;
  for (size_t i = 0; i < routes[0].size(); ++i)
    if (static_cast<int64_t>(i / layers.size()) >= position && layers[i % layers.size()] > layer)
      flips += routes[0][i] != routes[1][i];
  return flips;
}

std::vector<int32_t> moe_layers(const Setup& setup) { return setup.session.model.moe_layers(); }

}  // namespace

TEST_CASE("causal map: every cell is a scored run with that slot taken out, bit for bit") {
  for (const std::string name : {"mixtral", "deepseek_v2_full", "gpt_oss"}) {
    const Setup setup(name, two);
    const test::TemporaryDirectory dir;
    for (const Without without : {Without::hole, Without::ban}) {
      CAPTURE(name);
      CAPTURE(without_name(without));
      MapRequest request;
      request.dir = dir / std::string(without_name(without));
      request.metric = Metric::nll;
      request.without = without;
      request.layers = moe_layers(setup);
      request.step_tokens = 40;  // several steps a layer
      const MapResult result = map_effects(setup.session, setup.records, setup.made, request);
      const auto file = safetensors::File::open(request.dir / "map.safetensors");
      const std::vector<float> effects = floats(*file, "effect");
      const auto* ids = reinterpret_cast<const uint8_t*>(file->data(file->at("router.ids")));
      const size_t k = static_cast<size_t>(setup.session.model.n_active()), n_layers = request.layers.size();
      REQUIRE(effects.size() == 14 * n_layers * k);
      CHECK(result.counts.cells == static_cast<int64_t>(effects.size()));
      CHECK(result.counts.layers_run < 0.6 * result.counts.layers_of_brute_force);
      CHECK(result.counts.share() < 0.6);
      const auto* flips = reinterpret_cast<const int32_t*>(file->data(file->at("flips")));
      size_t nonzero = 0, flipped = 0;
      for (size_t cell = 0; cell < effects.size(); cell += 7) {  // a seventh of them
        const size_t row = cell / (n_layers * k), record = row < 10 ? 0 : 1, position = row - (record ? 10 : 0);
        const std::string where = R"("layers":")" + std::to_string(request.layers[cell / k % n_layers]) +
                                  R"(","experts":[)" + std::to_string(ids[cell]) + R"(],"tokens":{"positions":")" +
                                  std::to_string(position) + ":" + std::to_string(position + 1) + R"("}})";
        const std::string edit = without == Without::hole ? R"({"op":"scale_expert","by":0,)" + where
                                                          : R"({"op":"deactivate","mode":"ban",)" + where;
        const double want = nll(setup, record, edit) - nll(setup, record, "");
        CHECK(effects[cell] == static_cast<float>(want));
        nonzero += effects[cell] != 0;
        CHECK(flips[cell] ==
              flips_of(setup, record, edit, static_cast<int64_t>(position), request.layers[cell / k % n_layers]));
        flipped += flips[cell] > 0;
      }
      CHECK(flipped > 0);
      CHECK(nonzero > effects.size() / 10);
    }
  }
}

TEST_CASE("causal map: sequences of any length find room for their cells") {
  // Cells of 34 tokens in blocks of 32: many of them touch two.
  std::string line = R"({"id":"a","tokens":[)";
  for (int t = 0; t < 34; ++t) line += (t > 0 ? "," : "") + std::to_string(3 + t * 7 % 80);
  const Setup setup("olmoe", {line + "]}"});
  const test::TemporaryDirectory dir;
  MapRequest request;
  request.dir = dir / "map";
  request.metric = Metric::nll;
  request.layers = {moe_layers(setup).back()};
  const MapResult result = map_effects(setup.session, setup.records, setup.made, request);
  CHECK(result.counts.cells == 34 * setup.session.model.n_active());
  test::write_file(dir / "map/notes.txt", "mine");
  CHECK_THROWS_WITH(
      map_effects(setup.session, setup.records, setup.made, request),
      ((dir / "map").string() + ": expected an empty directory or one that holds a map, found \"notes.txt\" in it")
          .c_str());
}

TEST_CASE("causal map: at 128 tokens it takes less than 0.3 of the layers of a whole run a cell") {
  std::string line = R"({"id":"a","tokens":[)";
  for (int t = 0; t < 128; ++t) line += (t > 0 ? "," : "") + std::to_string(3 + t * 7 % 80);
  const test::TemporaryDirectory dir;
  loaders::synthetic::make_model(
      json::parse(R"({"family":"olmoe","dtype":"f32","config":{"num_hidden_layers":3,"hidden_size":16,)"
                  R"("intermediate_size":8,"num_attention_heads":1,"num_key_value_heads":1,"num_experts":3,)"
                  R"("num_experts_per_tok":1,"vocab_size":96,"max_position_embeddings":128}})",
                  "spec"),
      "spec", dir / "made/model");
  const Setup setup((dir / "made").string(), {line + "]}"});
  MapRequest request;
  request.dir = dir / "map";
  request.metric = Metric::nll;
  request.layers = moe_layers(setup);
  const MapResult result = map_effects(setup.session, setup.records, setup.made, request);
  const int64_t n = 128, k = setup.session.model.n_active(), n_layers = setup.session.model.n_layers();
  int64_t layers = 0;  // each cell: its token from its layer on, and it and all later ones from the next layer on
  for (const int32_t l : request.layers) layers += k * ((n_layers - l) * n + (n_layers - 1 - l) * n * (n + 1) / 2);
  const int64_t cells = n * k * static_cast<int64_t>(request.layers.size());
  CHECK(result.counts.cells == cells);
  CHECK(result.counts.layers_run == static_cast<double>(layers));
  CHECK(result.counts.layers_of_brute_force == static_cast<double>(cells * n * n_layers));
  CHECK(result.counts.share() <= 0.3);
}

TEST_CASE("causal map: only what is asked for, and means of reference records") {
  const Setup setup("olmoe", two);
  const test::TemporaryDirectory dir;
  const std::vector<int32_t> layers = {moe_layers(setup).back()};
  const MeanContributions means(setup.session, setup.made.jobs, layers);
  MapRequest request;
  request.dir = dir / "map";
  request.metric = Metric::logit_diff;
  request.without = Without::mean;
  request.layers = layers;
  request.span = "x";
  request.mean_contribution = [&](int32_t layer, int32_t expert) -> const std::vector<double>& {
    return means.of(layer, expert);
  };
  map_effects(setup.session, setup.records, setup.made, request);
  const auto file = safetensors::File::open(request.dir / "map.safetensors");
  const std::vector<float> effects = floats(*file, "effect");
  const size_t k = static_cast<size_t>(setup.session.model.n_active());
  for (size_t cell = 0; cell < effects.size(); ++cell) {
    const size_t row = cell / k;
    if (row >= 2 && row < 5) {
      // In the last layer, only the last token's logits count: nothing before it can change them.
      CHECK(effects[cell] == 0);
    } else {
      CHECK(std::isnan(effects[cell]));
    }
  }
  CHECK_THROWS_WITH(means.of(99, 0),
                    "--reference: expected tokens that select expert 0 of layer 99, found none among the "
                    "reference records");
}

TEST_CASE("gradients on disk: tensors, shapes and the metric; batches change nothing") {
  const Setup setup("qwen2_moe", two);
  const test::TemporaryDirectory dir;
  std::vector<std::string> bytes;
  for (const int64_t batch : {1, 8}) {
    GradientRequest request;
    request.trace.dir = dir / std::to_string(batch);
    request.trace.points = gradient_points(
        "*.router.logits,*.router.weights,layer.1.resid_in,layer.1.attn.pattern,logits", setup.session.shape);
    request.metric = Metric::logit_diff;
    request.batch = batch;
    const GradientResult found = trace_gradients(setup.session, setup.records, setup.made, request, [&](int64_t i) {
      return setup.records[static_cast<size_t>(i)].source;
    });
    bytes.push_back(test::read_file(request.trace.dir / "trace.safetensors"));
    const TraceReader trace(request.trace.dir);
    const int64_t n_layers = static_cast<int64_t>(moe_layers(setup).size()), n_vocab = setup.session.model.n_vocab;
    CHECK(trace.tensor_shape("grad.router.logits") ==
          std::vector<int64_t>{14, n_layers, setup.session.model.n_experts()});
    CHECK(trace.tensor_shape("grad.router.weights") ==
          std::vector<int64_t>{14, n_layers, setup.session.model.n_active()});
    // Filled up with zeros to the longest record; what a token does not see has none.
    const std::vector<int64_t> pattern_shape = trace.tensor_shape("grad.layer.1.attn.pattern");
    CHECK(pattern_shape == std::vector<int64_t>{14, pattern_shape[1], 10});
    CHECK(trace.tensor_shape("grad.layer.1.resid_in") == std::vector<int64_t>{14, setup.session.model.d_model});
    const auto file = safetensors::File::open(request.trace.dir / "trace.safetensors");
    std::vector<double> metric(2);
    std::memcpy(metric.data(), file->data(file->at("metric")), 16);
    CHECK(metric == found.metrics);
    const std::vector<float> pattern = floats(*file, "grad.layer.1.attn.pattern");
    size_t seen = 0;
    for (size_t i = 0; i < pattern.size(); ++i) {
      const size_t row = i / 10 / static_cast<size_t>(pattern_shape[1]), position = row < 10 ? row : row - 10;
      if (i % 10 > position) CHECK(pattern[i] == 0);
      seen += pattern[i] != 0;
    }
    CHECK(seen > 100);
    // Of the last token's logits: 1 at the answer, -1 at the foil, 0 elsewhere and at all other tokens.
    const std::vector<float> slope = floats(*file, "grad.logits");
    std::set<size_t> expected = {static_cast<size_t>(9 * n_vocab + 7), static_cast<size_t>(9 * n_vocab + 9),
                                 static_cast<size_t>(13 * n_vocab + 11), static_cast<size_t>(13 * n_vocab + 3)};
    for (size_t i = 0; i < slope.size(); ++i) CHECK((slope[i] != 0) == (expected.count(i) > 0));
  }
  CHECK(bytes[0] == bytes[1]);
}

TEST_CASE("metrics: what a record lacks is said with its place") {
  const auto refused = [](Metric metric, const std::string& line) {
    const Setup setup("olmoe", {line});
    try {
      metric_rows(metric, setup.records[0], setup.made.encoded[0], setup.session.encode);
    } catch (const std::exception& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(refused(Metric::logprob, R"({"id":"a","tokens":[1,2]})") ==
        "records:1: expected a target for the metric logprob, found none");
  CHECK(refused(Metric::nll, R"({"id":"a","tokens":[1]})") ==
        "records:1: expected at least one predicted token for the metric nll, found none");
  CHECK(refused(Metric::logit_diff, R"({"id":"a","tokens":[1,2],"answer":3})") ==
        "records:1: expected a key \"foil\" for the metric logit_diff, found none");
  CHECK(refused(Metric::logit_diff, R"({"id":"a","tokens":[1,2],"answer":3,"foil":3})") ==
        "records:1: expected an answer and a foil that differ in their first token, found token 3 for both");
  CHECK_THROWS_WITH(parse_metric("loss", "--metric"),
                    "--metric: expected logprob, nll, logit_diff or kl, found \"loss\"");
  const Setup setup("olmoe", {R"({"id":"a","tokens":[1,2]})"});
  CHECK_THROWS_AS(gradient_points("*.router.margin", setup.session.shape), Error);
}
