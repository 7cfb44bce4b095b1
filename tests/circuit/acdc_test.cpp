// Planted circuits are found edge by edge; tests and exports are then of the edges.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "eval/circuit/exports.h"
#include "eval/circuit/verify.h"
#include "tests/causal/resume.h"
#include "tests/circuit/planted_search.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test::circuits;
namespace fs = std::filesystem;

namespace {

DiscoverRequest acdc() {
  DiscoverRequest request;
  request.acdc = {0.01, 0.1};
  return request;
}

Names names_of(const std::vector<EdgeId>& edges) {
  Names names;
  for (const EdgeId& edge : edges) names.insert(edge_name(edge));
  return names;
}

std::vector<EdgeId> parsed(const Names& names) {
  std::vector<EdgeId> edges;
  for (const std::string& name : names) edges.push_back(parse_edge(name, "t"));
  std::sort(edges.begin(), edges.end());
  return edges;
}

}  // namespace

TEST_CASE("circuit: acdc finds planted induction by its value and key, and no other edge") {
  const Planted planted(induction, 3);
  const Discovery found = planted.discover(acdc());
  REQUIRE(found.edges);
  const EdgeCircuit& edges = *found.edges;
  CHECK(edges.candidates.size() == 12);  // of embed, two heads and logits: 3 + 3 + 3, and 3 into logits
  CHECK(names_of(edges.edges) == Names{"embed->L0.H1<v>", "L0.H1->L1.H2<k>", "L1.H2->logits"});
  CHECK(edges.chosen);
  CHECK(edges.tau == 0.1);
  CHECK(edges.scores[2].faithfulness.f == doctest::Approx(1).epsilon(0.03));
  for (const double m : edges.minimality) CHECK(m == doctest::Approx(1).epsilon(0.05));
  CHECK(edges.completeness.gap < 0.05);
  CHECK(edges.random_faithfulness.size() == 40);
  for (const double f : edges.random_faithfulness) CHECK(std::fabs(f) < 0.05);

  // The graph and what is made of it show these: a head's whole edge where one of its inputs is left.
  CHECK(edges_of(found) == Names{"embed feeds L0.H1", "L0.H1 feeds L1.H2", "L1.H2 feeds logits"});
  CHECK(inputs_of(found) == Names{"embed by v to L0.H1", "L0.H1 by k to L1.H2"});
  const json::Value benchmark = json::parse(mib_text(found.graph), "mib");
  const json::Ref weighed = json::Ref(benchmark, "mib").at("edges");
  size_t inside = 0;
  for (const auto& [name, of] : weighed.value().members()) inside += of.find("in_graph")->boolean();
  CHECK(inside == 3);
  CHECK(weighed.at("a0.h1->a1.h2<k>").at("in_graph").boolean());
  const std::string text = circuit_json_text(circuit_alone(found.graph));
  const json::Value document = json::parse(text, "t");
  CHECK(circuit_json_text(read_circuit_graph(json::Ref(document, "t"))) == text);
  CHECK(circuit_alone(found.graph).edges.size() == 5);

  // Tests of the files that say so.
  const fs::path dir = planted.dir / "found";
  write_discovery(dir, found, acdc(), *planted.session);
  const KnownCircuit known = read_known_circuit(dir);
  REQUIRE(known.edges);
  CHECK(*known.edges == edges.edges);
  VerifyRequest verify;
  verify.permutations = 99;
  verify.random = 40;
  const auto test = [&](const Names& names) {
    KnownCircuit other = known;
    other.edges = parsed(names);
    return verify_circuit(*planted.session, planted.records, planted.made, other, verify, "circuit-0.jsonl");
  };
  const Names own = names_of(edges.edges);
  const Verification tested = test(own);
  CHECK(tested.scores.faithfulness.f == edges.scores[2].faithfulness.f);
  CHECK(tested.sufficiency.worse == 40);
  CHECK(tested.necessity.worse > 20);  // of the others each has an edge of these
  CHECK(tested.complement_distance > 20);
  CHECK(tested.changes.size() == 3);
  CHECK(tested.reference.size() == 40);
  for (const double p : tested.minimality.holm) CHECK(p > 0.5);
  write_verification(dir, tested, known, verify, *planted.session);
  const json::Value file = json::parse_file(dir / test_file);
  CHECK(file.find("of")->string() == "edges");
  CHECK(json::dump(file).find("\"edge\":\"L0.H1->L1.H2<k>\"") != std::string::npos);
  // By another input it does nothing, and an edge too many is superfluous.
  CHECK(test({"embed->L0.H1<v>", "L0.H1->L1.H2<q>", "L1.H2->logits"}).sufficiency.p > 0.5);
  const Verification more = test({"embed->L0.H1<v>", "embed->L0.H1<k>", "L0.H1->L1.H2<k>", "L1.H2->logits"});
  CHECK(more.minimality.holm[0] < 0.05);
  CHECK(more.minimality.holm[2] > 0.5);

  // Among the edges that a forecast by EAP-IG leaves; the others are cut from the start.
  DiscoverRequest ranked = acdc();
  ranked.rank.method = RankMethod::eap_ig;
  ranked.forecast = true;
  ranked.edge_filter = 3;
  const Discovery few = planted.discover(ranked);
  CHECK(few.edges->candidates.size() == 7);
  CHECK(few.edges->edges == edges.edges);

  // Files of another hand.
  const std::string circuit = test::read_file(dir / circuit_file);
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string changed = circuit;
    REQUIRE(changed.find(from) != std::string::npos);
    changed.replace(changed.find(from), from.size(), to);
    test::write_file(dir / circuit_file, changed);
    CHECK_THROWS_AS(read_known_circuit(dir), Error);
  };
  refused("\"L0.H1->L1.H2<k>\"", "\"L0.H1->L1.H2\"");
  refused("\"L0.H1->L1.H2<k>\"", "\"L0.H0->L1.H2<k>\"");
  refused("\"L0.H1->L1.H2<k>\"", "\"embed->L0.H1<v>\"");
}

