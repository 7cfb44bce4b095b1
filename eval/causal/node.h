// Parts of a model as senders and receivers, with the names that they have in graphs and tables:
//
//   embed            the token's embedding                 L3.router  the router of layer 3
//   L3.H2            head 2: its part of attn.out           L3.Q2      the query of head 2
//   L3.E5            expert 5: weight x output              L3.K1      the key of kv head 1
//   L3.shared        the shared expert, after its gate      L3.V1      the value of kv head 1
//   L3.mlp           the block of a dense layer             logits     final norm and head
//   L3.attn.bias     the bias of attn.out, no head's
//
// Those of the left column add to the residual stream: they send. L3.E5, L3.shared, L3.mlp and those of the right
// column read it: they receive.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "probes/shape.h"

namespace signalbox::eval {

struct CausalNode {
  enum class Kind : uint8_t { embed, head, query, key, value, router, expert, shared, dense, logits, attention_bias };
  Kind kind = Kind::embed;
  int32_t layer = -1;  // -1: embed, logits
  int32_t index = -1;  // of a head, a kv head or an expert; else -1
  bool operator==(const CausalNode&) const = default;
  bool sends() const {
    return kind == Kind::embed || kind == Kind::head || kind == Kind::expert || kind == Kind::shared ||
           kind == Kind::dense || kind == Kind::attention_bias;
  }
  bool receives() const { return kind != Kind::embed && kind != Kind::head && kind != Kind::attention_bias; }
};

std::string node_name(const CausalNode& node);
// Throws Error that begins with `where`: a name of another form (L3.attn.bias is a name for tables alone), a layer,
// head or expert that the model does not have.
CausalNode parse_node(std::string_view name, const ModelShape& shape, const std::string& where);

// The nodes whose names globs match ("GLOB[,GLOB...]", * any run of characters), in order of execution: senders or
// receivers. Throws Error that begins with `where` for a glob that matches none.
std::vector<CausalNode> find_nodes(std::string_view globs, bool senders, const ModelShape& shape,
                                   const std::string& where);

// Stages in order of execution: embed 0, attention of layer l 2 l + 1, its feed-forward block 2 l + 2, logits last. A
// node reads what nodes of earlier stages sent.
int32_t node_stage(const CausalNode& node, int32_t n_layers);

// In order of execution; of one stage by kind, then by index.
struct NodeOrder {
  bool operator()(const CausalNode& a, const CausalNode& b) const;
};

}  // namespace signalbox::eval
