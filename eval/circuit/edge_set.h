// Edges of a model's graph, and sets of them that stay while all others carry what they carry in the ablated run.
//
//   L0.E1->L2.H3<k>   what expert 1 of layer 0 writes, as the key of head 3 of layer 2 is made of it; likewise <q>,
//   <v>.
//                     Heads that share keys and values have them each for itself
//   L0.E1->L2.router  as the router of layer 2 reads it: it says which experts run, and with which weights
//   L0.E1->L2.E5      as expert 5 reads it, when it is chosen
//   ...->L2.shared, L2.mlp, logits
//
// The names are those of EAP-IG, with experts. Parts are of all tokens.
#pragma once
#include <compare>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/node.h"

namespace signalbox::eval {

struct EdgeId {
  NodeId source, target;
  char input = 0;  // of a head 'q', 'k' or 'v'; else 0
  bool operator==(const EdgeId&) const = default;
  // By what reads, in order of execution, then by what writes.
  std::strong_ordering operator<=>(const EdgeId& other) const;
};

std::string edge_name(const EdgeId& edge);
// Throws Error that begins with `where`: a name of another form, a position, a part that does not read or write, or one
// that does not come before the other.
EdgeId parse_edge(std::string_view name, const std::string& where);

// A set of edges of a model: those listed, or all others.
class KeptEdges {
 public:
  KeptEdges(std::vector<EdgeId> listed, bool all_others);
  const std::vector<EdgeId>& listed() const { return listed_; }  // ascending
  bool all_others() const { return all_others_; }
  bool has(const EdgeId& edge) const;
  // Whether any edge that begins in this part is in the set; of all others they are taken to be.
  bool sends(const NodeId& node) const;
  // Whether one may lack.
  bool may_miss(const NodeId& node) const { return !all_others_ || lists(node); }

 private:
  bool lists(const NodeId& source) const;

  std::vector<EdgeId> listed_;
  std::vector<NodeId> sources_;  // of those listed, ascending
  bool all_others_;
};

// Every edge between two of these parts (ascending; with embed, where it can be ablated, and logits), ascending; into
// an expert also what its router reads, once for each layer.
std::vector<EdgeId> edges_between(const std::vector<NodeId>& nodes);

// The edges on some way from where nothing lacks to the logits: without those that begin in a part that reads nothing
// (unless `anything_sends`), and those that end in a part, or in a router all of whose experts, nothing reads.
std::vector<EdgeId> without_dead_ends(std::vector<EdgeId> edges, bool anything_sends);

// The parts that these edges join, ascending, without embed, logits and routers.
std::vector<NodeId> parts_of(const std::vector<EdgeId>& edges);

}  // namespace signalbox::eval
