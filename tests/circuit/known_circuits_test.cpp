// Circuits that were planted are found, with their edges, and nothing else is; tests hold them to pairs that found
// nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "eval/circuit/discover.h"
#include "eval/circuit/exports.h"
#include "eval/circuit/verify.h"
#include "tests/circuit/planted_search.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
using namespace signalbox::test::circuits;
namespace fs = std::filesystem;

namespace {

// Pairs "X Y . W Z .. X" and "W Y . X Z .. X" behind `before(pair)` tokens. `aligned`: with the positions of X, Y, W, Z
// and the last token.
std::string induction_pairs(const std::function<int(int)>& before, bool aligned) {
  std::string lines;
  for (int p = 0; p < 24; ++p)
    for (const bool clean : {true, false}) {
      const auto token = [&](int i) { return 40 + (p + i * (2 * (p / 8) + 1)) % 8; };
      const int first = before(p), x = token(0), y = token(1), w = token(2), z = token(3);
      json::Value tokens = json::Value::array(), align = json::Value::array();
      for (int t = 0; t < first; ++t) tokens.push_back(token(4 + t % 3));
      for (const int t : {clean ? x : w, y, token(5), clean ? w : x, z, token(6), x}) tokens.push_back(t);
      for (const int t : {0, 1, 3, 4, 6}) align.push_back(first + t);
      json::Value record = json::Value::object();
      record.set("id", std::to_string(p) + (clean ? "a" : "b")).set("pair", std::to_string(p));
      record.set("condition", clean ? "clean" : "corrupt").set("tokens", tokens).set("answer", y).set("foil", z);
      if (aligned && clean) record.set("align", align);
      lines += json::dump(record) + "\n";
    }
  return lines;
}

const CircuitEdge* edge_of(const Discovery& found, const std::string& from, const std::string& to,
                           CircuitEdge::Kind kind) {
  for (const CircuitEdge& edge : found.graph.edges)
    if (node_name(edge.source) == from && node_name(edge.target) == to && edge.kind == kind) return &edge;
  return nullptr;
}

}  // namespace

