#include "eval/causal/node.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "base/error.h"
#include "base/glob.h"

namespace signalbox::eval {

using namespace probes;

namespace {

using Kind = CausalNode::Kind;

// The number in front of `text`, which is then cut off.
std::optional<int32_t> leading_number(std::string_view& text) {
  int64_t value = 0;
  size_t n = 0;
  while (n < text.size() && n < 7 && text[n] >= '0' && text[n] <= '9') value = value * 10 + (text[n++] - '0');
  if (n == 0) return std::nullopt;
  text.remove_prefix(n);
  return static_cast<int32_t>(value);
}

struct Letter {
  char letter;
  Kind kind;
};
constexpr Letter letters[] = {
    {'H', Kind::head}, {'Q', Kind::query}, {'K', Kind::key}, {'V', Kind::value}, {'E', Kind::expert}};

// How many of that kind a layer has.
int64_t count_of(Kind kind, const LayerShape& layer) {
  switch (kind) {
    case Kind::head:
    case Kind::query: return layer.attention.n_heads;
    case Kind::key:
    case Kind::value: return layer.attention.n_kv_heads;
    case Kind::expert: return layer.n_experts;
    case Kind::router: return layer.moe;
    case Kind::shared: return layer.shared;
    case Kind::dense: return !layer.moe;
    default: return 1;
  }
}

}  // namespace

std::string node_name(const CausalNode& node) {
  if (node.kind == Kind::embed) return "embed";
  if (node.kind == Kind::logits) return "logits";
  std::string name = "L" + std::to_string(node.layer) + ".";
  for (const Letter& letter : letters)
    if (letter.kind == node.kind) return name + letter.letter + std::to_string(node.index);
  if (node.kind == Kind::attention_bias) return name + "attn.bias";
  return name + (node.kind == Kind::router ? "router" : node.kind == Kind::shared ? "shared" : "mlp");
}

CausalNode parse_node(std::string_view name, const ModelShape& shape, const std::string& where) {
  const auto fail = [&](const std::string& expected) -> Error {
    return Error(where, "expected " + expected + ", found \"" + std::string(name) + "\"");
  };
  constexpr const char* forms =
      "a node such as embed, L3.H2, L3.Q2, L3.K1, L3.V1, L3.E5, L3.shared, L3.mlp, L3.router or logits";
  if (name == "embed") return {Kind::embed, -1, -1};
  if (name == "logits") return {Kind::logits, -1, -1};
  std::string_view rest = name;
  if (rest.empty() || rest.front() != 'L') throw fail(forms);
  rest.remove_prefix(1);
  const auto layer = leading_number(rest);
  if (!layer || rest.size() < 2 || rest.front() != '.') throw fail(forms);
  rest.remove_prefix(1);
  CausalNode node;
  node.layer = *layer;
  if (rest == "router" || rest == "shared" || rest == "mlp") {
    node.kind = rest == "router" ? Kind::router : rest == "shared" ? Kind::shared : Kind::dense;
  } else {
    bool known = false;
    for (const Letter& letter : letters)
      if (rest.front() == letter.letter) {
        node.kind = letter.kind;
        known = true;
      }
    rest.remove_prefix(1);
    const auto index = leading_number(rest);
    if (!known || !index || !rest.empty()) throw fail(forms);
    node.index = *index;
  }
  if (node.layer >= shape.n_layers()) throw fail("a layer below " + std::to_string(shape.n_layers()));
  const int64_t count = count_of(node.kind, shape.layers[static_cast<size_t>(node.layer)]);
  if (node.index < 0 && count == 0)
    throw fail(std::string("a layer with ") + (node.kind == Kind::router   ? "a router"
                                               : node.kind == Kind::shared ? "a shared expert"
                                                                           : "a dense feed-forward block"));
  if (node.index >= count) throw fail("a number below " + std::to_string(count) + " behind the letter");
  return node;
}

std::vector<CausalNode> find_nodes(std::string_view globs, bool senders, const ModelShape& shape,
                                   const std::string& where) {
  std::vector<CausalNode> all = {{Kind::embed, -1, -1}};
  constexpr Kind in_order[] = {Kind::query,  Kind::key,    Kind::value,  Kind::head,
                               Kind::router, Kind::expert, Kind::shared, Kind::dense};
  for (int32_t l = 0; l < shape.n_layers(); ++l)
    for (const Kind kind : in_order) {
      const int64_t n = count_of(kind, shape.layers[static_cast<size_t>(l)]);
      const bool single = kind == Kind::router || kind == Kind::shared || kind == Kind::dense;
      for (int64_t i = 0; i < n; ++i) all.push_back({kind, l, single ? -1 : static_cast<int32_t>(i)});
    }
  all.push_back({Kind::logits, -1, -1});
  std::erase_if(all, [&](const CausalNode& node) { return senders ? !node.sends() : !node.receives(); });
  std::vector<bool> wanted(all.size());
  for (size_t begin = 0; begin <= globs.size();) {
    const size_t end = std::min(globs.find(',', begin), globs.size());
    const std::string_view glob = globs.substr(begin, end - begin);
    bool any = false;
    for (size_t i = 0; i < all.size(); ++i)
      if (glob_matches(glob, node_name(all[i]))) any = wanted[i] = true;
    if (!any)
      throw Error(where, std::string("expected ") +
                             (senders ? "senders such as embed, L3.H2, L3.E5, L3.shared or L3.*"
                                      : "receivers such as L3.router, L3.Q2, L3.E5, logits or L3.*") +
                             ", found none for \"" + std::string(glob) + "\"");
    begin = end + 1;
  }
  std::vector<CausalNode> found;
  for (size_t i = 0; i < all.size(); ++i)
    if (wanted[i]) found.push_back(all[i]);
  return found;
}

int32_t node_stage(const CausalNode& node, int32_t n_layers) {
  switch (node.kind) {
    case Kind::embed: return 0;
    case Kind::logits: return 2 * n_layers + 1;
    case Kind::head:
    case Kind::attention_bias:
    case Kind::query:
    case Kind::key:
    case Kind::value: return 2 * node.layer + 1;
    default: return 2 * node.layer + 2;
  }
}

bool NodeOrder::operator()(const CausalNode& a, const CausalNode& b) const {
  constexpr int32_t many = 1 << 20;  // layers, so that logits come last
  return std::tuple(node_stage(a, many), a.kind, a.index) < std::tuple(node_stage(b, many), b.kind, b.index);
}

}  // namespace signalbox::eval
