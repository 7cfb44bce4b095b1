// Pairs of experts as graphs for other programs: Graphviz, JSON Graph Format 2, Mermaid.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/csv.h"
#include "base/namespaces.h"

namespace signalbox::eval {

struct ExpertLink {
  int64_t layer_a = 0, expert_a = 0, layer_b = 0, expert_b = 0;
  double weight = 0;
};
struct ExpertGraph {
  std::string name;    // "coactivation", "across_layers"
  std::string weight;  // what the weights are: "lift"
  bool directed = false;
  std::vector<ExpertLink> links;
};

// The `most` links of the largest weight of each layer (of layer_a); rows without a weight are none.
ExpertGraph coactivation_graph(const CsvTable& coactivation, int64_t most);    // count
ExpertGraph across_layers_graph(const CsvTable& across_layers, int64_t most);  // phi, above 0

// Nodes are named L3E7, a cluster (in Mermaid a subgraph) a layer; numbers have six figures. Pages of Mermaid draw at
// most 500 links unless they are told otherwise.
std::string dot_text(const ExpertGraph& graph);
std::string graph_json_text(const ExpertGraph& graph);
std::string mermaid_text(const ExpertGraph& graph);

// DIR/coactivation.EXT and DIR/across_layers.EXT of those of the two tables that `analysis` has, for each of `formats`
// (dot, json, mermaid). Throws Error where it has neither. Returns the files.
std::vector<std::filesystem::path> write_graphs(const std::filesystem::path& analysis, const std::filesystem::path& dir,
                                                const std::vector<std::string>& formats, int64_t most);

}  // namespace signalbox::eval
