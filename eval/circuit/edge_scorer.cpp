#include "eval/circuit/edge_scorer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "eval/data/dice.h"

namespace signalbox::eval {

namespace {

using Kind = NodeId::Kind;

}  // namespace

EdgeScorer::EdgeScorer(ModelScorer& scorer, std::vector<EdgeId> edges)
    : scorer_(scorer), edges_(std::move(edges)), runner_(scorer) {}

std::string EdgeScorer::part_name(size_t part) const {
  return part < edges_.size() ? edge_name(edges_[part]) : "all others";
}

NodeMask EdgeScorer::only(const std::vector<EdgeId>& edges) const {
  NodeMask mask = nothing();
  for (const EdgeId& edge : edges) {
    const auto at = std::lower_bound(edges_.begin(), edges_.end(), edge);
    mask[static_cast<size_t>(at - edges_.begin())] = 1;
  }
  return mask;
}

std::vector<double> EdgeScorer::scores_of(const KeptEdges& kept) {
  std::string name = kept.all_others() ? "all but" : "edges";
  for (const EdgeId& edge : kept.listed()) name += " " + edge_name(edge);
  return scorer_.known_or(name, [&] {
    std::vector<double> out;
    for (size_t i = 0; i < n_pairs(); ++i) out.push_back(runner_.metric(i, kept));
    return out;
  });
}

std::vector<double> EdgeScorer::run(const NodeMask& kept) {
  const bool others = kept.back() != 0;
  std::vector<EdgeId> listed;
  for (size_t i = 0; i < edges_.size(); ++i)
    if ((kept[i] != 0) != others) listed.push_back(edges_[i]);
  if (listed.empty()) return others ? whole() : none();
  return scores_of(KeptEdges(std::move(listed), others));
}

RandomEdges draw_random_edges(const CircuitScorer& scorer, const std::vector<EdgeId>& edges, uint64_t seed, int64_t n) {
  const std::vector<NodeId>&nodes = scorer.nodes(), own = parts_of(edges);
  NodeMask mask = scorer.nothing();
  for (size_t i = 0; i < nodes.size(); ++i) mask[i] = std::binary_search(own.begin(), own.end(), nodes[i]);
  RandomEdges out;
  out.parts = draw_random_circuits(scorer, mask, seed, n);
  const auto exchanged = [](const NodeId& node) { return node.kind == Kind::head || node.kind == Kind::expert; };
  for (size_t d = 0; d < out.parts.circuits.size(); ++d) {
    std::map<std::pair<int32_t, Kind>, std::vector<NodeId>> drawn;
    for (size_t i = 0; i < nodes.size(); ++i)
      if (out.parts.circuits[d][i] && exchanged(nodes[i])) drawn[{nodes[i].layer, nodes[i].kind}].push_back(nodes[i]);
    Dice dice(seed, "random edges " + std::to_string(d));
    std::map<NodeId, NodeId> instead;
    for (auto& [at, others] : drawn) {
      dice.shuffle(others);
      size_t next = 0;
      for (const NodeId& node : own)
        if (node.layer == at.first && node.kind == at.second) instead[node] = others[next++];
    }
    const auto other = [&](const NodeId& node) {
      const auto found = instead.find(node);
      return found == instead.end() ? node : found->second;
    };
    std::vector<EdgeId>& circuit = out.circuits.emplace_back();
    for (const EdgeId& edge : edges) circuit.push_back({other(edge.source), other(edge.target), edge.input});
    std::sort(circuit.begin(), circuit.end());
  }
  return out;
}

}  // namespace signalbox::eval
