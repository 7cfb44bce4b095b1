#include "eval/findings/graph.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

constexpr double thinnest = 1, thickest = 5;

double size_of_weight(const GraphEdge& edge) { return std::isfinite(edge.weight) ? std::fabs(edge.weight) : 0; }

// In double quotes; Graphviz knows no other escapes than these within them, and reads "\n" as the end of a line.
std::string dot_quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else if (c != '\r') {
      out += c;
    }
  }
  return out + "\"";
}

bool is_name(std::string_view text) {
  if (text.empty() || is_ascii_digit(text.front())) return false;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return is_ascii_letter(c) || is_ascii_digit(c) || c == '_'; });
}

// ", key="value"" of each member; a null is none.
std::string dot_attributes(const json::Value& metadata, const std::string& where) {
  std::string out;
  for (const auto& [key, value] : metadata.members()) {
    if (!is_name(key))
      throw Error(where, "expected metadata keys of letters, digits and \"_\", found " + in_quotes(key));
    if (value.is_null()) continue;
    if (value.type() == json::Type::array || value.type() == json::Type::object)
      throw Error(where, "expected " + in_quotes(key) + " to be a number, a text or a boolean, found " +
                             json::type_name(value.type()));
    // "layer" means something else to Graphviz.
    out += ", " + (key == "layer" ? "in_layer" : key) + "=" +
           dot_quoted(value.is_string()                  ? value.string()
                      : value.type() == json::Type::real ? short_number(value.real())
                                                         : json::dump(value));
  }
  return out;
}

using ByLayer = std::map<int64_t, std::vector<const GraphNode*>>;

ByLayer by_layer(const Graph& graph) {
  ByLayer out;
  for (const GraphNode& node : graph.nodes) out[node.layer].push_back(&node);
  return out;
}

std::string dot_node(const GraphNode& node) {
  return dot_quoted(node.id) + " [label=" + dot_quoted(node.label) + (node.faint ? ", style=\"dashed\"" : "") +
         dot_attributes(node.metadata, node.id) + "];\n";
}

// A text in a quoted label of Mermaid: what its parser, its Markdown or the page might read is written as an entity.
std::string mermaid_quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': out += "#quot;"; break;
      case '#': out += "#35;"; break;
      case '&': out += "#amp;"; break;
      case '<': out += "#lt;"; break;
      case '>': out += "#gt;"; break;
      case '`': out += "#96;"; break;
      case '|': out += "#124;"; break;
      case '\\': out += "#92;"; break;
      case '\n': out += "<br/>"; break;
      case '\r': break;
      default: out += c;
    }
  }
  return out + "\"";
}

std::string text_of(const json::Ref& object, const char* key) {
  const std::optional<json::Ref> found = object.find(key);
  return found ? found->string() : "";
}

json::Value metadata_of(const json::Ref& object) {
  const std::optional<json::Ref> found = object.find("metadata");
  if (!found) return json::Value::object();
  found->expect_object();
  return found->value();
}

}  // namespace

std::string dot_text(const Graph& graph) {
  std::string out = (graph.directed ? "digraph " : "graph ") + dot_quoted(graph.id) + " {\n  rankdir=LR;\n";
  if (!graph.label.empty()) out += "  label=" + dot_quoted(graph.label) + ";\n";
  for (const auto& [layer, nodes] : by_layer(graph)) {
    const bool own = layer >= 0;
    if (own) {
      const std::string name = "layer " + std::to_string(layer);
      out += "  subgraph " + dot_quoted("cluster_" + std::to_string(layer)) + " {\n    label=" + dot_quoted(name) +
             ";\n    rank=same;\n";
    }
    for (const GraphNode* node : nodes) out += (own ? "    " : "  ") + dot_node(*node);
    if (own) out += "  }\n";
  }
  double most = 0;
  for (const GraphEdge& edge : graph.edges) most = std::max(most, size_of_weight(edge));
  for (const GraphEdge& edge : graph.edges) {
    const double size = size_of_weight(edge),
                 width = most > 0 ? thinnest + (thickest - thinnest) * size / most : thinnest;
    out += "  " + dot_quoted(edge.source) + (graph.directed ? " -> " : " -- ") + dot_quoted(edge.target) +
           " [weight=\"" + short_number(size) + "\", penwidth=\"" + short_number(std::round(width * 100) / 100) + "\"";
    if (edge.faint) out += ", style=\"dashed\"";
    if (!edge.label.empty()) out += ", label=" + dot_quoted(edge.label);
    if (!edge.relation.empty()) out += ", relation=" + dot_quoted(edge.relation);
    out += dot_attributes(edge.metadata, edge.source + " -> " + edge.target) + "];\n";
  }
  return out + "}\n";
}