TEST_CASE("circuit: planted induction heads are found, and no other part" *
          doctest::test_suite("repeats: whole searches of what smaller ones search")) {
  const Planted planted(induction, 3);
  const Discovery found = planted.discover();
  CHECK(names_of(found.circuit) == Names{"L0.H1", "L1.H2"});
  CHECK(edges_of(found) == Names{"embed feeds L0.H1", "L0.H1 feeds L1.H2", "L1.H2 feeds logits"});
  // What the first head copies are values, and the second one looks for them by its keys.
  CHECK(inputs_of(found) == Names{"embed by v to L0.H1", "L0.H1 by k to L1.H2"});
  const json::Value benchmark = json::parse(mib_text(found.graph), "mib");
  const json::Ref weighed = json::Ref(benchmark, "mib").at("edges");
  CHECK(weighed.at("a0.h1->a1.h2<k>").at("in_graph").boolean());
  CHECK(weighed.at("a0.h1->a1.h2<k>").at("score").number() == doctest::Approx(-31.4).epsilon(0.01));
  CHECK(weighed.at("input->a0.h1<v>").at("in_graph").boolean());
  CHECK(!weighed.value().find("input->a0.h1<k>"));
  CHECK(found.scores[2].faithfulness.f == doctest::Approx(1).epsilon(0.02));
  for (const double f : found.random_faithfulness) CHECK(std::fabs(f) < 0.05);
  CHECK(found.stability.jaccard == 1);
  CHECK(found.redundant.empty());
  // By single effects alone, and by greedy removal from a shortlist that holds much more.
  DiscoverRequest wide;
  wide.rule.shortlist = 12;
  wide.rule.tolerance = 0.004;
  wide.size = 2;
  CHECK(names_of(planted.discover(wide).circuit) == Names{"L0.H1", "L1.H2"});

  // Where few parts get runs of their own, the first order finds them.
  DiscoverRequest filtered;
  filtered.filter = 4;
  const Discovery few = planted.discover(filtered);
  CHECK(few.tested_parts == 4);
  CHECK(few.active_parts > 4);
  CHECK(few.parts_agreement.run == 4);
  CHECK(names_of(few.circuit) == Names{"L0.H1", "L1.H2"});
  // Those that got none were candidates too: q is over the same family.
  CHECK(few.family.parts == found.family.parts);
  CHECK(found.family.parts == found.tested_parts);
  for (const CircuitNode& node : few.graph.nodes) {
    const auto whole = std::find_if(found.graph.nodes.begin(), found.graph.nodes.end(),
                                    [&](const CircuitNode& other) { return other.id == node.id; });
    if (node.in_circuit && !node.id.ends()) CHECK(node.of.q == whole->of.q);
  }
  filtered.rank.method = RankMethod::eap_ig;
  filtered.forecast = true;
  filtered.edge_filter = 3;
  const Discovery ranked = planted.discover(filtered);
  CHECK(names_of(ranked.circuit) == Names{"L0.H1", "L1.H2"});
  CHECK(edges_of(ranked) == edges_of(found));
  CHECK(ranked.edges_agreement.forecast == 6);
  CHECK(ranked.edges_agreement.run == 3);
  CHECK(ranked.tested_edges == 3);
  CHECK(ranked.family.edges == found.family.edges);
  CHECK(ranked.family.inputs == 9);  // of two edges to heads that were run and of one that was not
  CHECK(found.family.edges == found.tested_edges);
  CHECK(found.family.inputs == 6);
  const auto q_of = [](const Discovery& of, const char* source, char input) {
    for (const CircuitEdge& edge : of.graph.edges)
      if (node_name(edge.source) == source && node_name(edge.target) == "L1.H2" && edge.input == input)
        return edge.of.q;
    return not_measured;
  };
  CHECK(q_of(ranked, "L0.H1", 0) == q_of(found, "L0.H1", 0));
  CHECK(q_of(ranked, "L0.H1", 'k') == doctest::Approx(1.5 * q_of(found, "L0.H1", 'k')));
  for (const CircuitEdge& edge : ranked.graph.edges)
    CHECK(std::isfinite(edge.forecast) == (edge.kind == CircuitEdge::Kind::feeds && !edge.input));

  // One part of two is not faithful enough: --quiet does not hide that, nor does any other form.
  const std::string out = (planted.dir / "one").string();
  const test::Ran one = test::run_command(
      test::binary() + " circuit discover " + (planted.dir / "m").string() + " --input " +
      (planted.dir / "m/circuit-0.jsonl").string() +
      " --shortlist 1 --random 0 --stability 0 --edge-controls 0 --resamples 99 --quiet --json --out " + out);
  REQUIRE_MESSAGE(one.code == 0, one.err);
  CHECK(one.err.find("warning: no size is faithful enough on the pairs that choose it (0.9") == 0);
  const json::Value told = json::parse(one.out, "told");
  CHECK_FALSE(told.find("faithful_enough")->boolean());
  CHECK(told.find("warnings")->items().size() == 1);
  CHECK_FALSE(json::parse_file(out + "/circuit.json").find("faithful_enough")->boolean());

  // Exact single effects name the same two: all else is nothing beside them.
  for (const CircuitNode& node : found.graph.nodes) {
    if (node.id.ends()) continue;
    CHECK((std::fabs(node.of.effect) > 20) == node.in_circuit);
  }
}

