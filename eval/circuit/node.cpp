#include "eval/circuit/node.h"

#include <charconv>
#include <limits>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

using Kind = NodeId::Kind;

// The number at the front of `text`, which is cut off; false: there is none, or it has leading zeros.
template <class Number>
bool take_number(std::string_view& text, Number& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  const auto length = static_cast<size_t>(end - text.data());
  if (error != std::errc() || out < 0 || (length > 1 && text.front() == '0')) return false;
  text.remove_prefix(length);
  return true;
}

bool take(std::string_view& text, std::string_view front) {
  if (!text.starts_with(front)) return false;
  text.remove_prefix(front.size());
  return true;
}

bool read_node(std::string_view text, NodeId& node) {
  if (take(text, "embed")) {
    node.kind = Kind::embed;
  } else if (take(text, "logits")) {
    node.kind = Kind::logits;
  } else {
    if (!take(text, "L") || !take_number(text, node.layer) || !take(text, ".")) return false;
    if (take(text, "shared")) {
      node.kind = Kind::shared;
    } else if (take(text, "router")) {
      node.kind = Kind::router;
    } else if (take(text, "mlp")) {
      node.kind = Kind::mlp;
    } else if (take(text, "E") || text.starts_with("H")) {
      node.kind = take(text, "H") ? Kind::head : Kind::expert;
      if (!take_number(text, node.index)) return false;
    } else {
      return false;
    }
  }
  return text.empty() || (take(text, "@") && take_number(text, node.position) && text.empty());
}

}  // namespace

std::strong_ordering NodeId::operator<=>(const NodeId& other) const {
  const auto place = [](const NodeId& node) {
    return node.kind == Kind::embed ? -1 : node.kind == Kind::logits ? std::numeric_limits<int32_t>::max() : node.layer;
  };
  if (const auto order = place(*this) <=> place(other); order != 0) return order;
  if (const auto order = kind <=> other.kind; order != 0) return order;
  if (const auto order = index <=> other.index; order != 0) return order;
  return position <=> other.position;
}

std::string node_name(const NodeId& node) {
  std::string name;
  const std::string layer = "L" + std::to_string(node.layer) + ".";
  switch (node.kind) {
    case Kind::embed: name = "embed"; break;
    case Kind::head: name = layer + "H" + std::to_string(node.index); break;
    case Kind::expert: name = layer + "E" + std::to_string(node.index); break;
    case Kind::router: name = layer + "router"; break;
    case Kind::shared: name = layer + "shared"; break;
    case Kind::mlp: name = layer + "mlp"; break;
    case Kind::logits: name = "logits"; break;
  }
  return node.position < 0 ? name : name + "@" + std::to_string(node.position);
}

NodeId parse_node(std::string_view name, const std::string& where) {
  NodeId node;
  if (!read_node(name, node))
    throw Error(
        where, "expected a part of a model such as L3.E5, L3.H2, L3.shared, embed or logits, found " + in_quotes(name));
  return node;
}

std::string node_label(const NodeId& node) {
  const std::string layer = "layer " + std::to_string(node.layer) + ", ";
  std::string label;
  switch (node.kind) {
    case Kind::embed: label = "embedding"; break;
    case Kind::head: label = layer + "head " + std::to_string(node.index); break;
    case Kind::expert: label = layer + "expert " + std::to_string(node.index); break;
    case Kind::router: label = layer + "router"; break;
    case Kind::shared: label = layer + "shared expert"; break;
    case Kind::mlp: label = layer + "feed-forward block"; break;
    case Kind::logits: label = "logits"; break;
  }
  return node.position < 0 ? label : label + " at position " + std::to_string(node.position);
}

bool precedes(const NodeId& from, const NodeId& to) {
  if (from.kind == Kind::logits || from.kind == Kind::router || to.kind == Kind::embed) return false;
  if (to.kind == Kind::logits) return true;
  if (from.position >= 0 && to.position >= 0 &&
      (to.kind == Kind::head ? from.position > to.position : from.position != to.position))
    return false;
  if (from.kind == Kind::embed) return true;
  if (from.layer != to.layer) return from.layer < to.layer;
  return from.kind == Kind::head && to.kind != Kind::head;
}

NodeLevel parse_level(std::string_view name, const std::string& where) {
  for (const NodeLevel level : {NodeLevel::node, NodeLevel::position})
    if (level_name(level) == name) return level;
  throw Error(where, "expected node or position, found " + in_quotes(name));
}

std::string_view level_name(NodeLevel level) { return level == NodeLevel::node ? "node" : "position"; }

std::vector<NodeId> at_positions(const std::vector<NodeId>& nodes, int64_t n_positions, bool others) {
  std::vector<NodeId> out;
  for (NodeId node : nodes)
    for (node.position = others ? -1 : 0; node.position < n_positions; ++node.position) out.push_back(node);
  return out;
}

std::vector<NodeId> nodes_of(const probes::ModelShape& shape) {
  std::vector<NodeId> nodes;
  for (int32_t l = 0; l < shape.n_layers(); ++l) {
    const probes::LayerShape& layer = shape.layers[static_cast<size_t>(l)];
    for (int32_t h = 0; h < layer.attention.n_heads; ++h) nodes.push_back({Kind::head, l, h, -1});
    for (int32_t e = 0; layer.moe && e < layer.n_experts; ++e) nodes.push_back({Kind::expert, l, e, -1});
    if (layer.moe && layer.shared) nodes.push_back({Kind::shared, l, -1, -1});
    if (!layer.moe) nodes.push_back({Kind::mlp, l, -1, -1});
  }
  return nodes;
}

}  // namespace signalbox::eval