std::string graph_json_text(const Graph& graph) {
  json::Value nodes = json::Value::object(), edges = json::Value::array();
  for (const GraphNode& node : graph.nodes) {
    json::Value body = json::Value::object();
    if (!node.label.empty()) body.set("label", node.label);
    nodes.append_member(node.id, std::move(body.set("metadata", node.metadata)));
  }
  for (const GraphEdge& edge : graph.edges) {
    json::Value body = json::Value::object();
    body.set("source", edge.source).set("target", edge.target);
    if (!edge.relation.empty()) body.set("relation", edge.relation);
    if (!edge.label.empty()) body.set("label", edge.label);
    edges.push_back(std::move(body.set("metadata", edge.metadata)));
  }
  json::Value body = json::Value::object();
  body.set("id", graph.id).set("directed", graph.directed);
  if (!graph.type.empty()) body.set("type", graph.type);
  if (!graph.label.empty()) body.set("label", graph.label);
  if (!graph.metadata.members().empty()) body.set("metadata", graph.metadata);
  body.set("nodes", std::move(nodes)).set("edges", std::move(edges));
  return json::dump(json::Value::object().set("graph", std::move(body)), 1) + "\n";
}

Graph read_graph_json(const json::Ref& document) {
  document.reject_unknown({"graph"});
  const json::Ref body = document.at("graph");
  body.reject_unknown({"id", "label", "type", "directed", "metadata", "nodes", "edges"});
  Graph graph;
  graph.id = text_of(body, "id");
  graph.label = text_of(body, "label");
  graph.type = text_of(body, "type");
  const std::optional<json::Ref> directed = body.find("directed");
  graph.directed = !directed || directed->boolean();
  graph.metadata = metadata_of(body);
  std::set<std::string> known;
  for (const auto& [id, node] : body.at("nodes").members()) {
    node.reject_unknown({"label", "metadata"});
    graph.nodes.push_back({id, text_of(node, "label"), -1, metadata_of(node), false});
    known.insert(id);
  }
  for (const json::Ref& edge : body.at("edges").items()) {
    edge.reject_unknown({"id", "source", "target", "relation", "directed", "label", "metadata"});
    GraphEdge made;
    made.source = edge.at("source").string();
    made.target = edge.at("target").string();
    made.relation = text_of(edge, "relation");
    made.label = text_of(edge, "label");
    made.metadata = metadata_of(edge);
    for (const char* end : {"source", "target"})
      if (!known.contains(edge.at(end).string()))
        edge.at(end).fail("expected the id of a node, found " + in_quotes(edge.at(end).string()));
    graph.edges.push_back(std::move(made));
  }
  return graph;
}

std::string mermaid_text(const Graph& graph) {
  const bool as_they_are =
      std::all_of(graph.nodes.begin(), graph.nodes.end(), [](const GraphNode& node) { return is_name(node.id); });
  std::map<std::string, std::string> names;
  for (size_t i = 0; i < graph.nodes.size(); ++i)
    names[graph.nodes[i].id] = as_they_are ? graph.nodes[i].id : "n" + std::to_string(i);
  std::string out = "flowchart LR\n";
  for (const auto& [layer, nodes] : by_layer(graph)) {
    const bool own = layer >= 0;
    const std::string number = std::to_string(layer);
    if (own) out += "  subgraph layer" + number + "[\"layer " + number + "\"]\n";
    for (const GraphNode* node : nodes)
      out += (own ? "    " : "  ") + names.at(node->id) + "([" + mermaid_quoted(node->label) + "])\n";
    if (own) out += "  end\n";
  }
  for (const GraphEdge& edge : graph.edges) {
    const std::string line = graph.directed ? (edge.faint ? " -.->" : " -->") : (edge.faint ? " -.-" : " ---");
    out += "  " + names.at(edge.source) + line + (edge.label.empty() ? "" : "|" + mermaid_quoted(edge.label) + "|") +
           " " + names.at(edge.target) + "\n";
  }
  return out;
}

std::string limited_mermaid_text(const Graph& graph, const std::string& where) {
  if (graph.edges.size() > most_mermaid_edges)
    throw Error(where, "expected at most " + std::to_string(most_mermaid_edges) +
                           " edges, which is what pages of Mermaid draw, found " + std::to_string(graph.edges.size()));
  const std::string out = mermaid_text(graph);
  if (out.size() > most_mermaid_characters)
    throw Error(where, "expected at most " + std::to_string(most_mermaid_characters) +
                           " characters, which is what pages of Mermaid read, found " + std::to_string(out.size()));
  return out;
}

}  // namespace signalbox::eval
