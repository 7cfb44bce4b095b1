// A circuit as a graph: parts of a model, what each does to a metric, and what passes between them. Its file is
// graph.json, JSON Graph Format 2 (docs/circuits.md); reading and writing lose nothing.
#pragma once
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/circuit/node.h"
#include "eval/findings/graph.h"

namespace signalbox::eval {

inline constexpr double not_measured = std::numeric_limits<double>::quiet_NaN();

// A mean over pairs of records. NaN where undefined; in files null.
struct CircuitEffect {
  double effect = not_measured, ci_lo = not_measured, ci_hi = not_measured;
  double q = not_measured;
  int64_t n = 0;  // pairs
};

struct CircuitNode {
  NodeId id;
  CircuitEffect of;  // on the metric
  bool in_circuit = false;
};

struct CircuitEdge {
  enum class Kind : uint8_t { feeds, selects };
  NodeId source, target;
  Kind kind = Kind::feeds;
  // feeds: on the metric, through the target's input with its route held. selects: change of the share of tokens that
  // select the target.
  CircuitEffect of;
  double dlogit = not_measured;   // selects: mean change of the target's router logit
  double control = not_measured;  // 95th percentile of what other changes of the source's size do
  bool in_circuit = false;
  double forecast = not_measured;      // feeds: to first order, where it was asked for; always about the whole edge
  std::optional<NodeId> without = {};  // measured while this part, which stands in for an end of it, was out
  char input = 0;  // feeds of a head: by its query 'q', key 'k' or value 'v' alone; 0: by all that the target reads
};

// One text that the circuit ran on, for viewers that show tokens.
struct CircuitExample {
  std::string id, text;
  std::vector<std::string> tokens;
  std::string answer;         // text of the token that the metric asks for
  int32_t answer_token = -1;  // -1: none
  double answer_p = not_measured;
  std::vector<int32_t> positions;  // NodeLevel::position: [position of the circuit] its token
};

// What the graph is of.
struct CircuitContext {
  std::string model, model_hash, metric, ablation;
  NodeLevel level = NodeLevel::node;
  int64_t n_layers = 0, n_heads = 0, n_experts = 0, d_model = 0;  // heads and experts: the most of any layer
  CircuitExample example;
};

struct CircuitGraph {
  CircuitContext context;
  std::vector<CircuitNode> nodes;  // ascending; embed and logits among them
  std::vector<CircuitEdge> edges;  // by source, target, kind, input
};

std::string_view edge_kind_name(CircuitEdge::Kind kind);  // "feeds", "selects"

// Without the parts and edges that are not in the circuit.
CircuitGraph circuit_alone(const CircuitGraph& graph);

// For every writer and for reports.
Graph drawing_of(const CircuitGraph& graph);

std::string circuit_json_text(const CircuitGraph& graph);  // graph.json
// Throws Error at the key for anything that circuit_json_text does not write.
CircuitGraph read_circuit_graph(const json::Ref& document);

}  // namespace signalbox::eval
