// Which edges a circuit's graph holds, and which of them are in the circuit: those of the whole model, and beside parts
// that can stand in for one another those that show only while the other one is out.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/edges.h"
#include "eval/circuit/graph.h"

namespace signalbox::eval {

// Edges that were measured in one base of comparison.
struct EdgeSet {
  ModelScorer* scorer = nullptr;
  std::vector<EdgeEffects> edges;      // measured
  std::vector<double> forecasts;       // [edge] empty: none were made
  std::optional<NodeId> without = {};  // which part was out; none: the whole model
  // Candidates that were not run, for their forecast: they count in the family of q.
  std::vector<std::pair<NodeId, NodeId>> left_out = {};  // source, target
};

// An edge is in the circuit where both ends are, its q is below alpha, and its size above the 95th percentile of its
// controls and, of feeds, at least `floor`.
struct EdgeRule {
  double alpha = 0.05, floor = 0;
  int64_t controls = 2;  // draws of either kind for each pair
  uint64_t seed = 0;
  std::function<bool(const NodeId&)> in_circuit;
  // Says instead which edges of the whole model are in the circuit, where a search has decided (edge_circuit.h); then
  // there are no controls. `input`: of a head; 0: any of its inputs. Empty: the rule above.
  std::function<bool(const EdgeEffects& edge, CircuitEdge::Kind kind, char input)> kept;
  // Means with intervals of [column][pair]; q over a family of so many hypotheses, the columns among them.
  std::function<std::vector<CircuitEffect>(const std::vector<std::vector<double>>&, size_t family)> effects;
  std::function<void(const std::string& stage, size_t runs)> begin;
};

struct GraphEdges {
  std::vector<CircuitEdge> edges;  // by source and target
  int64_t tested = 0;              // columns that were run, those by input apart
  int64_t family = 0;              // columns of all candidates, over which q is
  int64_t inputs_family = 0;       // and of those by input: three of each large edge to a head, and of each not run
};
// Runs controls, and inputs of heads, where they are asked for. Of sets with a part out only edges are kept that are
// large enough for the circuit and not in it as they are.
GraphEdges graph_edges(std::vector<EdgeSet>& sets, const EdgeRule& rule);

}  // namespace signalbox::eval
