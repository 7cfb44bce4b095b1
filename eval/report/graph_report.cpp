#include "eval/report/graph_report.h"

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"

namespace signalbox::eval {

namespace {

json::Value graph_block(const Graph& graph) {
  json::Value nodes = json::Value::array(), edges = json::Value::array();
  for (const GraphNode& node : graph.nodes)
    nodes.push_back(json::Value::object()
                        .set("id", node.id)
                        .set("label", node.label)
                        .set("layer", node.layer)
                        .set("faint", node.faint)
                        .set("metadata", node.metadata));
  for (const GraphEdge& edge : graph.edges)
    edges.push_back(json::Value::object()
                        .set("source", edge.source)
                        .set("target", edge.target)
                        .set("relation", edge.relation)
                        .set("weight", edge.weight)
                        .set("faint", edge.faint)
                        .set("metadata", edge.metadata));
  return json::Value::object().set("nodes", std::move(nodes)).set("edges", std::move(edges));
}

std::string shown_value(const json::Value& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return value.string();
  if (value.type() == json::Type::boolean) return value.boolean() ? "yes" : "no";
  return value.type() == json::Type::real ? short_number(value.real()) : json::dump(value);
}

}  // namespace

// A column for every key of the nodes' metadata.
std::string graph_node_table(const Graph& graph) {
  std::vector<std::string> keys;
  for (const GraphNode& node : graph.nodes)
    for (const auto& [key, value] : node.metadata.members())
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  std::vector<std::string> headings = {"id", "what it is"};
  std::vector<uint8_t> numeric = {0, 0};
  for (const std::string& key : keys) {
    std::string heading = key;
    std::replace(heading.begin(), heading.end(), '_', ' ');
    headings.push_back(html_escape(heading));
    numeric.push_back(1);
  }
  std::vector<std::vector<std::string>> rows;
  for (const GraphNode& node : graph.nodes) {
    std::vector<std::string>& row = rows.emplace_back();
    row = {html_escape(node.id), html_escape(node.label)};
    for (const std::string& key : keys) {
      const json::Value* value = node.metadata.find(key);
      row.push_back(html_escape(value ? shown_value(*value) : "-"));
    }
  }
  return html_table(headings, numeric, rows);
}

std::string graph_figure(const Graph& graph, const std::string& label) {
  return json_block("graph", graph_block(graph)) +
         drawn_figure("picture", "graph", label,
                      html_escape("Each line is an edge, as wide as its size; orange: below 0; dashed: measured, but "
                                  "not in the circuit."));
}

std::string render_graph_page(const Graph& graph, const std::string& title, const std::string& lead) {
  return html_page(title, "<h1>" + html_escape(title) + "</h1><p id=\"lead\">" + html_escape(lead) + "</p>" +
                              graph_figure(graph, title) + "<h2 id=\"parts\">Parts</h2>" + graph_node_table(graph) +
                              "<h2 id=\"about\">What it is of</h2><details><summary>settings</summary><pre>" +
                              html_escape(json::dump(graph.metadata, 2)) + "</pre></details>");
}

}  // namespace signalbox::eval
