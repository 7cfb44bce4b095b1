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

struct ExpertLink {
  int64_t layer_a = 0, expert_a = 0, layer_b = 0, expert_b = 0;
  double weight = 0;
};

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

Graph graph_of(const std::string& name, const std::string& weight, bool directed,
               const std::vector<ExpertLink>& links) {
  Graph graph;
  graph.id = name;
  graph.directed = directed;
  std::map<int64_t, std::set<int64_t>> layers;  // the experts of each that have a link
  for (const ExpertLink& link : links) {
    layers[link.layer_a].insert(link.expert_a);
    layers[link.layer_b].insert(link.expert_b);
  }
  for (const auto& [layer, experts] : layers)
    for (const int64_t expert : experts)
      graph.nodes.push_back({node_name(layer, expert), "expert " + std::to_string(expert), layer,
                             json::Value::object().set("layer", layer).set("expert", expert), false});
  for (const ExpertLink& link : links)
    graph.edges.push_back({node_name(link.layer_a, link.expert_a), node_name(link.layer_b, link.expert_b), "",
                           short_number(link.weight), link.weight, json::Value::object().set(weight, link.weight),
                           false});
  return graph;
}

}  // namespace

Graph coactivation_graph(const CsvTable& table, int64_t most) {
  return graph_of("coactivation", "count", false,
                  links_of(table, {"layer", "expert_a", "layer", "expert_b", "count"}, most));
}

Graph across_layers_graph(const CsvTable& table, int64_t most) {
  return graph_of("across_layers", "phi", true,
                  links_of(table, {"layer_a", "expert_a", "layer_b", "expert_b", "phi"}, most));
}

std::vector<fs::path> write_graphs(const fs::path& analysis, const fs::path& dir,
                                   const std::vector<std::string>& formats, int64_t most) {
  std::vector<Graph> graphs;
  if (const std::optional<CsvTable> table = read_table(analysis, "coactivation.csv"))
    graphs.push_back(coactivation_graph(*table, most));
  if (const std::optional<CsvTable> table = read_table(analysis, "across_layers.csv"))
    graphs.push_back(across_layers_graph(*table, most));
  if (graphs.empty())
    throw Error(analysis.string(),
                "expected coactivation.csv or across_layers.csv with rows (signalbox analyze), found "
                "neither");
  std::vector<fs::path> out;
  for (const Graph& graph : graphs)
    for (const std::string& format : formats) {
      const bool dot = format == "dot", is_json = format == "json";
      out.push_back(dir / (graph.id + (dot ? ".dot" : is_json ? ".json" : ".mmd")));
      write_file_atomically(out.back(), dot ? dot_text(graph) : is_json ? graph_json_text(graph) : mermaid_text(graph));
    }
  return out;
}

}  // namespace signalbox::eval
