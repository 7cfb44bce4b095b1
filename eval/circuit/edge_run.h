// A run of a model in which any set of edges is taken out at once. What a part reads is, at tokens that have an ablated
// value,
//
//   sum over the parts before it of what they write in this run, where the edge to it is kept,
//                                or what stands in their place when they are ablated, where it is not
//
// and the norm is recomputed of that sum. A head's query, keys and values, a layer's router, each of its experts and
// its shared expert read sums of their own. The router's choice and weights hold for all experts of its layer: an
// expert that it does not choose writes nothing, whatever it reads itself. One pass over the layers, each part
// evaluated once for every different sum that it reads.
//
// With all edges kept this is the unedited run, bit for bit on the CPU; with all edges between some parts, and no
// other, it is the run in which the others are ablated (AblatedPair::ablate); with none what an ablated model does.
#pragma once
#include <cstddef>
#include <map>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/receivers.h"
#include "eval/circuit/edge_set.h"
#include "eval/circuit/model_scorer.h"

namespace signalbox::eval {

// Throws the Error of runs by edges under adapters that stand beside the weights.
[[noreturn]] void refuse_adapters_beside();

class EdgeRunner {
 public:
  // `scorer`, of parts of all tokens and with none out from the start, outlives this. Throws what
  // refuse_adapters_beside does.
  explicit EdgeRunner(const ModelScorer& scorer);
  // The metric of pair i. Parts that send by no edge of the set are ablated wholly; the embedding stays, where the
  // ablation has none for it. Throws what ops throw, and CircuitInterrupted.
  double metric(size_t i, const KeptEdges& kept);

 private:
  class Pass;
  // What stands in a part's place, [n_tokens, width] as written_by, 0 at tokens without.
  const std::vector<float>& ablated(size_t i, const NodeId& node);

  const ModelScorer& scorer_;
  engine::Receivers receivers_;
  std::vector<std::map<NodeId, std::vector<float>>> ablated_;  // [pair]
};

}  // namespace signalbox::eval
