// The parts of a model that circuits are made of, and their names:
//
//   L3.E5      expert 5 of layer 3, weighted by its router, at the tokens that select it; absent = 0
//   L3.H2      head 2 of layer 3: its output before the output projection
//   L3.shared  the shared expert of layer 3, behind its gate
//   L3.mlp     the dense feed-forward block of a layer without a router
//   embed, logits  what everything begins with and ends in; they are in every circuit
//   L3.router  the router of layer 3: no part of circuits, but something that edges end in (edge_set.h)
//
// "@7" behind a name: at position 7 alone. In a circuit whose parts are told apart by position
// (eval/circuit/positions.h) a name without it is of the tokens that stand at none.
#pragma once
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "probes/shape.h"

namespace signalbox::eval {

struct NodeId {
  // In the order in which one layer computes them.
  enum class Kind : uint8_t { embed, head, router, expert, shared, mlp, logits };
  Kind kind = Kind::embed;
  int32_t layer = -1, index = -1;  // index: of the expert or the head
  int64_t position = -1;           // -1: at every token

  bool ends() const { return kind == Kind::embed || kind == Kind::logits; }
  bool operator==(const NodeId&) const = default;
  // By order of execution: embed, layers with heads before feed-forward parts, logits.
  std::strong_ordering operator<=>(const NodeId& other) const;
};

std::string node_name(const NodeId& node);
// Throws Error that begins with `where` for anything else.
NodeId parse_node(std::string_view name, const std::string& where);
std::string node_label(const NodeId& node);  // "layer 3, expert 5"

// Whether what `from` writes is in what `to` reads: it lies in an earlier layer, or is a head of the same one and `to`
// a feed-forward part. A head reads its own position and earlier ones, all others their own alone.
bool precedes(const NodeId& from, const NodeId& to);

// What a circuit is made of: parts of a model at all tokens, or at one position each.
enum class NodeLevel : uint8_t { node, position };
NodeLevel parse_level(std::string_view name, const std::string& where);  // throws Error, listing the names
std::string_view level_name(NodeLevel level);

// All parts of a model, in order; without embed and logits.
std::vector<NodeId> nodes_of(const probes::ModelShape& shape);
// Each of `nodes` at every position below n_positions, and at those that stand at none; in order.
std::vector<NodeId> at_positions(const std::vector<NodeId>& nodes, int64_t n_positions, bool others);

}  // namespace signalbox::eval
