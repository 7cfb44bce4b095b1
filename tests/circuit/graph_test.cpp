// Circuits as files of other programs: what each format must hold, and what its readers trip over.
#include "eval/circuit/graph.h"

#include <doctest/doctest.h>

#include <set>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "eval/circuit/exports.h"
#include "eval/report/graph_report.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using Kind = NodeId::Kind;

namespace {

CircuitGraph sample_graph() {
  CircuitGraph graph;
  graph.context = {"a \"model\"", "abc", "logit_diff", "corrupt", NodeLevel::node, 3, 2, 4, 8, {}};
  graph.context.example = {"r1", "a | <b>\nc", {"a", " |", " <b>", "\n", "c"}, " \"yes\"", 7, 0.25, {}};
  const auto node = [&](NodeId id, double effect, bool in) {
    graph.nodes.push_back({id, {effect, effect - 0.125, effect + 0.125, 0.01, 12}, in});
  };
  graph.nodes.push_back({{Kind::embed, -1, -1, -1}, {}, true});
  node({Kind::head, 0, 1, -1}, -2, true);
  node({Kind::expert, 1, 3, -1}, 1, true);
  node({Kind::expert, 1, 0, 2}, 0.1, false);
  node({Kind::shared, 2, -1, -1}, 0.5, true);
  graph.nodes.push_back({{Kind::logits, -1, -1, -1}, {}, true});
  graph.edges.push_back({{Kind::head, 0, 1, -1},
                         {Kind::expert, 1, 3, -1},
                         CircuitEdge::Kind::selects,
                         {-0.75, -0.8, -0.7, 0.02, 12},
                         -3.5,
                         0.5,
                         true});
  graph.edges.push_back({{Kind::expert, 1, 3, -1},
                         {Kind::shared, 2, -1, -1},
                         CircuitEdge::Kind::feeds,
                         {1.5, 1.25, not_measured, not_measured, 12},
                         not_measured,
                         true});
  return graph;
}

json::Value parsed(const std::string& text) { return json::parse(text, "text"); }

}  // namespace

TEST_CASE("circuit: names of parts, there and back") {
  for (const char* name : {"embed", "logits", "L0.H3", "L12.E63", "L2.shared", "L0.mlp", "L3.E5@7", "embed@0"})
    CHECK(node_name(parse_node(name, "t")) == name);
  for (const char* name : {"", "L", "L1", "L1.", "L1.X", "L1.E", "L1.E5@", "L1.E5@-1", "L-1.E5", "L1.E05", "embedding",
                           "L1.shared2", "L1.E5 "})
    CHECK_THROWS_AS(parse_node(name, "t"), Error);
  CHECK(parse_node("L1.H9", "t") < parse_node("L1.E0", "t"));
  CHECK(parse_node("L1.shared", "t") < parse_node("L2.H0", "t"));
  CHECK(parse_node("embed", "t") < parse_node("L0.H0", "t"));
  CHECK(precedes(parse_node("L1.H0", "t"), parse_node("L1.E0", "t")));
  CHECK(!precedes(parse_node("L1.E0", "t"), parse_node("L1.H0", "t")));
  CHECK(!precedes(parse_node("L1.H0", "t"), parse_node("L1.H1", "t")));
  // A head reads earlier positions, all else its own.
  const auto reads = [](const char* to, const char* from) {
    return precedes(parse_node(from, "t"), parse_node(to, "t"));
  };
  CHECK(reads("L1.H0@5", "L0.H1@3"));
  CHECK(reads("L1.H0@3", "embed@3"));
  CHECK(!reads("L1.H0@3", "L0.H1@5"));
  CHECK(!reads("L1.E0@5", "L0.H1@3"));
  CHECK(reads("L1.E0@5", "L1.H1@5"));
  CHECK(reads("logits", "L1.E0@5"));
}

