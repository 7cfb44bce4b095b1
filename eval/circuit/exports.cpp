#include "eval/circuit/exports.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "eval/circuit/edges.h"

namespace signalbox::eval {

namespace {

using Kind = NodeId::Kind;
constexpr size_t most_bytes = 100'000'000;  // that Neuronpedia takes

double size_of(double effect) { return std::isfinite(effect) ? std::fabs(effect) : 0; }
double or_zero(double effect) { return std::isfinite(effect) ? effect : 0; }

// Cantor's number of a pair, which is how schema_version 1 names a feature of a layer.
int64_t cantor(int64_t a, int64_t b) { return (a + b) * (a + b + 1) / 2 + b; }

int64_t feature_of(const CircuitContext& context, const NodeId& node) {
  switch (node.kind) {
    case Kind::expert: return node.index;
    case Kind::head: return context.n_experts + node.index;
    default: return context.n_experts + context.n_heads;
  }
}

struct ViewerNode {
  std::string id, js_id, layer, type, label;
  int64_t feature = 0, position = 0;
};

// The token of the example at which a node is shown: its own, or the last one that it is of. Of all tokens that is the
// last, as of the logits; of those at no position (eval/circuit/positions.h) the last of these, so that the viewer
// never takes it for the same part at a position.
int64_t token_of(const CircuitContext& context, const NodeId& node, const std::string& where) {
  const CircuitExample& example = context.example;
  const std::vector<int32_t>& positions = example.positions;
  if (node.position >= 0)
    return node.position < static_cast<int64_t>(positions.size()) ? positions[static_cast<size_t>(node.position)]
                                                                  : node.position;
  auto last = static_cast<int64_t>(example.tokens.size()) - 1;
  if (node.kind == Kind::logits) return last;
  while (last >= 0 && std::find(positions.begin(), positions.end(), last) != positions.end()) --last;
  if (last < 0)
    throw Error(where, "expected a token of the example at no position, for " + node_name(node) +
                           ", which is of such tokens, found none");
  return last;
}

ViewerNode viewer_node(const CircuitContext& context, const NodeId& node, const std::string& where) {
  const CircuitExample& example = context.example;
  ViewerNode made;
  made.position = token_of(context, node, where);
  if (made.position >= static_cast<int64_t>(example.tokens.size()))
    throw Error(where, "expected positions below " + std::to_string(example.tokens.size()) +
                           ", the tokens of the example, found " + node_name(node));
  const std::string at = std::to_string(made.position);
  if (node.kind == Kind::embed) {
    made.feature = made.position;
    made.layer = "E";
    made.type = "embedding";
    made.id = "E_0_" + at;
    made.js_id = "E_0-" + at;
    made.label = "Emb: " + in_quotes(example.tokens[static_cast<size_t>(made.position)]);
  } else if (node.kind == Kind::logits) {
    char p[32];
    std::snprintf(p, sizeof p, "%.3f", or_zero(example.answer_p));
    made.feature = std::max<int64_t>(0, example.answer_token);
    made.layer = std::to_string(context.n_layers + 1);
    made.type = "logit";
    made.id = made.layer + "_" + std::to_string(made.feature) + "_" + at;
    made.js_id = "L_" + std::to_string(made.feature) + "-" + at;
    made.label = "Output " + in_quotes(example.answer) + " (p=" + p + ")";
  } else {
    const int64_t feature = feature_of(context, node);
    made.feature = cantor(node.layer, feature);
    made.layer = std::to_string(node.layer);
    made.type = "cross layer transcoder";
    made.id = made.layer + "_" + std::to_string(feature) + "_" + at;
    made.js_id = made.layer + "_" + std::to_string(feature) + "-" + at;
    made.label = node_label(node);
  }
  return made;
}

// Cumulative shares of |effect|, the largest first, of the nodes at these indices.
std::vector<double> influences(const CircuitGraph& graph) {
  std::vector<size_t> order;
  double sum = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (graph.nodes[i].id.ends()) continue;
    order.push_back(i);
    sum += size_of(graph.nodes[i].of.effect);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return size_of(graph.nodes[a].of.effect) > size_of(graph.nodes[b].of.effect);
  });
  std::vector<double> out(graph.nodes.size(), 0.0);
  double so_far = 0;
  for (const size_t i : order) {
    so_far += size_of(graph.nodes[i].of.effect);
    out[i] = sum > 0 ? std::min(1.0, so_far / sum) : 1.0;
  }
  return out;
}

// Positions are not told apart.
std::string mib_node(const NodeId& node) {
  switch (node.kind) {
    case Kind::embed: return "input";
    case Kind::logits: return "logits";
    case Kind::head: return "a" + std::to_string(node.layer) + ".h" + std::to_string(node.index);
    default: return "m" + std::to_string(node.layer);
  }
}

struct MibScore {
  double score = 0;
  bool in_graph = false;
};

json::Value mib_object(const std::map<std::string, MibScore>& scores) {
  json::Value out = json::Value::object();
  for (const auto& [name, of] : scores)
    out.append_member(name, json::Value::object().set("score", of.score).set("in_graph", of.in_graph));
  return out;
}

}  // namespace

