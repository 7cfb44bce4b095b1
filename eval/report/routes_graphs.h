// Pairs and chains of experts as graphs (eval/findings/graph.h), and for other programs.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/csv.h"
#include "base/namespaces.h"
#include "eval/findings/graph.h"

namespace signalbox::eval {

struct GraphLink {
  int64_t layer_a = 0, expert_a = 0, layer_b = 0, expert_b = 0;
  double weight = 0;
};
// The community of (layer, expert), from 1; experts without partners are absent.
using Communities = std::map<std::pair<int64_t, int64_t>, int64_t>;
Communities communities_of(const CsvTable& communities);  // of communities.csv

// Nodes are named L3E7; the weight stands in the edge's metadata under `weight`, and the community of an expert that
// has one in the node's under "community".
Graph expert_graph(const std::string& name, const std::string& weight, bool directed,
                   const std::vector<GraphLink>& links, const Communities& communities = {});

// The `most` links of the largest weight of each layer (of layer_a); rows without a weight are none.
Graph coactivation_graph(const CsvTable& coactivation, int64_t most, const Communities& communities = {});  // count
Graph across_layers_graph(const CsvTable& across_layers, int64_t most);  // phi, above 0
Graph pipelines_graph(const CsvTable& pipelines);                        // phi of each step

// DIR/coactivation.EXT, DIR/across_layers.EXT and DIR/pipelines.EXT of those of the three tables that `analysis` has,
// for each of `formats` (dot, json, mermaid, html). Throws Error where it has none. Returns the files.
std::vector<std::filesystem::path> write_graphs(const std::filesystem::path& analysis, const std::filesystem::path& dir,
                                                const std::vector<std::string>& formats, int64_t most);

}  // namespace signalbox::eval