TEST_CASE("circuit: told apart by position, planted heads are found where they work" *
          doctest::test_suite("repeats: whole searches of what smaller ones search")) {
  Planted planted(induction, 2);
  test::write_file(planted.dir / "same.jsonl", induction_pairs([](int) { return 2; }, false));
  planted.read(planted.dir / "same.jsonl");
  DiscoverRequest request;
  request.level = NodeLevel::position;
  const Discovery found = planted.discover(request);
  CHECK(names_of(found.circuit) == Names{"L0.H1@3", "L0.H1@6", "L1.H2@8"});
  CHECK(edges_of(found) == Names{"embed@2 feeds L0.H1@3", "embed@5 feeds L0.H1@6", "L0.H1@3 feeds L1.H2@8",
                                 "L0.H1@6 feeds L1.H2@8", "L1.H2@8 feeds logits"});
  CHECK(found.scores[2].faithfulness.f == doctest::Approx(1).epsilon(0.02));
  for (const double m : found.minimality) CHECK(m > 0.4);
  // As many heads at the same positions: some have one of the three.
  for (const NodeMask& random : found.random.circuits) {
    Names at;
    for (size_t i = 0; i < random.size(); ++i)
      if (random[i]) at.insert(node_name(at_positions(nodes_of(planted.session->shape), 9, false)[i]));
    CHECK(at.size() == 3);
    for (const std::string& name : at)
      CHECK((name.starts_with("L0.H") || (name.starts_with("L1.H") && name.ends_with("@8"))));
  }
  for (const auto& [node, share] : found.stability.inclusion) CHECK(share == 1);

  // Files, tests and exports.
  const fs::path dir = planted.dir / "found";
  write_discovery(dir, found, request, *planted.session);
  const KnownCircuit known = read_known_circuit(dir);
  CHECK(known.n_positions == 9);
  VerifyRequest verify;
  verify.permutations = 99;
  const Verification tested =
      verify_circuit(*planted.session, planted.records, planted.made, known, verify, "same.jsonl");
  CHECK(tested.sufficiency.worse == 100);
  for (const double p : tested.minimality.holm) CHECK(p > 0.5);
  const CircuitGraph alone = circuit_alone(found.graph);
  CHECK(circuit_json_text(alone).find("\"layer 0, head 1 at position 3\"") != std::string::npos);
  for (const std::string& text : {dot_text(drawing_of(alone)), mermaid_text(drawing_of(alone))})
    CHECK(text.find("head 1 at position 6") != std::string::npos);
  const json::Value viewer = json::parse(neuronpedia_text(alone, "t"), "t"),
                    benchmark = json::parse(mib_text(alone), "t");
  std::set<int64_t> places;
  for (const json::Value& node : viewer.find("nodes")->items()) places.insert(node.find("ctx_idx")->integer());
  CHECK(places == std::set<int64_t>{2, 3, 5, 6, 8});
  const json::Value* summed = benchmark.find("nodes")->find("a0.h1");
  CHECK(summed->find("in_graph")->boolean());
  CHECK(json::Ref(*summed, "t").at("score").number() ==
        doctest::Approx(alone.nodes[2].of.effect + alone.nodes[3].of.effect));

  // Texts of different lengths, in which other tokens stand for one another.
  test::write_file(planted.dir / "aligned.jsonl", induction_pairs([](int p) { return 1 + p % 3; }, true));
  planted.read(planted.dir / "aligned.jsonl");
  const Discovery aligned = planted.discover(request);
  CHECK(names_of(aligned.circuit) == Names{"L0.H1@1", "L0.H1@3", "L1.H2@4"});
  CHECK(edges_of(aligned).contains("embed@2 feeds L0.H1@3"));
  CHECK(names_of(planted.discover().circuit) == Names{"L0.H1", "L1.H2"});
  CHECK_THROWS_WITH_AS(verify_circuit(*planted.session, planted.records, planted.made, known, verify, "aligned.jsonl"),
                       "aligned.jsonl: expected 9 positions, as in the pairs that found the circuit, found 5", Error);
  test::write_file(planted.dir / "other.jsonl", induction_pairs([](int p) { return 1 + p % 3; }, false));
  planted.read(planted.dir / "other.jsonl");
  CHECK_THROWS_AS(planted.discover(request), Error);
}

TEST_CASE("circuit: a planted pipeline of routes is a chain of selects, of content one of feeds" *
          doctest::test_suite("repeats: whole searches of what smaller ones search")) {
  const Planted routes(pipeline("route"));
  const Discovery by_route = routes.discover();
  CHECK(names_of(by_route.circuit) == routes.parts());
  const Names edges = edges_of(by_route);
  for (const json::Value& edge : routes.truth.find("edges")->items())
    CHECK(edges.contains(edge.find("source")->string() + " " + edge.find("kind")->string() + " " +
                         edge.find("target")->string()));
  for (const std::string& edge : edges)
    CHECK((edge.find(" selects ") != std::string::npos) == !edge.ends_with(" logits"));
  // Nothing passes but by selection: the direct effect is 0, and the selection changes at one of six tokens.
  const CircuitEdge* direct = edge_of(by_route, "L0.E1", "logits", CircuitEdge::Kind::feeds);
  CHECK((!direct || (!direct->in_circuit && std::fabs(direct->of.effect) < 1e-3)));
  const CircuitEdge* selects = edge_of(by_route, "L0.E1", "L1.E3", CircuitEdge::Kind::selects);
  REQUIRE(selects);
  CHECK(selects->of.effect == doctest::Approx(-1.0 / 6));
  CHECK(selects->dlogit < 0);

  const Planted content(pipeline("content"));
  const Discovery by_content = content.discover();
  CHECK(names_of(by_content.circuit) == Names{"L0.E1", "L1.E3", "L2.E5"});
  CHECK(edges_of(by_content) ==
        Names{"embed feeds L0.E1", "L0.E1 feeds L1.E3", "L1.E3 feeds L2.E5", "L2.E5 feeds logits"});
}

