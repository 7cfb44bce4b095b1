#include "eval/report/graph_picture.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "base/text.h"
#include "eval/report/drawing.h"

namespace signalbox::eval {

using namespace drawing;

namespace {

// "c2": the number of the expert's community, beside it; nothing where it has none.
std::string community_of(const GraphNode& node) {
  const json::Value* community = node.metadata.find("community");
  return community ? "c" + std::to_string(community->integer()) : "";
}

std::string expert_of(const GraphNode& node) { return std::to_string(node.metadata.find("expert")->integer()); }

}  // namespace

std::string graph_picture(const Graph& graph, const std::string& label, const std::string& weight) {
  std::map<int64_t, std::vector<const GraphNode*>> layers;
  std::map<std::string, const GraphNode*> nodes_by_id;
  for (const GraphNode& node : graph.nodes) {
    layers[node.layer].push_back(&node);
    nodes_by_id[node.id] = &node;
  }
  double largest = 0;
  bool within = false;
  for (const GraphEdge& edge : graph.edges) {
    largest = std::max(largest, std::fabs(edge.weight));
    within = within || nodes_by_id.at(edge.source)->layer == nodes_by_id.at(edge.target)->layer;
  }
  size_t most = 1;
  for (const auto& [layer, experts] : layers) most = std::max(most, experts.size());
  constexpr double top = 44, down = 26, half = 13;
  const double step = within ? 190 : 120, height = top + down * static_cast<double>(most) + 16,
               width = 56 + step * static_cast<double>(layers.size()) - (within ? 40 : step - 50);
  std::map<const GraphNode*, std::pair<double, double>> at;
  std::string out = open_svg(std::max(width, 220.0), height, label), nodes;
  double x = 46;
  for (const auto& [layer, experts] : layers) {
    nodes += words("s", x, 18, "middle", "layer " + std::to_string(layer));
    double y = top + (static_cast<double>(most) - static_cast<double>(experts.size())) * down / 2;
    for (const GraphNode* node : experts) {
      at[node] = {x, y};
      nodes += rect("node", x - half, y - 9, 2 * half, 18) + words("s", x, y + 4, "middle", expert_of(*node)) +
               words("s", x - half - 3, y + 4, "end", community_of(*node));
      y += down;
    }
    x += step;
  }
  for (const GraphEdge& edge : graph.edges) {
    const GraphNode &source = *nodes_by_id.at(edge.source), &target = *nodes_by_id.at(edge.target);
    const auto [x1, y1] = at[&source];
    const auto [x2, y2] = at[&target];
    const double out_to = std::min(110.0, 24 + std::fabs(y2 - y1) / 3);
    const bool same = source.layer == target.layer;
    const std::string path = same ? "M" + num(x1 + half) + "," + num(y1) + "C" + num(x1 + half + out_to) + "," +
                                        num(y1) + " " + num(x2 + half + out_to) + "," + num(y2) + " " + num(x2 + half) +
                                        "," + num(y2)
                                  : "M" + num(x1 + half) + "," + num(y1) + "C" + num((x1 + x2) / 2) + "," + num(y1) +
                                        " " + num((x1 + x2) / 2) + "," + num(y2) + " " + num(x2 - half) + "," + num(y2);
    const double wide = largest > 0 ? 0.5 + 6 * std::fabs(edge.weight) / largest : 1;
    out += "<path class=\"edge\" fill=\"none\"" + attribute("stroke-width", wide) + attribute("d", path) + ">" +
           title("layer " + std::to_string(source.layer) + " expert " + expert_of(source) +
                 (graph.directed ? " to " : " with ") + (same ? "" : "layer " + std::to_string(target.layer) + " ") +
                 "expert " + expert_of(target) + ": " + weight + " " + short_number(edge.weight)) +
           "</path>";
  }
  return out + nodes + "</svg>";
}

}  // namespace signalbox::eval
