#include "eval/circuit/graph.h"

#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

constexpr const char* circuit_type = "signalbox.circuit/1";

json::Value defined(double x) { return std::isfinite(x) ? json::Value(x) : json::Value(); }

double number_or_none(const json::Ref& key) { return key.is_null() ? not_measured : key.number(); }

void put(json::Value& to, const CircuitEffect& of, bool in_circuit) {
  to.set("effect", defined(of.effect))
      .set("ci_lo", defined(of.ci_lo))
      .set("ci_hi", defined(of.ci_hi))
      .set("q", defined(of.q))
      .set("n", of.n)
      .set("in_circuit", in_circuit);
}

CircuitEffect effect_of(const json::Ref& from) {
  return {number_or_none(from.at("effect")), number_or_none(from.at("ci_lo")), number_or_none(from.at("ci_hi")),
          number_or_none(from.at("q")), from.at("n").size()};
}

// Three figures, for labels.
std::string rounded(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

json::Value context_json(const CircuitContext& context) {
  json::Value tokens = json::Value::array();
  for (const std::string& token : context.example.tokens) tokens.push_back(token);
  json::Value example = json::Value::object();
  example.set("id", context.example.id)
      .set("text", context.example.text)
      .set("tokens", std::move(tokens))
      .set("answer", context.example.answer)
      .set("answer_token", int64_t{context.example.answer_token})
      .set("answer_p", defined(context.example.answer_p));
  if (context.level == NodeLevel::position) {
    json::Value positions = json::Value::array();
    for (const int32_t token : context.example.positions) positions.push_back(int64_t{token});
    example.set("positions", std::move(positions));
  }
  return json::Value::object()
      .set("model", context.model)
      .set("model_hash", context.model_hash)
      .set("metric", context.metric)
      .set("ablation", context.ablation)
      .set("level", std::string(level_name(context.level)))
      .set("n_layers", context.n_layers)
      .set("n_heads", context.n_heads)
      .set("n_experts", context.n_experts)
      .set("d_model", context.d_model)
      .set("example", std::move(example));
}

CircuitContext read_context(const json::Ref& from) {
  from.reject_unknown(
      {"model", "model_hash", "metric", "ablation", "level", "n_layers", "n_heads", "n_experts", "d_model", "example"});
  CircuitContext context;
  context.model = from.at("model").string();
  context.model_hash = from.at("model_hash").string();
  context.metric = from.at("metric").string();
  context.ablation = from.at("ablation").string();
  if (const auto level = from.find("level"))
    context.level = parse_level(level->string(), level->where() + ": " + level->path());
  context.n_layers = from.at("n_layers").size();
  context.n_heads = from.at("n_heads").size();
  context.n_experts = from.at("n_experts").size();
  context.d_model = from.at("d_model").size();
  const json::Ref example = from.at("example");
  example.reject_unknown({"id", "text", "tokens", "answer", "answer_token", "answer_p", "positions"});
  context.example.id = example.at("id").string();
  context.example.text = example.at("text").string();
  for (const json::Ref& token : example.at("tokens").items()) context.example.tokens.push_back(token.string());
  context.example.answer = example.at("answer").string();
  context.example.answer_token = static_cast<int32_t>(example.at("answer_token").integer(-1, INT32_MAX));
  context.example.answer_p = number_or_none(example.at("answer_p"));
  if (context.level == NodeLevel::position)
    for (const json::Ref& token : example.at("positions").items())
      context.example.positions.push_back(static_cast<int32_t>(token.integer(0, INT32_MAX)));
  return context;
}

}  // namespace

std::string_view edge_kind_name(CircuitEdge::Kind kind) {
  return kind == CircuitEdge::Kind::feeds ? "feeds" : "selects";
}

CircuitGraph circuit_alone(const CircuitGraph& graph) {
  CircuitGraph alone = graph;
  std::erase_if(alone.nodes, [](const CircuitNode& node) { return !node.in_circuit; });
  std::erase_if(alone.edges, [](const CircuitEdge& edge) { return !edge.in_circuit; });
  return alone;
}

