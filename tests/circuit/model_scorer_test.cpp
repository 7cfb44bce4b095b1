// The model with some parts ablated: against whole runs, edits written by hand, and direct edges without a forward.
#include "eval/circuit/model_scorer.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/json.h"
#include "eval/causal/direct_edges.h"
#include "eval/circuit/edge_run.h"
#include "eval/circuit/edges.h"
#include "eval/circuit/forecast.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "probes/edit_memory.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
using namespace signalbox::probes;
namespace fs = std::filesystem;

namespace {

// A tiny random model and pairs of records that differ in two tokens.
struct Tiny {
  test::TemporaryDirectory dir;
  std::unique_ptr<Session> session;
  std::vector<Record> records;
  RecordJobs made;
  std::vector<CausalPair> pairs;

  explicit Tiny(const std::string& family, Metric metric = Metric::logit_diff, bool mapped = false) {
    loaders::synthetic::make_model(
        json::parse(R"({"family":")" + family + R"(","dtype":"f32","seed":5,"config":{"num_hidden_layers":3}})",
                    "spec"),
        "spec", dir / "m");
    session = std::make_unique<Session>(loaders::open_session((dir / "m").string(), {}));
    std::string lines;
    for (int p = 0; p < 3; ++p)
      for (const bool clean : {true, false}) {
        const std::string name = "p" + std::to_string(p);
        json::Value tokens = json::Value::array();
        for (int t = 0; t < 6; ++t) tokens.push_back(10 + (7 * t + 3 * p) % 40 + (!clean && t % 3 == 1 ? 31 : 0));
        if (mapped && !clean) tokens.push_back(9);
        json::Value record = json::Value::object();
        record.set("id", name + (clean ? "c" : "x")).set("tokens", tokens).set("pair", name);
        record.set("condition", clean ? "clean" : "corrupt").set("answer", 5).set("foil", 6);
        // The last token has no other to take values from; the rest stand for later ones.
        if (mapped) record.set("map", json::parse("[[0,1],[1,2],[3,4],[4,5]]", "map"));
        lines += json::dump(record) + "\n";
      }
    test::write_file(dir / "pairs.jsonl", lines);
    records = read_records((dir / "pairs.jsonl").string());
    made = make_jobs(*session, records, Generate{}, nullptr);
    pairs = causal_pairs(metric, records, made, session->encode);
  }
  double metric(size_t pair, bool clean, const EditPlan* plan = nullptr) const {
    const CausalPair& of = pairs[pair];
    const MetricRows& rows = clean ? of.clean_rows : of.corrupt_rows;
    const RecordedRun run =
        record_run(*session, made.jobs[clean ? of.clean : of.corrupt], rows.n_rows(), PointSet(), "run", plan);
    return metric_value(*session->backend, rows, run.logits, run.logits);
  }
  std::shared_ptr<const EditPlan> plan(const std::string& edits) const {
    const json::Value parsed = json::parse(edits, "edits");
    return session->edits(json::Ref(parsed, "edits"), ".", 0);
  }
};

size_t index_of(const CircuitScorer& scorer, const std::string& name) {
  const auto& nodes = scorer.nodes();
  const auto at = std::find(nodes.begin(), nodes.end(), parse_node(name, "t"));
  REQUIRE(at != nodes.end());
  return static_cast<size_t>(at - nodes.begin());
}

}  // namespace

TEST_CASE("circuit: everything at work is the clean run, nothing the corrupt one, in every family") {
  for (const char* family : {"mixtral", "qwen2_moe", "deepseek_v2", "gpt_oss"}) {
    CAPTURE(family);
    const Tiny tiny(family);
    ModelScorer scorer(*tiny.session, tiny.made, tiny.pairs, {});
    for (size_t p = 0; p < 3; ++p) {
      CHECK(scorer.whole()[p] == tiny.metric(p, true));
      CHECK(scorer.scores(scorer.all())[p] == tiny.metric(p, true));
      CHECK(scorer.none()[p] == doctest::Approx(tiny.metric(p, false)).epsilon(1e-4));
      CHECK(std::fabs(scorer.whole()[p] - scorer.none()[p]) > 1e-3);  // the records do differ
    }
    // The other way round: nothing at work is the clean run.
    ScorerSetup back;
    back.reverse = true;
    ModelScorer reverse(*tiny.session, tiny.made, tiny.pairs, back);
    for (size_t p = 0; p < 3; ++p) {
      CHECK(reverse.whole()[p] == tiny.metric(p, false));
      CHECK(reverse.none()[p] == doctest::Approx(tiny.metric(p, true)).epsilon(1e-4));
    }
    // Zero: as the edits that say so, tokens left as they are.
    ScorerSetup zero;
    zero.ablation = CircuitAblation::zero;
    ModelScorer zeros(*tiny.session, tiny.made, tiny.pairs, zero);
    const auto nothing = tiny.plan(
        R"([{"op":"ablate","point":"attn.z","value":"zero"},{"op":"ablate","point":"moe.out","value":"zero"})" +
        std::string(family == std::string("deepseek_v2") ? R"(,{"op":"ablate","point":"mlp.out","value":"zero"}])"
                                                         : "]"));
    for (size_t p = 0; p < 3; ++p)
      CHECK(zeros.none()[p] == doctest::Approx(tiny.metric(p, true, nothing.get())).epsilon(1e-5));
  }
}