std::string neuronpedia_text(const CircuitGraph& graph, const std::string& where) {
  const CircuitContext& context = graph.context;
  if (context.example.tokens.empty())
    throw Error(where, "expected the tokens of an example in the graph's metadata, found none");
  const bool above = std::any_of(graph.nodes.begin(), graph.nodes.end(),
                                 [](const CircuitNode& node) { return !node.id.ends() && node.id.layer > 0; });
  if (!above)
    throw Error(where, "expected a part above layer 0, without which the viewer says \"No layer found\", found none");
  const std::vector<double> influence = influences(graph);
  json::Value nodes = json::Value::array(), links = json::Value::array(), tokens = json::Value::array();
  for (const std::string& token : context.example.tokens) tokens.push_back(token);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const CircuitNode& node = graph.nodes[i];
    const ViewerNode made = viewer_node(context, node.id, where);
    const bool logit = node.id.kind == Kind::logits;
    nodes.push_back(json::Value::object()
                        .set("node_id", made.id)
                        .set("feature", made.feature)
                        .set("layer", made.layer)
                        .set("ctx_idx", made.position)
                        .set("feature_type", made.type)
                        .set("token_prob", logit ? or_zero(context.example.answer_p) : 0.0)
                        .set("is_target_logit", logit)
                        .set("run_idx", 0)
                        .set("reverse_ctx_idx", 0)
                        .set("jsNodeId", made.js_id)
                        .set("clerp", made.label)
                        .set("influence", influence[i])
                        .set("activation", node.id.ends() ? json::Value() : json::Value(or_zero(node.of.effect))));
  }
  // A part of an edge, by a head's query, key or value alone, would be the same link again.
  for (const CircuitEdge& edge : graph.edges)
    if (edge.input == 0)
      links.push_back(json::Value::object()
                          .set("source", viewer_node(context, edge.source, where).id)
                          .set("target", viewer_node(context, edge.target, where).id)
                          .set("weight", or_zero(edge.of.effect)));
  json::Value info = json::Value::object();
  info.set("description", "Experts and heads as features: activation is the effect on " + context.metric +
                              ". Links of the kind selects are changes of a selection share.")
      .set("generator", json::Value::object().set("name", "signalbox"));
  json::Value metadata = json::Value::object();
  metadata.set("slug", "circuit")
      .set("scan", context.model)
      .set("transcoder_list", json::Value::array())
      .set("prompt_tokens", std::move(tokens))
      .set("prompt", context.example.text)
      .set("node_threshold", 1.0)
      .set("schema_version", 1)
      .set("info", std::move(info));
  json::Value parameters = json::Value::object();
  parameters.set("linkType", "both")
      .set("pinnedIds", json::Value::array())
      .set("clickedId", "")
      .set("supernodes", json::Value::array())
      .set("sg_pos", "");
  const std::string text = json::dump(json::Value::object()
                                          .set("metadata", std::move(metadata))
                                          .set("qParams", std::move(parameters))
                                          .set("nodes", std::move(nodes))
                                          .set("links", std::move(links)),
                                      1) +
                           "\n";
  if (text.size() > most_bytes)
    throw Error(where, "expected at most 100 MB, which is what Neuronpedia takes, found " +
                           gigabytes(static_cast<int64_t>(text.size())));
  return text;
}

std::string mib_text(const CircuitGraph& graph) {
  const CircuitContext& context = graph.context;
  std::map<std::string, MibScore> nodes, edges;
  nodes["input"].in_graph = nodes["logits"].in_graph = true;
  for (int64_t l = 0; l < context.n_layers; ++l) {
    for (int64_t h = 0; h < context.n_heads; ++h) nodes["a" + std::to_string(l) + ".h" + std::to_string(h)];
    nodes["m" + std::to_string(l)];
  }
  for (const CircuitNode& node : graph.nodes) {
    MibScore& of = nodes[mib_node(node.id)];
    of.score += or_zero(node.of.effect);
    of.in_graph = of.in_graph || node.in_circuit;
  }
  std::set<std::pair<NodeId, NodeId>> apart;  // edges whose inputs were measured
  for (const CircuitEdge& edge : graph.edges)
    if (edge.input && !edge.without) apart.insert({edge.source, edge.target});
  for (const CircuitEdge& edge : graph.edges) {
    const std::string source = mib_node(edge.source), target = mib_node(edge.target);
    if (source == target) continue;  // parts of one m{l}
    const bool head = edge.target.kind == Kind::head;
    if (!edge.input && !edge.without && apart.contains({edge.source, edge.target})) continue;
    for (const char input : head_inputs) {
      if (edge.input && input != edge.input) continue;
      MibScore& of = edges[source + "->" + target + (head ? std::string("<") + input + ">" : "")];
      if (edge.kind == CircuitEdge::Kind::feeds && !edge.without)
        of.score += or_zero(edge.of.effect) / (head && !edge.input ? 3 : 1);
      of.in_graph = of.in_graph || edge.in_circuit;
      if (!head) break;
    }
  }
  const json::Value cfg = json::Value::object()
                              .set("n_layers", context.n_layers)
                              .set("n_heads", context.n_heads)
                              .set("parallel_attn_mlp", false)
                              .set("d_model", context.d_model);
  return json::dump(json::Value::object()
                        .set("cfg", cfg)
                        .set("note",
                             "m{l} is the sum of the routed experts, the shared expert and the dense block of layer l; "
                             "a part told apart by position is the sum over positions; "
                             "q, k and v of a head have a third of an edge's score each where they were not measured "
                             "apart; edges by which a part selects "
                             "experts have no score")
                        .set("nodes", mib_object(nodes))
                        .set("edges", mib_object(edges)),
                    1) +
         "\n";
}

}  // namespace signalbox::eval