TEST_CASE("circuit: acdc finds planted pipelines of routes and of contents") {
  const Planted routes(pipeline("route"));
  const Discovery by_route = routes.discover(acdc());
  REQUIRE(by_route.edges);
  Names planted, found = edges_of(by_route);
  for (const json::Value& edge : routes.truth.find("edges")->items())
    planted.insert(edge.find("source")->string() + " " + edge.find("kind")->string() + " " +
                   edge.find("target")->string());
  for (const std::string& edge : planted) {
    CAPTURE(edge);
    CHECK(found.contains(edge));
  }
  // Into experts nothing is left but what their routers read.
  for (const EdgeId& edge : by_route.edges->edges) {
    CAPTURE(edge_name(edge));
    CHECK((edge.target.kind == NodeId::Kind::router || edge.target.kind == NodeId::Kind::logits));
  }
  CHECK(by_route.edges->scores[2].faithfulness.f == doctest::Approx(1).epsilon(0.05));

  const Planted contents(pipeline("content"));
  const Discovery by_content = contents.discover(acdc());
  REQUIRE(by_content.edges);
  CHECK(names_of(by_content.edges->edges) == Names{"embed->L0.E1", "L0.E1->L1.E3", "L1.E3->L2.E5", "L2.E5->logits"});
  CHECK(by_content.edges->scores[2].faithfulness.f == doctest::Approx(1).epsilon(0.05));
}

