#include "eval/report/routes_graphs.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "eval/report/routes_tables.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

std::string node_name(int64_t layer, int64_t expert) {
  return "L" + std::to_string(layer) + "E" + std::to_string(expert);
}

using Layers = std::map<int64_t, std::set<int64_t>>;  // the experts of each that have a link

Layers layers_of(const ExpertGraph& graph) {
  Layers out;
  for (const ExpertLink& link : graph.links) {
    out[link.layer_a].insert(link.expert_a);
    out[link.layer_b].insert(link.expert_b);
  }
  return out;
}

struct GraphColumns {
  const char *layer_a, *expert_a, *layer_b, *expert_b, *weight;
};

std::vector<ExpertLink> links_of(const CsvTable& table, const GraphColumns& names, int64_t most) {
  const size_t layer_a = table.column(names.layer_a), expert_a = table.column(names.expert_a),
               layer_b = table.column(names.layer_b), expert_b = table.column(names.expert_b),
               weight = table.column(names.weight);
  std::map<int64_t, std::vector<ExpertLink>> by_layer;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    if (table.text(r, weight).empty() || table.number(r, weight) <= 0) continue;
    by_layer[table.integer(r, layer_a)].push_back({table.integer(r, layer_a), table.integer(r, expert_a),
                                                   table.integer(r, layer_b), table.integer(r, expert_b),
                                                   table.number(r, weight)});
  }
  std::vector<ExpertLink> out;
  for (auto& [layer, links] : by_layer) {
    std::stable_sort(links.begin(), links.end(),
                     [](const ExpertLink& a, const ExpertLink& b) { return a.weight > b.weight; });
    out.insert(out.end(), links.begin(), links.begin() + std::min(static_cast<int64_t>(links.size()), most));
  }
  return out;
}

}  // namespace

ExpertGraph coactivation_graph(const CsvTable& table, int64_t most) {
  return {"coactivation", "count", false, links_of(table, {"layer", "expert_a", "layer", "expert_b", "count"}, most)};
}

ExpertGraph across_layers_graph(const CsvTable& table, int64_t most) {
  return {"across_layers", "phi", true, links_of(table, {"layer_a", "expert_a", "layer_b", "expert_b", "phi"}, most)};
}

std::string dot_text(const ExpertGraph& graph) {
  std::string out = (graph.directed ? "digraph " : "graph ") + graph.name + " {\n  rankdir=LR;\n";
  for (const auto& [layer, experts] : layers_of(graph)) {
    out += "  subgraph cluster_" + std::to_string(layer) + " {\n    label=\"layer " + std::to_string(layer) + "\";\n";
    for (const int64_t expert : experts)
      out += "    " + node_name(layer, expert) + " [label=\"" + std::to_string(expert) + "\"];\n";
    out += "  }\n";
  }
  for (const ExpertLink& link : graph.links)
    out += "  " + node_name(link.layer_a, link.expert_a) + (graph.directed ? " -> " : " -- ") +
           node_name(link.layer_b, link.expert_b) + " [" + graph.weight + "=\"" + short_number(link.weight) + "\"];\n";
  return out + "}\n";
}

std::string graph_json_text(const ExpertGraph& graph) {
  json::Value nodes = json::Value::object(), edges = json::Value::array();
  for (const auto& [layer, experts] : layers_of(graph))
    for (const int64_t expert : experts) {
      const json::Value place = json::Value::object().set("layer", layer).set("expert", expert);
      nodes.append_member(node_name(layer, expert),
                          json::Value::object()
                              .set("label", "layer " + std::to_string(layer) + ", expert " + std::to_string(expert))
                              .set("metadata", place));
    }
  for (const ExpertLink& link : graph.links)
    edges.push_back(json::Value::object()
                        .set("source", node_name(link.layer_a, link.expert_a))
                        .set("target", node_name(link.layer_b, link.expert_b))
                        .set("metadata", json::Value::object().set(graph.weight, link.weight)));
  const json::Value body = json::Value::object()
                               .set("id", graph.name)
                               .set("directed", graph.directed)
                               .set("nodes", nodes)
                               .set("edges", edges);
  return json::dump(json::Value::object().set("graph", body), 1) + "\n";
}

std::string mermaid_text(const ExpertGraph& graph) {
  std::string out = "flowchart LR\n";
  for (const auto& [layer, experts] : layers_of(graph)) {
    out += "  subgraph layer" + std::to_string(layer) + "[\"layer " + std::to_string(layer) + "\"]\n";
    for (const int64_t expert : experts)
      out += "    " + node_name(layer, expert) + "((\"" + std::to_string(expert) + "\"))\n";
    out += "  end\n";
  }
  for (const ExpertLink& link : graph.links)
    out += "  " + node_name(link.layer_a, link.expert_a) + (graph.directed ? " -->|\"" : " ---|\"") +
           short_number(link.weight) + "\"| " + node_name(link.layer_b, link.expert_b) + "\n";
  return out;
}

std::vector<fs::path> write_graphs(const fs::path& analysis, const fs::path& dir,
                                   const std::vector<std::string>& formats, int64_t most) {
  std::vector<ExpertGraph> graphs;
  if (const std::optional<CsvTable> table = read_table(analysis, "coactivation.csv"))
    graphs.push_back(coactivation_graph(*table, most));
  if (const std::optional<CsvTable> table = read_table(analysis, "across_layers.csv"))
    graphs.push_back(across_layers_graph(*table, most));
  if (graphs.empty())
    throw Error(analysis.string(),
                "expected coactivation.csv or across_layers.csv with rows (signalbox analyze), found "
                "neither");
  std::vector<fs::path> out;
  for (const ExpertGraph& graph : graphs)
    for (const std::string& format : formats) {
      const bool dot = format == "dot", is_json = format == "json";
      out.push_back(dir / (graph.name + (dot ? ".dot" : is_json ? ".json" : ".mmd")));
      write_file_atomically(out.back(), dot ? dot_text(graph) : is_json ? graph_json_text(graph) : mermaid_text(graph));
    }
  return out;
}

}  // namespace signalbox::eval