TEST_CASE("circuit: graph.json is JSON Graph Format, and reading it loses nothing") {
  const CircuitGraph graph = sample_graph();
  const std::string text = circuit_json_text(graph);
  const json::Value document = parsed(text);
  CHECK(circuit_json_text(read_circuit_graph(json::Ref(document, "t"))) == text);
  const json::Ref body = json::Ref(document, "t").at("graph");
  // Closed objects: everything of our own stands under metadata, and "edges" is there although it may be empty.
  body.reject_unknown({"id", "directed", "type", "label", "metadata", "nodes", "edges"});
  for (const auto& [id, node] : body.at("nodes").members()) node.reject_unknown({"label", "metadata"});
  for (const json::Ref& edge : body.at("edges").items())
    edge.reject_unknown({"source", "target", "relation", "label", "metadata"});
  CHECK(body.at("nodes").at("embed").at("metadata").at("effect").is_null());
  CHECK(body.at("edges")[0].at("metadata").at("dlogit").number() == -3.5);
  CircuitGraph bare;
  bare.nodes.push_back({{Kind::embed, -1, -1, -1}, {}, true});
  CHECK(parsed(circuit_json_text(bare)).find("graph")->find("edges") != nullptr);

  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    REQUIRE(changed.find(from) != std::string::npos);
    changed.replace(changed.find(from), from.size(), to);
    const json::Value value = parsed(changed);
    CHECK_THROWS_AS(read_circuit_graph(json::Ref(value, "t")), Error);
  };
  refused("\"target\": \"L2.shared\"", "\"target\": \"L2.E1\"");
  refused("\"kind\": \"selects\"", "\"kind\": \"moves\"");
  refused("\"directed\": true", "\"directed\": true, \"weight\": 1");
  refused("signalbox.circuit/1", "another");
}

TEST_CASE("circuit: the circuit alone, without what was measured beside it") {
  CircuitGraph graph = sample_graph();
  graph.edges[1].in_circuit = false;
  const CircuitGraph alone = circuit_alone(graph);
  CHECK(alone.nodes.size() == graph.nodes.size() - 1);
  REQUIRE(alone.edges.size() == 1);
  CHECK(alone.edges[0].kind == CircuitEdge::Kind::selects);
}

TEST_CASE("circuit: DOT and Mermaid keep any text") {
  CircuitGraph graph = sample_graph();
  Graph drawn = drawing_of(graph);
  drawn.nodes[1].label = "a \"b\" | <c>\nd \\ #e `f`";
  const std::string dot = dot_text(drawn);
  CHECK(dot.find("label=\"a \\\"b\\\" | <c>\\nd \\\\ #e `f`\"") != std::string::npos);
  CHECK(dot.find("rank=same") != std::string::npos);
  CHECK(dot.find("\"L0.H1\" -> \"L1.E3\" [weight=\"0.75\", penwidth=\"3\"") != std::string::npos);
  CHECK(dot.find("effect=\"-0.75\"") != std::string::npos);
  const std::string mermaid = mermaid_text(drawn);
  CHECK(mermaid.starts_with("flowchart LR\n"));
  CHECK(mermaid.find("n1([\"a #quot;b#quot; #124; #lt;c#gt;<br/>d #92; #35;e #96;f#96;\"])") != std::string::npos);
  CHECK(mermaid.find("n1 -->|\"selects -0.75\"| n2") != std::string::npos);
}

TEST_CASE("circuit: Mermaid beyond what its pages draw is refused, not cut") {
  Graph graph;
  graph.directed = true;
  for (size_t i = 0; i < 2; ++i) graph.nodes.push_back({"n" + std::to_string(i), "", -1, json::Value::object(), false});
  graph.edges.assign(500, {"n0", "n1", "", "", 1, json::Value::object(), false});
  CHECK_NOTHROW(limited_mermaid_text(graph, "t"));
  graph.edges.push_back(graph.edges.front());
  CHECK_THROWS_WITH_AS(limited_mermaid_text(graph, "t"),
                       "t: expected at most 500 edges, which is what pages of Mermaid draw, found 501", Error);
  graph.edges.resize(1);
  graph.nodes[0].label = std::string(most_mermaid_characters, 'x');
  CHECK_THROWS_AS(limited_mermaid_text(graph, "t"), Error);
}

