// Pairs of experts as graphs for other programs (eval/findings/graph.h).
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/csv.h"
#include "base/namespaces.h"
#include "eval/findings/graph.h"

namespace signalbox::eval {

// The `most` links of the largest weight of each layer (of layer_a); rows without a weight are none. Nodes are named
// L3E7; the weight stands in the edge's metadata under its column's name.
Graph coactivation_graph(const CsvTable& coactivation, int64_t most);    // count
Graph across_layers_graph(const CsvTable& across_layers, int64_t most);  // phi, above 0

// DIR/coactivation.EXT and DIR/across_layers.EXT of those of the two tables that `analysis` has, for each of `formats`
// (dot, json, mermaid). Throws Error where it has neither. Returns the files.
std::vector<std::filesystem::path> write_graphs(const std::filesystem::path& analysis, const std::filesystem::path& dir,
                                                const std::vector<std::string>& formats, int64_t most);

}  // namespace signalbox::eval
