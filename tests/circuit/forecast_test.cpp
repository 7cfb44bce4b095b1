// Forecasts of edges against PyTorch's autograd in double (tests/goldens/attribution_goldens.py).
#include "eval/circuit/forecast.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "tests/circuit/golden_pair.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

struct Scores {
  std::map<std::string, double> of;  // "u>v"
  double operator()(const std::string& from, const std::string& to) const {
    const auto found = of.find(from + ">" + to);
    return found == of.end() ? 0 : found->second;
  }
};

Scores golden_scores(const std::string& name, const char* tensor) {
  const auto file = safetensors::File::open(test::goldens_dir() / name / "attribution.safetensors");
  const json::Value senders = json::parse(file->metadata().at("senders"), "senders"),
                    receivers = json::parse(file->metadata().at("receivers"), "receivers");
  std::vector<float> matrix(file->at(tensor).elements());
  std::memcpy(matrix.data(), file->data(file->at(tensor)), matrix.size() * sizeof(float));
  Scores scores;
  size_t i = 0;
  for (const json::Value& to : receivers.items())
    for (const json::Value& from : senders.items())
      scores.of[from.string() + ">" + to.string()] = static_cast<double>(matrix[i++]);
  return scores;
}

}  // namespace

TEST_CASE("circuit: forecasts of edges are EAP's and EAP-IG's, of every reader of the stream") {
  for (const std::string name : {"olmoe", "qwen3_moe", "gpt_oss", "deepseek_v2_full", "qwen2_moe"}) {
    CAPTURE(name);
    const test::GoldenPair golden(name);
    const ModelShape& shape = golden.session.shape;
    ModelScorer scorer(golden.session, golden.made, golden.pairs, {});
    std::vector<NodeId> nodes = scorer.nodes();
    nodes.insert(nodes.begin(), NodeId{});
    nodes.push_back(parse_node("logits", "t"));
    const std::vector<EdgeEffects> edges = edges_among(nodes);
    for (const RankMethod method : {RankMethod::atp, RankMethod::eap_ig}) {
      const Scores scores = golden_scores(name, method == RankMethod::atp ? "eap" : "eap_ig");
      const std::vector<double> found = forecast_edges(scorer, edges, {method, 4});
      const double most = *std::max_element(found.begin(), found.end());
      CHECK(most > 0);
      size_t wrong = 0;
      for (size_t i = 0; i < edges.size(); ++i) {
        const NodeId& to = edges[i].target;
        const std::string from = node_name(edges[i].source), layer = "L" + std::to_string(to.layer) + ".";
        double want = std::fabs(scores(from, node_name(to)));
        if (to.kind == NodeId::Kind::expert) want = std::max(want, std::fabs(scores(from, layer + "router")));
        if (to.kind == NodeId::Kind::head) {
          const AttentionShape& attention = shape.layers[static_cast<size_t>(to.layer)].attention;
          const std::string kv = std::to_string(to.index / (attention.n_heads / attention.n_kv_heads));
          want = std::fabs(scores(from, layer + "Q" + std::to_string(to.index)) + scores(from, layer + "K" + kv) +
                           scores(from, layer + "V" + kv));
        }
        wrong += std::fabs(found[i] - want) > 1e-4 * most;
      }
      CHECK(wrong == 0);
    }
  }
  CHECK_THROWS_AS(parse_rank_method("eap", "t"), Error);
}

TEST_CASE("circuit: forecasts by position add up to those of all tokens") {
  const test::GoldenPair golden("qwen2_moe");
  ScorerSetup setup;
  setup.positions = std::make_shared<CircuitPositions>(circuit_positions(golden.pairs, golden.records, golden.made));
  ModelScorer at_all(golden.session, golden.made, golden.pairs, {}),
      at_each(golden.session, golden.made, golden.pairs, setup);
  CHECK(at_each.nodes().size() == 10 * at_all.nodes().size());
  CHECK(at_each.whole() == at_all.whole());
  CHECK(at_each.none()[0] == doctest::Approx(at_all.none()[0]).epsilon(1e-5));
  // A part out at all positions is the part out.
  for (const char* name : {"L1.H2", "L0.E3", "L2.shared"}) {
    NodeMask rest = at_all.all(), slots = at_each.all();
    for (size_t i = 0; i < rest.size(); ++i) rest[i] = node_name(at_all.nodes()[i]) != name;
    for (size_t i = 0; i < slots.size(); ++i)
      slots[i] = !node_name(at_each.nodes()[i]).starts_with(std::string(name) + "@");
    CHECK(at_each.scores(slots) == at_all.scores(rest));
  }
  // Logits are read at the last token, so that a sender is heard there alone; with one token each, |sums| add up.
  const NodeId logits = parse_node("logits", "t"), sender = parse_node("L2.shared", "t");
  const auto edge = [&](const NodeId& from) { return EdgeEffects{from, logits, {}, {}, {}, {}, {}, {}}; };
  std::vector<EdgeEffects> each;
  for (const NodeId& node : at_positions({sender}, 10, false)) each.push_back(edge(node));
  const std::vector<double> by_position = forecast_edges(at_each, each);
  CHECK(by_position[9] == doctest::Approx(forecast_edges(at_all, {edge(sender)})[0]));
  for (size_t p = 0; p < 9; ++p) CHECK(by_position[p] == 0);
}