TEST_CASE("circuit: steps of several sequences have the values of single ones") {
  const Tiny tiny("qwen2_moe");
  ScorerSetup one;
  one.batch = 1;
  ModelScorer single(*tiny.session, tiny.made, tiny.pairs, one), many(*tiny.session, tiny.made, tiny.pairs, {});
  NodeMask mask = single.all();
  for (const size_t i : {size_t{0}, size_t{5}, mask.size() - 1, mask.size() / 2}) mask[i] = 0;
  CHECK(single.scores(mask) == many.scores(mask));
}

TEST_CASE("circuit: a part that is out writes what it wrote in the other run, by expert id") {
  const Tiny tiny("deepseek_v2");
  ModelScorer scorer(*tiny.session, tiny.made, tiny.pairs, {});
  const AblatedPair& pair = scorer.pair(0);
  const ModelShape& shape = tiny.session->shape;
  // An expert that some token selects in one run alone.
  NodeId moved;
  for (const NodeId& node : scorer.nodes()) {
    if (node.kind != NodeId::Kind::expert || node.layer != 1) continue;
    for (int64_t t = 0; t < pair.n_tokens(); ++t) {
      const auto absent = [&](const std::vector<float>& x) {
        return std::all_of(x.begin(), x.end(), [](float v) { return v == 0; });
      };
      if (absent(written_by(pair.base(), shape, node, t)) != absent(pair.ablated(node, t))) moved = node;
    }
  }
  REQUIRE(moved.kind == NodeId::Kind::expert);
  // By hand: the difference of its contributions is added to the layer's output at each token.
  EditMemory memory;
  std::string edits;
  for (int64_t t = 0; t < pair.n_tokens(); ++t) {
    EditMemory::Vector difference{{shape.d_model}, pair.ablated(moved, t)};
    const std::vector<float> own = written_by(pair.base(), shape, moved, t);
    for (size_t c = 0; c < own.size(); ++c) difference.values[c] -= own[c];
    memory.add("t" + std::to_string(t), std::move(difference));
    edits += (t ? "," : "[") + std::string(R"({"op":"add","point":"moe.out","layers":"1","vector":"memory:t)") +
             std::to_string(t) + R"(","tokens":{"positions":")" + std::to_string(t) + ":" + std::to_string(t + 1) +
             "\"}}";
  }
  const json::Value parsed = json::parse(edits + "]", "edits");
  const auto plan = EditPlan::parse(json::Ref(parsed, "edits"), ".", shape, 0, &memory);
  NodeMask rest = scorer.all();
  rest[index_of(scorer, node_name(moved))] = 0;
  CHECK(scorer.scores(rest)[0] == doctest::Approx(tiny.metric(0, true, plan.get())).epsilon(1e-5));
  CHECK(scorer.scores(rest)[0] != scorer.whole()[0]);
}

TEST_CASE("circuit: positions that stand for none keep what they are") {
  const Tiny tiny("mixtral", Metric::logit_diff, true);
  ModelScorer scorer(*tiny.session, tiny.made, tiny.pairs, {});
  const AblatedPair& pair = scorer.pair(0);
  CHECK(pair.mapped() == std::vector<uint8_t>{1, 1, 0, 1, 1, 0});
  const NodeId head = parse_node("L1.H0", "t");
  CHECK(pair.ablated(head, 3) == written_by(*pair.other(), tiny.session->shape, head, 4));
  CHECK(std::isfinite(scorer.none()[0]));
}

TEST_CASE("circuit: all edges among some parts are the circuit of these, whatever stands in the others' places") {
  for (const std::string family : {"mixtral", "qwen2_moe", "deepseek_v2"})
    for (const CircuitAblation ablation : {CircuitAblation::corrupt, CircuitAblation::mean, CircuitAblation::zero}) {
      CAPTURE(family);
      CAPTURE(ablation_name(ablation));
      const bool corrupt = ablation == CircuitAblation::corrupt;
      const Tiny tiny(family, corrupt ? Metric::logit_diff : Metric::kl,
                      corrupt);  // positions that stand for none, too
      ScorerSetup setup;
      setup.ablation = ablation;
      if (ablation == CircuitAblation::mean) {
        auto means = std::make_shared<PartMeans>(tiny.session->shape);
        for (const Job& job : tiny.made.jobs)
          means->add(*record_run(*tiny.session, job, 1, node_points(tiny.session->shape), "means").store);
        setup.means = means;
      }
      ModelScorer scorer(*tiny.session, tiny.made, tiny.pairs, setup);
      EdgeRunner runner(scorer);
      NodeMask mask = scorer.nothing();
      std::vector<NodeId> some;
      if (corrupt) some.push_back({});
      for (size_t i = 0; i < mask.size(); ++i)
        if (i * 7 % 5 < 3) {
          mask[i] = 1;
          some.push_back(scorer.nodes()[i]);
        }
      some.push_back({NodeId::Kind::logits, -1, -1, -1});
      const std::vector<EdgeId> edges = edges_between(some);
      std::vector<EdgeId> third;
      for (size_t i = 0; i < edges.size(); i += 3) third.push_back(edges[i]);
      for (size_t p = 0; p < 2; ++p) {
        CHECK(runner.metric(p, KeptEdges(edges, false)) == scorer.scores(mask)[p]);
        CHECK(runner.metric(p, KeptEdges({}, true)) == scorer.whole()[p]);
        CHECK(runner.metric(p, KeptEdges({}, false)) == scorer.none()[p]);
        CHECK(runner.metric(p, KeptEdges(third, true)) != scorer.whole()[p]);
      }
    }
}

TEST_CASE("circuit: means count an expert as 0 where it is not selected") {
  const Tiny tiny("mixtral");
  const ModelShape& shape = tiny.session->shape;
  auto means = std::make_shared<PartMeans>(shape);
  std::vector<RecordedRun> runs;
  for (const Job& job : tiny.made.jobs) runs.push_back(record_run(*tiny.session, job, 1, node_points(shape), "means"));
  int64_t n = 0;
  for (const RecordedRun& run : runs) {
    means->add(*run.store);
    n += run.store->n_tokens();
  }
  for (const char* name : {"L1.E2", "L2.H1"}) {
    const NodeId node = parse_node(name, "t");
    std::vector<double> sum;
    for (const RecordedRun& run : runs)
      for (int64_t t = 0; t < run.store->n_tokens(); ++t) {
        const std::vector<float> x = written_by(*run.store, shape, node, t);
        sum.resize(x.size());
        for (size_t c = 0; c < x.size(); ++c) sum[c] += static_cast<double>(x[c]);
      }
    const std::vector<float> mean = means->of(node);
    for (size_t c = 0; c < mean.size(); ++c)
      CHECK(static_cast<double>(mean[c]) == doctest::Approx(sum[c] / static_cast<double>(n)).epsilon(1e-5));
  }
  ScorerSetup setup;
  setup.ablation = CircuitAblation::mean;
  setup.means = means;
  ModelScorer scorer(*tiny.session, tiny.made, tiny.pairs, setup);
  // Everything is constant but the tokens: the run of a layer's input alone still depends on them.
  CHECK(scorer.none()[0] != scorer.whole()[0]);
  CHECK(scorer.scores(scorer.all()) == scorer.whole());
}

TEST_CASE("circuit: first-order effects are those of small changes") {
  // What a part writes at the last layer reaches the logits through the final norm alone: to first order the forecast
  // is what the direct edge says of a small part of the change.
  for (const char* family : {"mixtral", "qwen2_moe"}) {
    CAPTURE(family);
    const Tiny tiny(family);
    ModelScorer scorer(*tiny.session, tiny.made, {tiny.pairs[0]}, {});
    const std::vector<double> sizes = forecast_parts(scorer);
    const NodeId logits[] = {parse_node("logits", "t")};
    const double step = 1.0 / 64;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const NodeId& node = scorer.nodes()[i];
      if (node.layer != 2 || node.kind == NodeId::Kind::head || !scorer.active()[i]) continue;
      CAPTURE(node_name(node));
      std::vector<float> change = stream_change(scorer, 0, node);
      const auto effect = [&](double scale) {
        std::vector<float> part = change;
        for (float& x : part) x *= static_cast<float>(scale);
        return respond(scorer, 0, node, part, logits)[0].feeds;
      };
      const double slope = (effect(step) - effect(-step)) / (2 * step);
      CHECK(sizes[i] == doctest::Approx(std::fabs(slope)).epsilon(0.02).scale(0.05));
    }
  }
}

