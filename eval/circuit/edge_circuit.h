// A circuit of edges, by ACDC (Conmy et al. 2023, arXiv 2304.14997): from the logits back to the embedding each edge is
// taken out, and stays out where the metric hardly changes; what is left is the reference for the next. Here a change
// is the mean of its size over pairs, so that effects of opposite sign do not hide one another, and edges that lower
// the metric count.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/circuit_scores.h"
#include "eval/circuit/edge_scorer.h"

namespace signalbox::eval {

// What is left at one threshold.
struct PrunedEdges {
  std::vector<EdgeId> edges;    // ascending
  std::vector<double> changes;  // [edge] of the metric when it was tried and kept
};
// One for each threshold (ascending, in units of the metric), each search beginning with what the one before left; so
// they are nested. Dead ends go at the end of each. `anything_sends` as without_dead_ends.
std::vector<PrunedEdges> prune_edges(EdgeScorer& scorer, const std::vector<double>& thresholds, bool anything_sends);

struct EdgeCircuitRule {
  std::vector<double> taus = {0.01, 0.03, 0.1};  // thresholds, ascending, as shares of the gap between whole and none
  double tolerance = 0.1;                        // |1 - f| that is enough on the second set of pairs
  bool anything_sends = false;
  uint64_t seed = 0;
  int64_t random = 100, subsets = 4, resamples = 10000;
  std::function<void(const std::string& stage, size_t runs)> begin;
};

struct EdgeCircuit {
  std::vector<EdgeId> candidates, edges;  // those that the search began with, and the circuit; ascending
  std::vector<double> changes;            // [edge] as PrunedEdges
  struct Size {
    double tau = 0;
    size_t edges = 0;
    std::array<double, 3> faithfulness;  // on each set; NaN: undefined
  };
  std::vector<Size> sizes;  // by tau
  double tau = 0;           // of the circuit
  bool chosen = false;      // it is faithful enough on the second set
  std::array<SetScores, 3> scores;
  Completeness completeness;       // on the third set, as of parts
  std::vector<double> minimality;  // [edge]
  RandomEdges random;
  std::vector<double> random_faithfulness;
};
// Finds it on the first set of pairs, chooses tau on the second (the fewest edges that are faithful enough, else those
// that come nearest), and says what it is worth on the third. Scorers of all tokens.
EdgeCircuit find_edge_circuit(const std::array<ModelScorer*, 3>& sets, std::vector<EdgeId> candidates,
                              const EdgeCircuitRule& rule);

}  // namespace signalbox::eval