Graph drawing_of(const CircuitGraph& graph) {
  Graph drawn;
  drawn.id = "circuit";
  drawn.type = circuit_type;
  drawn.label = graph.context.model + ", " + graph.context.metric;
  drawn.directed = true;
  drawn.metadata = context_json(graph.context);
  for (const CircuitNode& node : graph.nodes) {
    GraphNode made;
    made.id = node_name(node.id);
    made.label = node_label(node.id);
    made.layer = node.id.layer;
    made.faint = !node.in_circuit;
    put(made.metadata, node.of, node.in_circuit);
    drawn.nodes.push_back(std::move(made));
  }
  for (const CircuitEdge& edge : graph.edges) {
    GraphEdge made;
    made.source = node_name(edge.source);
    made.target = node_name(edge.target);
    made.relation = edge_kind_name(edge.kind);
    made.label = made.relation;
    if (edge.input) made.label += std::string(" by ") + edge.input;
    if (std::isfinite(edge.of.effect)) made.label += " " + rounded(edge.of.effect);
    if (edge.without) made.label += " without " + node_name(*edge.without);
    made.weight = edge.of.effect;
    made.faint = !edge.in_circuit;
    made.metadata.set("kind", made.relation);
    if (edge.input) made.metadata.set("input", std::string(1, edge.input));
    if (edge.without) made.metadata.set("without", node_name(*edge.without));
    put(made.metadata, edge.of, edge.in_circuit);
    if (edge.kind == CircuitEdge::Kind::selects) made.metadata.set("dlogit", defined(edge.dlogit));
    made.metadata.set("control", defined(edge.control));
    if (std::isfinite(edge.forecast)) made.metadata.set("forecast", edge.forecast);
    drawn.edges.push_back(std::move(made));
  }
  return drawn;
}

std::string circuit_json_text(const CircuitGraph& graph) { return graph_json_text(drawing_of(graph)); }

CircuitGraph read_circuit_graph(const json::Ref& document) {
  read_graph_json(document);  // refuses what is no graph of the format
  const json::Ref body = document.at("graph");
  if (body.at("type").string() != circuit_type)
    body.at("type").fail(std::string("expected \"") + circuit_type + "\", found " +
                         in_quotes(body.at("type").string()));
  CircuitGraph graph;
  graph.context = read_context(body.at("metadata"));
  for (const auto& [id, node] : body.at("nodes").members()) {
    const json::Ref of = node.at("metadata");
    of.reject_unknown({"effect", "ci_lo", "ci_hi", "q", "n", "in_circuit"});
    graph.nodes.push_back(
        {parse_node(id, node.where() + ": " + node.path()), effect_of(of), of.at("in_circuit").boolean()});
  }
  for (const json::Ref& edge : body.at("edges").items()) {
    const json::Ref of = edge.at("metadata");
    of.reject_unknown({"kind", "input", "without", "effect", "ci_lo", "ci_hi", "q", "n", "in_circuit", "dlogit",
                       "control", "forecast"});
    CircuitEdge made;
    made.source = parse_node(edge.at("source").string(), edge.where() + ": " + edge.path());
    made.target = parse_node(edge.at("target").string(), edge.where() + ": " + edge.path());
    const std::string& kind = of.at("kind").string();
    if (kind != "feeds" && kind != "selects") of.at("kind").fail("expected feeds or selects, found " + in_quotes(kind));
    made.kind = kind == "feeds" ? CircuitEdge::Kind::feeds : CircuitEdge::Kind::selects;
    if (const auto input = of.find("input")) {
      if (input->string() != "q" && input->string() != "k" && input->string() != "v")
        input->fail("expected q, k or v, found " + in_quotes(input->string()));
      if (made.target.kind != NodeId::Kind::head || made.kind != CircuitEdge::Kind::feeds)
        input->fail("expected none but of an edge that feeds a head, found one");
      made.input = input->string().front();
    }
    made.of = effect_of(of);
    made.in_circuit = of.at("in_circuit").boolean();
    if (made.kind == CircuitEdge::Kind::selects) made.dlogit = number_or_none(of.at("dlogit"));
    made.control = number_or_none(of.at("control"));
    if (const auto forecast = of.find("forecast")) made.forecast = forecast->number();
    if (const auto without = of.find("without"))
      made.without = parse_node(without->string(), without->where() + ": " + without->path());
    graph.edges.push_back(std::move(made));
  }
  return graph;
}

}  // namespace signalbox::eval