TEST_CASE("circuit: of two parts that stand in for one another one is found, and the redundancy is said") {
  const Planted planted(
      R"({"kind":"or","tokens":[[48,49]],"answer":65,"foil":66,"records":16,"length":6,"experts":[{"layer":0,"expert":1},{"layer":1,"expert":3}],"reader":{"layer":2,"expert":5}})");
  const Discovery found = planted.discover();
  const Names circuit = names_of(found.circuit);
  CHECK(circuit.contains("L2.E5"));
  CHECK(circuit.contains("L0.E1") + circuit.contains("L1.E3") == 1);
  REQUIRE(found.redundant.size() == 1);
  CHECK(Names{node_name(found.redundant[0].one), node_name(found.redundant[0].two)} == Names{"L0.E1", "L1.E3"});
  CHECK(std::fabs(found.redundant[0].without_one) < 0.1);
  CHECK(found.redundant[0].without_both < -20);
  CHECK(found.completeness.gap == doctest::Approx(1).epsilon(0.05));  // what the other one would have done
  // What passes through the two shows while the other one is out, and then all that was planted is there.
  Names planted_edges, measured, edges = edges_of(found);
  for (const json::Value& edge : planted.truth.find("edges")->items())
    planted_edges.insert(edge.find("source")->string() + " " + edge.find("kind")->string() + " " +
                         edge.find("target")->string());
  CHECK(planted_edges == Names{"embed feeds L0.E1", "embed feeds L1.E3", "L0.E1 selects L2.E5", "L1.E3 selects L2.E5",
                               "L2.E5 feeds logits"});
  for (const CircuitEdge& edge : found.graph.edges)
    if (edge.of.effect != 0 && std::fabs(edge.of.effect) > (edge.kind == CircuitEdge::Kind::feeds ? 1 : 0))
      measured.insert(node_name(edge.source) + " " + std::string(edge_kind_name(edge.kind)) + " " +
                      node_name(edge.target));
  for (const std::string& edge : planted_edges) {
    CAPTURE(edge);
    CHECK(measured.contains(edge));
    const bool inside = edge.find(circuit.contains("L0.E1") ? "L1.E3" : "L0.E1") == std::string::npos;
    CHECK(edges.contains(edge) == inside);
  }
  const CircuitEdge* alone = nullptr;
  for (const CircuitEdge& edge : found.graph.edges)
    if (edge.in_circuit && edge.kind == CircuitEdge::Kind::selects) alone = &edge;
  REQUIRE(alone);
  CHECK(alone->of.effect == doctest::Approx(-1.0 / 6));
  REQUIRE(alone->without);
  CHECK(node_name(*alone->without) == (circuit.contains("L0.E1") ? "L1.E3" : "L0.E1"));
  const std::string text = circuit_json_text(found.graph);
  const json::Value document = json::parse(text, "t");
  CHECK(circuit_json_text(read_circuit_graph(json::Ref(document, "t"))) == text);
}

