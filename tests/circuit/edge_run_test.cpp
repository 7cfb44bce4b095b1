// Runs in which many edges are taken out at once: against PyTorch in double with explicit sums for every reader, and
// against what else says the same of some sets (the unedited run, the ablated one, parts ablated, one edge alone).
#include "eval/circuit/edge_run.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "eval/circuit/edges.h"
#include "tests/circuit/golden_pair.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

uint64_t fnv(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325;
  for (const char c : text) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return h;
}

std::vector<NodeId> ends_of(const ModelScorer& scorer) {
  std::vector<NodeId> nodes = scorer.nodes();
  nodes.insert(nodes.begin(), NodeId{});
  nodes.push_back({NodeId::Kind::logits, -1, -1, -1});
  return nodes;
}

// The edges among parts by a hash of their names, `percent` of 100.
std::vector<EdgeId> some_of(const std::vector<EdgeId>& edges, int64_t seed, int64_t percent) {
  std::vector<EdgeId> out;
  for (const EdgeId& edge : edges)
    if (fnv(std::to_string(seed) + ":" + edge_name(edge)) % 100 < static_cast<uint64_t>(percent)) out.push_back(edge);
  return out;
}

std::vector<EdgeId> all_but(const std::vector<EdgeId>& edges, const std::vector<EdgeId>& out) {
  std::vector<EdgeId> rest;
  std::set_difference(edges.begin(), edges.end(), out.begin(), out.end(), std::back_inserter(rest));
  return rest;
}

}  // namespace

TEST_CASE("circuit: runs without many edges are those of PyTorch, and of runs that say the same of some sets") {
  const json::Value goldens = json::parse_file(test::source_dir() / "tests/circuit/edge_runs.json");
  for (const auto& member : goldens.find("cases")->members()) {
    CAPTURE(member.first);
    const test::GoldenPair golden(member.first);
    ModelScorer scorer(golden.session, golden.made, golden.pairs, {});
    EdgeRunner runner(scorer);
    const std::vector<EdgeId> all = edges_between(ends_of(scorer));
    for (const json::Value& row : member.second.items()) {
      const int64_t percent = row.find("percent")->integer();
      CAPTURE(percent);
      const std::vector<EdgeId> out = some_of(all, row.find("seed")->integer(), percent);
      const double wanted = json::Ref(*row.find("metric"), "t").number();
      const auto near = [&](double found) { CHECK(found == doctest::Approx(wanted).epsilon(2e-5).scale(1)); };
      near(runner.metric(0, KeptEdges(out, true)));
      near(runner.metric(0, KeptEdges(all_but(all, out), false)));
    }
    // Everything there, bit for bit, however it is said.
    CHECK(runner.metric(0, KeptEdges({}, true)) == scorer.whole()[0]);
    CHECK(runner.metric(0, KeptEdges(all, false)) == scorer.whole()[0]);
    CHECK(runner.metric(0, KeptEdges({}, false)) == scorer.none()[0]);

    // All edges among some parts, and no other: the others ablated.
    NodeMask mask = scorer.nothing();
    std::vector<NodeId> some = {NodeId{}};
    for (size_t i = 0; i < mask.size(); ++i)
      if (fnv(node_name(scorer.nodes()[i])) % 3 > 0) {
        mask[i] = 1;
        some.push_back(scorer.nodes()[i]);
      }
    some.push_back({NodeId::Kind::logits, -1, -1, -1});
    // The embedding is at work in such a run, read by parts that send nothing, too.
    CHECK(runner.metric(0, KeptEdges(edges_between(some), false)) == scorer.scores(mask)[0]);
  }
}

TEST_CASE("circuit: a run without one edge is the exact direct edge") {
  for (const char* name : {"qwen3_moe", "deepseek_v2_full"}) {
    CAPTURE(name);
    const test::GoldenPair golden(name);
    ModelScorer scorer(golden.session, golden.made, golden.pairs, {});
    EdgeRunner runner(scorer);
    const std::vector<NodeId> nodes = ends_of(scorer);
    std::vector<EdgeEffects> edges = edges_among(nodes);
    // Some of each kind of receiver.
    std::erase_if(edges, [](const EdgeEffects& edge) {
      return fnv(node_name(edge.source) + node_name(edge.target)) % 16 > 0 && edge.target.kind != NodeId::Kind::logits;
    });
    measure_edges(scorer, edges);
    std::vector<size_t> which;
    for (size_t i = 0; i < edges.size(); ++i) which.push_back(i);
    measure_inputs(scorer, edges, which);
    size_t inputs = 0, experts = 0;
    for (const EdgeEffects& edge : edges) {
      CAPTURE(node_name(edge.source));
      CAPTURE(node_name(edge.target));
      const auto without = [&](char input) {
        return runner.metric(0, KeptEdges({{edge.source, edge.target, input}}, true)) - scorer.whole()[0];
      };
      if (edge.target.kind != NodeId::Kind::head) {
        // Beside rounding: the route of a later layer may be near to another one.
        CHECK(std::fabs(without(0) - edge.feeds[0]) < 2e-5);
        experts += edge.target.kind == NodeId::Kind::expert && edge.feeds[0] != 0;
        continue;
      }
      for (size_t in = 0; in < head_inputs.size(); ++in) {
        CHECK(std::fabs(without(head_inputs[in]) - edge.inputs[in][0]) < 2e-5);
        inputs += edge.inputs[in][0] != 0;
      }
    }
    CHECK(inputs > 10);
    CHECK(experts > 3);
  }
}

TEST_CASE("circuit: names of edges, and edges that lead nowhere") {
  for (const char* name : {"embed->L0.H1<q>", "L0.E1->L2.router", "L0.H3->L0.E5", "L1.shared->L2.mlp", "L3.E7->logits"})
    CHECK(edge_name(parse_edge(name, "t")) == name);
  for (const char* name :
       {"embed", "embed->L0.H1", "embed->L0.E1<q>", "embed->L0.H1<x>", "L1.E0->L0.E1", "logits->L0.E1",
        "L0.router->L1.E0", "L0.E1->embed", "embed@1->L0.E0", "L0.E1->L0.H1<q>", "->logits"})
    CHECK_THROWS_AS(parse_edge(name, "t"), Error);
  const auto edges = [](std::initializer_list<const char*> names) {
    std::vector<EdgeId> out;
    for (const char* name : names) out.push_back(parse_edge(name, "t"));
    std::sort(out.begin(), out.end());
    return out;
  };
  const auto names_of = [](const std::vector<EdgeId>& list) {
    std::string out;
    for (const EdgeId& edge : list) out += edge_name(edge) + " ";
    return out;
  };
  const std::vector<EdgeId> mixed = edges({"embed->L0.E1", "L0.E1->L1.router", "L1.E3->logits", "L0.H2->logits",
                                           "embed->L0.E0", "L0.E1->L2.router", "L0.E1->L2.E0", "L2.shared->logits"});
  CHECK(names_of(without_dead_ends(mixed, false)) == "embed->L0.E1 L0.E1->L1.router L1.E3->logits ");
  CHECK(names_of(without_dead_ends(mixed, true)) ==
        "embed->L0.E1 L0.E1->L1.router L0.H2->logits L1.E3->logits L2.shared->logits ");
  CHECK(without_dead_ends({}, false).empty());
}