TEST_CASE("circuit: Neuronpedia's file has what its viewer needs") {
  const CircuitGraph graph = sample_graph();
  const json::Value document = parsed(neuronpedia_text(graph, "t"));
  const json::Ref root(document, "t");
  for (const char* key : {"slug", "scan", "prompt_tokens", "prompt"}) CHECK(root.at("metadata").value().find(key));
  const json::Ref nodes = root.at("nodes");
  REQUIRE(nodes.length() == 6);
  for (const json::Ref& node : nodes.items()) {
    const std::string type = node.at("feature_type").string();
    CHECK((type == "embedding" || type == "logit" || type == "cross layer transcoder"));
  }
  CHECK(nodes[1].at("node_id").string() == "0_5_4");  // head 1 behind four experts, at the last of five tokens
  CHECK(nodes[1].at("feature").integer() == 20);      // Cantor (0, 5)
  CHECK(nodes[2].at("feature").integer() == 13);      // Cantor (1, 3)
  CHECK(nodes[3].at("ctx_idx").integer() == 2);
  CHECK(nodes[4].at("feature").integer() == 42);  // Cantor (2, 6)
  // Cumulative, the largest first: 2, 1, 0.5, 0.1 of 3.6.
  CHECK(nodes[1].at("influence").number() == doctest::Approx(2 / 3.6));
  CHECK(nodes[2].at("influence").number() == doctest::Approx(3 / 3.6));
  CHECK(nodes[3].at("influence").number() == 1);
  CHECK(nodes[5].at("influence").number() == 0);
  CHECK(nodes[5].at("clerp").string().find("(p=0.250)") != std::string::npos);
  CHECK(nodes[5].at("layer").string() == "4");
  CHECK(root.at("links")[0].at("source").string() == "0_5_4");
  CHECK(root.at("links")[0].at("target").string() == "1_3_4");
  // With positions: what is of the tokens at none stands at the last of these, and is not the same part at a position.
  CircuitGraph placed = graph;
  placed.context.level = NodeLevel::position;
  placed.context.example.positions = {1, 4};
  placed.nodes[3].id = {Kind::expert, 1, 3, 1};  // beside the same expert of all other tokens
  const json::Value with_positions = parsed(neuronpedia_text(placed, "t"));
  const json::Ref at = json::Ref(with_positions, "t").at("nodes");
  CHECK(at[1].at("node_id").string() == "0_5_3");
  CHECK(at[1].at("ctx_idx").integer() == 3);
  CHECK(at[2].at("node_id").string() == "1_3_3");
  CHECK(at[3].at("node_id").string() == "1_3_4");
  CHECK(at[5].at("ctx_idx").integer() == 4);
  std::set<std::string> ids;
  for (const json::Ref& node : at.items()) {
    ids.insert(node.at("node_id").string());
    CHECK(node.at("ctx_idx").integer() < 5);
  }
  CHECK(ids.size() == 6);
  placed.context.example.positions = {0, 1, 2, 3, 4};
  CHECK_THROWS_AS(neuronpedia_text(placed, "t"), Error);
  CircuitGraph low = graph;
  low.nodes.erase(low.nodes.begin() + 2, low.nodes.begin() + 5);
  low.edges.clear();
  CHECK_THROWS_AS(neuronpedia_text(low, "t"), Error);  // nothing above layer 0
  low = graph;
  low.context.example.tokens.clear();
  CHECK_THROWS_AS(neuronpedia_text(low, "t"), Error);
}

TEST_CASE("circuit: MIB's graph sums experts into m{l}") {
  CircuitGraph graph = sample_graph();
  graph.edges.push_back({{Kind::embed, -1, -1, -1},
                         {Kind::head, 0, 1, -1},
                         CircuitEdge::Kind::feeds,
                         {0.75, 0, 1, 0, 12},
                         not_measured,
                         false});
  graph.edges.push_back({{Kind::expert, 1, 0, -1},
                         {Kind::shared, 2, -1, -1},
                         CircuitEdge::Kind::feeds,
                         {0.25, 0, 1, 0, 12},
                         not_measured,
                         false});
  const json::Value document = parsed(mib_text(graph));
  const json::Ref root(document, "t");
  CHECK(root.at("cfg").at("n_layers").integer() == 3);
  CHECK(root.at("nodes").members().size() == 2 + 3 * 3);
  CHECK(root.at("nodes").at("m1").at("score").number() == doctest::Approx(1.1));
  CHECK(root.at("nodes").at("m1").at("in_graph").boolean());
  CHECK(!root.at("nodes").at("a2.h0").at("in_graph").boolean());
  const json::Ref edges = root.at("edges");
  CHECK(edges.at("input->a0.h1<q>").at("score").number() == 0.25);
  CHECK(edges.value().find("input->a0.h1<v>"));
  CHECK(edges.at("m1->m2").at("score").number() == 1.75);
  CHECK(edges.at("a0.h1->m1").at("score").number() == 0);  // selects
  CHECK(edges.at("a0.h1->m1").at("in_graph").boolean());
}

TEST_CASE("circuit: its page is one file that needs nothing else") {
  const std::string page = render_graph_page(drawing_of(sample_graph()), "A <circuit>", "What \"this\" is.");
  CHECK(test::mistake_in_html(page) == "");
  CHECK(!test::from_outside(page));
  const json::Value block = parsed(test::data_block(page, "graph"));
  CHECK(json::Ref(block, "t").at("nodes").length() == 6);
  CHECK(page.find("box.draw.graph") != std::string::npos);
}