TEST_CASE("circuit: edges are direct edges, without their forward") {
  for (const char* family : {"qwen2_moe", "deepseek_v2"}) {
    CAPTURE(family);
    const Tiny tiny(family);
    const ModelShape& shape = tiny.session->shape;
    ModelScorer scorer(*tiny.session, tiny.made, tiny.pairs, {});
    const AblatedPair& pair = scorer.pair(0);
    const std::vector<NodeId> receivers = {parse_node("L2.E1", "t"), parse_node("L2.E2", "t"), parse_node("L2.E3", "t"),
                                           parse_node("L2.shared", "t"), parse_node("logits", "t")};
    const PointSet points = DirectEdges::points(shape);
    const auto run = [&](size_t record, const char* name) {
      return record_run(*tiny.session, tiny.made.jobs[record], 1, points, name).store;
    };
    DirectEdges direct(*tiny.session, run(tiny.pairs[0].clean, "a"), run(tiny.pairs[0].corrupt, "b"),
                       tiny.pairs[0].map);
    for (const char* sender : {"L1.H1", "L1.shared", "embed"}) {
      CAPTURE(sender);
      const NodeId from = parse_node(sender, "t");
      const std::vector<float> change = stream_change(scorer, 0, from);
      const std::vector<Response> responses = respond(scorer, 0, from, change, receivers);
      for (int32_t t = 0; t < pair.n_tokens(); ++t) {
        std::vector<DirectEdges::Change> changes(1);
        changes[0].sender = parse_node(sender, shape, "t");
        changes[0].delta.assign(change.begin() + t * shape.d_model, change.begin() + (t + 1) * shape.d_model);
        for (size_t i = 0; i < 4; ++i) {
          const std::vector<float> expected =
              direct.content(parse_node(node_name(receivers[i]), shape, "t"), t, changes)[0];
          const std::vector<float> own = written_by(pair.base(), shape, receivers[i], t);
          for (size_t c = 0; c < own.size(); ++c)
            CHECK(static_cast<double>(responses[i].values[static_cast<size_t>(t) * own.size() + c] - own[c]) ==
                  doctest::Approx(static_cast<double>(expected[c])).epsilon(1e-4).scale(1));
        }
      }
      // Logits at the last token: the metric changes by what the two tokens' logits do.
      std::vector<DirectEdges::Change> last(1);
      const auto t = static_cast<int32_t>(pair.n_tokens()) - 1;
      last[0].sender = parse_node(sender, shape, "t");
      last[0].delta.assign(change.begin() + t * shape.d_model, change.begin() + (t + 1) * shape.d_model);
      const int32_t tokens[] = {5, 6};
      const std::vector<float> logits = direct.logits(t, tokens, last)[0];
      CHECK(responses[4].feeds == doctest::Approx(static_cast<double>(logits[0] - logits[1])).epsilon(1e-3).scale(1));
      // Selection: the share of tokens whose route, made again from the changed stream, has the expert.
      double share = 0, logit = 0;
      for (int32_t position = 0; position < pair.n_tokens(); ++position) {
        std::vector<DirectEdges::Change> one(1);
        one[0].sender = last[0].sender;
        one[0].delta.assign(change.begin() + position * shape.d_model, change.begin() + (position + 1) * shape.d_model);
        const DirectEdges::RouterEdge edge = direct.router(2, position, one)[0];
        share +=
            std::count(edge.entered.begin(), edge.entered.end(), 2) - std::count(edge.left.begin(), edge.left.end(), 2);
        logit += static_cast<double>(edge.logits[2]);
      }
      const auto n = static_cast<double>(pair.n_tokens());
      CHECK(responses[1].selects == doctest::Approx(share / n));
      CHECK(responses[1].dlogit == doctest::Approx(logit / n).epsilon(1e-3).scale(1));
    }
  }
}