TEST_CASE("circuit: of an OR acdc leaves one branch, which is its known trap") {
  const Planted planted(
      R"({"kind":"or","tokens":[[48,49]],"answer":65,"foil":66,"records":16,"length":6,"experts":[{"layer":0,"expert":1},{"layer":1,"expert":3}],"reader":{"layer":2,"expert":5}})");
  // Both branches among the candidates: whichever comes first is taken for superfluous, since the other stands in.
  const std::vector<CausalPair> pairs =
      causal_pairs(Metric::logit_diff, planted.records, planted.made, planted.session->encode);
  ModelScorer parts(*planted.session, planted.made, pairs, {});
  std::vector<NodeId> nodes = {NodeId{}};
  for (const std::string& name : planted.parts()) nodes.push_back(parse_node(name, "t"));
  nodes.push_back({NodeId::Kind::logits, -1, -1, -1});
  std::sort(nodes.begin(), nodes.end());
  EdgeScorer scorer(parts, edges_between(nodes));
  const std::vector<PrunedEdges> left = prune_edges(scorer, {0.5}, false);
  const Names names = names_of(left[0].edges);
  const bool one = names.contains("L0.E1->L2.router"), other = names.contains("L1.E3->L2.router");
  CHECK(one != other);
  CHECK(names.contains("L2.E5->logits"));
  const NodeMask mask = scorer.only(left[0].edges);
  CHECK(faithfulness(scorer.scores(mask), scorer.whole(), scorer.none()) == doctest::Approx(1).epsilon(0.05));
  CHECK(completeness(scorer, mask, 0, 4).gap == doctest::Approx(1).epsilon(0.05));  // what says so

  // A study lists the two as redundant beside the branch that it has.
  const Discovery found = planted.discover(acdc());
  REQUIRE(found.redundant.size() == 1);
  REQUIRE(found.edges);
  CHECK(found.edges->completeness.gap == doctest::Approx(1).epsilon(0.05));
}

TEST_CASE("resume: circuit discover goes on behind the runs that are known, and is another study with other flags") {
  const Planted planted(induction, 2);
  const auto words = [&](std::vector<std::string> more) {
    std::vector<std::string> all = {"circuit",
                                    "discover",
                                    (planted.dir / "m").string(),
                                    "--input",
                                    (planted.dir / "m/circuit-0.jsonl").string(),
                                    "--random",
                                    "3",
                                    "--stability",
                                    "1",
                                    "--resamples",
                                    "99"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  test::check_goes_on(words({"--edges", "acdc"}), "stages/runs.jsonl", circuit_file);
  test::check_goes_on(words({"--rank", "eap-ig", "--edge-controls", "1", "--level", "position", "--shortlist", "4"}),
                      "stages/runs.jsonl", circuit_file);

  // What is finished is found again, without the test of an old circuit going; another study is refused.
  const std::string out = (planted.dir / "again").string();
  const auto run = [&](std::vector<std::string> more) {
    std::string command = test::binary();
    for (const std::string& word : words(std::move(more))) command += " '" + word + "'";
    return test::run_command(command + " --edges acdc --out " + out);
  };
  const test::Ran first = run({});
  REQUIRE_MESSAGE(first.code == 0, first.err);
  test::write_file(out + "/test.json", "{}");
  CHECK(run({}).out == first.out);
  CHECK(test::read_file(out + "/test.json") == "{}");
  const test::Ran other = run({"--tau", "0.2"});
  CHECK(other.code == 1);
  CHECK_MESSAGE(other.err.find("circuit.tau: ") != std::string::npos, other.err);
  CHECK(test::lines_of(other.err).size() == 1);
}

TEST_CASE("resume: circuit discover, killed at any moment, ends with the same bytes" *
          doctest::test_suite("repeats: small commands, killed again and again")) {
  const Planted planted(induction, 2);
  const std::string out = (planted.dir / "out").string();
  test::check_kills(
      {"circuit", "discover", (planted.dir / "m").string(), "--input", (planted.dir / "m/circuit-0.jsonl").string(),
       "--edges", "acdc", "--random", "3", "--resamples", "99", "--quiet", "--out", out},
      out, 7);
}

TEST_CASE("circuit: flags of edges that do nothing with others are usage errors") {
  const Planted planted(induction, 2);
  const std::string command = test::binary() + " circuit discover " + (planted.dir / "m").string() + " --input " +
                              (planted.dir / "m/circuit-0.jsonl").string() + " --out " + (planted.dir / "no").string();
  for (const char* flags :
       {" --tau 0.1", " --edges acdc --tau 0.1,0.1", " --edges acdc --tau 0", " --edges acdc --tau nan",
        " --edges acdc --tau x", " --edges acdc --level position", " --edges all", " --edges acdc --edge-controls 1"}) {
    CAPTURE(flags);
    const test::Ran ran = test::run_command(command + flags);
    CHECK_MESSAGE(ran.code == 2, ran.err);
    CHECK(test::lines_of(ran.err).size() == 1);
  }
  CHECK(!fs::exists(planted.dir / "no"));
}
