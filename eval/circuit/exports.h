// A circuit for other programs' viewers and benchmarks.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "eval/circuit/graph.h"

namespace signalbox::eval {

// An attribution graph as Neuronpedia and circuit-tracer read it (schema_version 1). Their nodes are features of
// layers at tokens; an expert e of layer l stands as feature e of layer l, heads are numbered behind the experts, the
// shared expert (or the dense block) behind the heads. What is known of all tokens together stands at the last one,
// what is of a position at its token in the example.
// `influence` is cumulative, as the viewer wants it: the share of all |effect| up to and with this node, the largest
// first; embedding and logits have 0 and are always shown. Throws Error naming `where`: no part above layer 0, of which
// the viewer cannot make a picture; no example; more than 100 MB.
std::string neuronpedia_text(const CircuitGraph& graph, const std::string& where);

// The graph of EAP-IG and the MIB benchmark: {cfg, nodes, edges}. It knows no experts: all feed-forward parts of a
// layer are its m{l}, in the circuit where one of them is, with the sum of their scores, and so are all positions of
// one part. A head's inputs q, k and v are not told apart here: each carries a third of the edge's score. Edges of the
// kind selects are in other units: they have no score, and count only for in_graph. "note" says all this.
std::string mib_text(const CircuitGraph& graph);

}  // namespace signalbox::eval