TEST_CASE("circuit: files, tests on pairs that were held out, and what is refused") {
  const Planted planted(pipeline("content"));
  const DiscoverRequest request;
  const Discovery found = planted.discover(request);
  const fs::path dir = planted.dir / "found";
  write_discovery(dir, found, request, *planted.session);
  const json::Value graph = json::parse_file(dir / graph_file);
  CHECK(circuit_json_text(read_circuit_graph(json::Ref(graph, "graph"))) == test::read_file(dir / graph_file));
  KnownCircuit known = read_known_circuit(dir);
  CHECK(names_of(known.parts) == names_of(found.circuit));
  CHECK(known.used.size() == 12);
  CHECK(known.held_out.size() == 4);

  VerifyRequest verify;
  verify.permutations = 99;
  const Verification tested =
      verify_circuit(*planted.session, planted.records, planted.made, known, verify, "circuit-0.jsonl");
  VerifyRequest of_others = verify;  // model_hash tells the sizes, these the weights
  of_others.weights = json::Value::object().set("model.safetensors", "0");
  CHECK_THROWS_WITH_AS(
      verify_circuit(*planted.session, planted.records, planted.made, known, of_others, "circuit-0.jsonl"),
      doctest::Contains("expected the weights that the circuit was found in"), Error);
  CHECK(tested.pairs.pairs.size() == 4);
  CHECK(tested.used.size() == 12);
  CHECK(tested.scores.faithfulness.f == doctest::Approx(1).epsilon(0.01));
  CHECK(tested.sufficiency.worse == 100);
  CHECK(tested.sufficiency.p < 0.001);
  // Without any part of the pipeline the answer flips: random circuits are as necessary as far as they have one.
  const std::vector<NodeId> nodes = nodes_of(planted.session->shape);
  int64_t without = 0;
  for (const NodeMask& random : tested.random.circuits) {
    bool has = false;
    for (size_t i = 0; i < nodes.size(); ++i)
      has = has || (random[i] && std::binary_search(known.parts.begin(), known.parts.end(), nodes[i]));
    without += !has;
  }
  CHECK(tested.necessity.worse == without);
  CHECK(tested.complement_distance > 20);
  for (const double p : tested.minimality.holm) CHECK(p > 0.5);
  write_verification(dir, tested, known, verify, *planted.session);
  CHECK(json::parse_file(dir / test_file).find("sufficiency")->find("worse")->integer() == 100);

  // One part too many is found superfluous; one that lacks is not sufficient.
  KnownCircuit wrong = known;
  wrong.parts.insert(wrong.parts.begin(), parse_node("L0.H0", "t"));
  CHECK(verify_circuit(*planted.session, planted.records, planted.made, wrong, verify, "i").minimality.holm[0] < 0.05);
  wrong.parts = {known.parts[0], known.parts[2]};
  CHECK(verify_circuit(*planted.session, planted.records, planted.made, wrong, verify, "i").sufficiency.p > 0.5);

  wrong = known;
  wrong.model_hash = "another";
  CHECK_THROWS_AS(verify_circuit(*planted.session, planted.records, planted.made, wrong, verify, "i"), Error);
  wrong = known;
  wrong.held_out.clear();
  for (const CausalPair& pair : found.pairs.pairs) wrong.used.push_back(pair.name);
  CHECK_THROWS_AS(verify_circuit(*planted.session, planted.records, planted.made, wrong, verify, "i"), Error);

  DiscoverRequest bad;
  bad.split = parse_split("split:a,b,c", "--split", circuit_sets);
  CHECK_THROWS_AS(planted.discover(bad), Error);  // the records say nothing of it
  for (const char* text : {"split", ":a,b,c", "split:a,b", "split:a,b,a", "split:a,,c"})
    CHECK_THROWS_AS(parse_split(text, "--split", circuit_sets), Error);
  bad = {};
  bad.size = 100000;
  CHECK_THROWS_AS(planted.discover(bad), Error);
  std::atomic<bool> stop = true;
  bad = {};
  bad.interrupted = &stop;
  CHECK(planted.discover(bad).interrupted);
}

TEST_CASE("circuit: splits keep pairs whole and copies of a prompt together") {
  std::vector<Record> records;
  std::vector<CausalPair> pairs;
  for (int p = 0; p < 8; ++p)
    for (const bool clean : {true, false}) {
      // Pairs 0 and 1 share their clean prompt.
      const int text = clean && p == 1 ? 0 : 2 * p + !clean;
      json::Value tokens = json::Value::array();
      tokens.push_back(text);
      records.push_back(parse_record(json::Value::object()
                                         .set("id", "r" + std::to_string(2 * p + !clean))
                                         .set("tokens", std::move(tokens))
                                         .set("pair", std::to_string(p))
                                         .set("condition", clean ? "clean" : "corrupt")
                                         .set("split", p < 4   ? "a"
                                                       : p < 6 ? "b"
                                                               : "c"),
                                     "records:" + std::to_string(2 * p + !clean)));
      if (clean) pairs.push_back({std::to_string(p), records.size() - 1, records.size(), {}, {}, {}});
    }
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto sets = split_pairs({"", circuit_sets}, records, pairs, seed, "t");
    size_t n = 0, with_copy = 0;
    for (const auto& set : sets) {
      n += set.size();
      const auto has = [&](size_t i) { return std::count(set.begin(), set.end(), i) > 0; };
      with_copy += has(0) && has(1);
      CHECK(!set.empty());
    }
    CHECK(n == 8);
    CHECK(with_copy == 1);
  }
  const auto named = split_pairs(parse_split("split:c,b,a", "t", circuit_sets), records, pairs, 0, "t");
  CHECK(named[0] == std::vector<size_t>{6, 7});
  CHECK(named[2] == std::vector<size_t>{0, 1, 2, 3});
}
