// The scorer of edges: pairs of records with some of a list of edges at work, and with or without all other edges of
// the model; and random circuits of edges to compare one with.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/edge_run.h"
#include "eval/circuit/random_circuits.h"

namespace signalbox::eval {

// Its parts are the edges in their order, and behind them all others of the model as one: with all parts at work it is
// the whole model, with edges alone a circuit, with everything else alone what is left without one.
class EdgeScorer : public SubsetScorer {
 public:
  // `edges` ascending. `scorer` as EdgeRunner wants it.
  EdgeScorer(ModelScorer& scorer, std::vector<EdgeId> edges);
  size_t size() const override { return edges_.size() + 1; }
  std::string part_name(size_t part) const override;
  size_t n_pairs() const override { return scorer_.n_pairs(); }
  const std::vector<double>& whole() const override { return scorer_.whole(); }
  const std::vector<double>& none() const override { return scorer_.none(); }

  const std::vector<EdgeId>& edges() const { return edges_; }
  ModelScorer& parts() const { return scorer_; }
  // These edges (all of the list) and no other.
  NodeMask only(const std::vector<EdgeId>& edges) const;
  // [pair] of any edges of the model; from no memory.
  std::vector<double> scores_of(const KeptEdges& kept);

 protected:
  std::vector<double> run(const NodeMask& kept) override;

 private:
  ModelScorer& scorer_;
  std::vector<EdgeId> edges_;
  EdgeRunner runner_;
};

// The same graph of other parts: heads and experts are exchanged for random ones of their layer, as
// draw_random_circuits draws them (near in usage), the shared experts and dense blocks stay. [draw]
struct RandomEdges {
  std::vector<std::vector<EdgeId>> circuits;
  RandomCircuits parts;
};
RandomEdges draw_random_edges(const CircuitScorer& scorer, const std::vector<EdgeId>& edges, uint64_t seed, int64_t n);
inline constexpr const char* edges_matched_text =
    "the same graph of other experts and heads of each layer, experts near in usage in all";

}  // namespace signalbox::eval
