#include "eval/circuit/edge_set.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

using Kind = NodeId::Kind;

bool reads(const NodeId& node) { return node.kind != Kind::embed; }
bool writes(const NodeId& node) { return node.kind != Kind::router && node.kind != Kind::logits; }

}  // namespace

std::strong_ordering EdgeId::operator<=>(const EdgeId& other) const {
  return std::tie(target, input, source) <=> std::tie(other.target, other.input, other.source);
}

std::string edge_name(const EdgeId& edge) {
  return node_name(edge.source) + "->" + node_name(edge.target) +
         (edge.input ? std::string("<") + edge.input + ">" : "");
}

EdgeId parse_edge(std::string_view name, const std::string& where) {
  const auto refuse = [&](const char* what) { throw Error(where, std::string(what) + ", found " + in_quotes(name)); };
  const size_t arrow = name.find("->");
  if (arrow == std::string_view::npos) refuse("expected an edge such as L0.E1->L2.E5 or L0.H1->L1.H2<k>");
  EdgeId edge;
  std::string_view target = name.substr(arrow + 2);
  const size_t length = target.size();
  if (length > 3 && target[length - 3] == '<' && target[length - 1] == '>') {
    edge.input = target[length - 2];
    target.remove_suffix(3);
  }
  edge.source = parse_node(name.substr(0, arrow), where);
  edge.target = parse_node(target, where);
  const bool head = edge.target.kind == Kind::head;
  if (edge.source.position >= 0 || edge.target.position >= 0) refuse("expected parts of all tokens");
  if (!writes(edge.source) || !reads(edge.target) || !precedes(edge.source, edge.target))
    refuse("expected an edge from a part to one that reads what it writes");
  if (head != (edge.input != 0) || (head && std::string_view("qkv").find(edge.input) == std::string_view::npos))
    refuse("expected <q>, <k> or <v> behind a head, and nothing behind other parts");
  return edge;
}

KeptEdges::KeptEdges(std::vector<EdgeId> listed, bool all_others)
    : listed_(std::move(listed)), all_others_(all_others) {
  std::sort(listed_.begin(), listed_.end());
  for (const EdgeId& edge : listed_) sources_.push_back(edge.source);
  std::sort(sources_.begin(), sources_.end());
  sources_.erase(std::unique(sources_.begin(), sources_.end()), sources_.end());
}

bool KeptEdges::has(const EdgeId& edge) const {
  return std::binary_search(listed_.begin(), listed_.end(), edge) != all_others_;
}

bool KeptEdges::lists(const NodeId& source) const {
  return std::binary_search(sources_.begin(), sources_.end(), source);
}

bool KeptEdges::sends(const NodeId& node) const { return all_others_ || lists(node); }

std::vector<EdgeId> edges_between(const std::vector<NodeId>& nodes) {
  std::set<EdgeId> edges;
  for (const NodeId& source : nodes)
    for (const NodeId& target : nodes) {
      if (!writes(source) || !reads(target) || !precedes(source, target)) continue;
      if (target.kind == Kind::head) {
        for (const char input : {'q', 'k', 'v'}) edges.insert({source, target, input});
        continue;
      }
      edges.insert({source, target, 0});
      if (target.kind == Kind::expert) edges.insert({source, {Kind::router, target.layer, -1, -1}, 0});
    }
  return {edges.begin(), edges.end()};
}

std::vector<EdgeId> without_dead_ends(std::vector<EdgeId> edges, bool anything_sends) {
  for (;;) {
    std::set<NodeId> read, sending;      // parts that something reads; parts that read something
    std::set<int32_t> routed, choosing;  // layers with such experts; layers whose router reads something
    for (const EdgeId& edge : edges) {
      read.insert(edge.source);
      sending.insert(edge.target);
      if (edge.source.kind == Kind::expert) routed.insert(edge.source.layer);
      if (edge.target.kind == Kind::router) choosing.insert(edge.target.layer);
    }
    const size_t before = edges.size();
    std::erase_if(edges, [&](const EdgeId& edge) {
      const NodeId &from = edge.source, &to = edge.target;
      const bool leads_on =
          to.kind == Kind::logits || (to.kind == Kind::router ? routed.contains(to.layer) : read.contains(to));
      const bool has_something = anything_sends || from.kind == Kind::embed || sending.contains(from) ||
                                 (from.kind == Kind::expert && choosing.contains(from.layer));
      return !leads_on || !has_something;
    });
    if (edges.size() == before) return edges;
  }
}

std::vector<NodeId> parts_of(const std::vector<EdgeId>& edges) {
  std::set<NodeId> parts;
  for (const EdgeId& edge : edges)
    for (const NodeId& node : {edge.source, edge.target})
      if (!node.ends() && node.kind != Kind::router) parts.insert(node);
  return {parts.begin(), parts.end()};
}

}  // namespace signalbox::eval
