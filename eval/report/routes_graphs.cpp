#include "eval/report/routes_graphs.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "eval/report/graph_report.h"
#include "eval/report/routes_tables.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

std::string node_name(int64_t layer, int64_t expert) {
  return "L" + std::to_string(layer) + "E" + std::to_string(expert);
}

struct GraphColumns {
  const char *layer_a, *expert_a, *layer_b, *expert_b, *weight;
};

std::vector<GraphLink> links_of(const CsvTable& table, const GraphColumns& names, int64_t most) {
  const size_t layer_a = table.column(names.layer_a), expert_a = table.column(names.expert_a),
               layer_b = table.column(names.layer_b), expert_b = table.column(names.expert_b),
               weight = table.column(names.weight);
  std::map<int64_t, std::vector<GraphLink>> by_layer;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    if (table.text(r, weight).empty() || table.number(r, weight) <= 0) continue;
    by_layer[table.integer(r, layer_a)].push_back({table.integer(r, layer_a), table.integer(r, expert_a),
                                                   table.integer(r, layer_b), table.integer(r, expert_b),
                                                   table.number(r, weight)});
  }
  std::vector<GraphLink> out;
  for (auto& [layer, links] : by_layer) {
    std::stable_sort(links.begin(), links.end(),
                     [](const GraphLink& a, const GraphLink& b) { return a.weight > b.weight; });
    out.insert(out.end(), links.begin(), links.begin() + std::min(static_cast<int64_t>(links.size()), most));
  }
  return out;
}

}  // namespace

Communities communities_of(const CsvTable& table) {
  const size_t layer = table.column("layer"), expert = table.column("expert"), community = table.column("community");
  Communities out;
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (!table.text(r, community).empty())
      out[{table.integer(r, layer), table.integer(r, expert)}] = table.integer(r, community);
  return out;
}

Graph expert_graph(const std::string& name, const std::string& weight, bool directed,
                   const std::vector<GraphLink>& links, const Communities& communities) {
  Graph graph;
  graph.id = name;
  graph.directed = directed;
  std::map<int64_t, std::set<int64_t>> layers;  // the experts of each that have a link
  for (const GraphLink& link : links) {
    layers[link.layer_a].insert(link.expert_a);
    layers[link.layer_b].insert(link.expert_b);
  }
  for (const auto& [layer, experts] : layers)
    for (const int64_t expert : experts) {
      json::Value metadata = json::Value::object().set("layer", layer).set("expert", expert);
      if (const auto found = communities.find({layer, expert}); found != communities.end())
        metadata.set("community", found->second);
      graph.nodes.push_back(
          {node_name(layer, expert), "expert " + std::to_string(expert), layer, std::move(metadata), false});
    }
  for (const GraphLink& link : links)
    graph.edges.push_back({node_name(link.layer_a, link.expert_a), node_name(link.layer_b, link.expert_b), "",
                           short_number(link.weight), link.weight, json::Value::object().set(weight, link.weight),
                           false});
  return graph;
}

Graph coactivation_graph(const CsvTable& table, int64_t most, const Communities& communities) {
  return expert_graph("coactivation", "count", false,
                      links_of(table, {"layer", "expert_a", "layer", "expert_b", "count"}, most), communities);
}

Graph across_layers_graph(const CsvTable& table, int64_t most) {
  return expert_graph("across_layers", "phi", true,
                      links_of(table, {"layer_a", "expert_a", "layer_b", "expert_b", "phi"}, most));
}

Graph pipelines_graph(const CsvTable& table) {
  std::vector<GraphLink> links;
  const size_t pipeline = table.column("pipeline"), layer = table.column("layer"), expert = table.column("expert"),
               phi = table.column("phi");
  for (size_t r = 1; r < table.n_rows(); ++r)
    if (table.text(r, pipeline) == table.text(r - 1, pipeline) && !table.text(r, phi).empty())
      links.push_back({table.integer(r - 1, layer), table.integer(r - 1, expert), table.integer(r, layer),
                       table.integer(r, expert), table.number(r, phi)});
  return expert_graph("pipelines", "phi", true, links);
}

namespace {

std::string page_text(const Graph& graph) {
  const std::string what = graph.id == "coactivation" ? "Experts that a token selects together"
                           : graph.id == "pipelines"  ? "Chains of experts through the layers"
                                                      : "Experts of one layer with those of the next";
  return render_graph_page(graph, what, std::to_string(graph.edges.size()) + " links, from " + graph.id + ".csv.");
}

}  // namespace

std::vector<fs::path> write_graphs(const fs::path& analysis, const fs::path& dir,
                                   const std::vector<std::string>& formats, int64_t most) {
  std::vector<Graph> graphs;
  if (const std::optional<CsvTable> table = read_table(analysis, "coactivation.csv")) {
    const std::optional<CsvTable> groups = read_table(analysis, "communities.csv");
    graphs.push_back(coactivation_graph(*table, most, groups ? communities_of(*groups) : Communities()));
  }
  if (const std::optional<CsvTable> table = read_table(analysis, "across_layers.csv"))
    graphs.push_back(across_layers_graph(*table, most));
  if (const std::optional<CsvTable> table = read_table(analysis, "pipelines.csv"))
    graphs.push_back(pipelines_graph(*table));
  if (graphs.empty())
    throw Error(analysis.string(),
                "expected coactivation.csv, across_layers.csv or pipelines.csv with rows (signalbox analyze), found "
                "none");
  using Writer = std::string (*)(const Graph&);
  const std::map<std::string, std::pair<const char*, Writer>> writers = {{"dot", {".dot", dot_text}},
                                                                         {"json", {".json", graph_json_text}},
                                                                         {"mermaid", {".mmd", mermaid_text}},
                                                                         {"html", {".html", page_text}}};
  std::vector<fs::path> out;
  for (const Graph& graph : graphs)
    for (const std::string& format : formats) {
      const auto& [extension, write] = writers.at(format);
      out.push_back(dir / (graph.id + extension));
      write_file_atomically(out.back(), write(graph));
    }
  return out;
}

}  // namespace signalbox::eval
