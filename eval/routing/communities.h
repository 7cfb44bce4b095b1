// Groups of experts that are selected together more than their use explains: communities.csv and modularity.csv.
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

// Symmetric counts of pairs of one layer without self-pairs, and what they would be if experts differed in use alone:
// n_ab is expected to be x_a x_b (a != b), x so that every expert has as many pairs as it has.
struct PairGraph {
  size_t n = 0;
  std::vector<double> counts;  // [n, n]; diagonal 0
  double total() const;        // both directions
};
// [n]: x_a = d_a / (sum of x - x_a), d_a = row a's sum, by iteration; 0 for experts without pairs.
std::vector<double> pair_weights(const std::vector<double>& degrees);

// [n] the community of each node, numbered by first member; -1 for nodes without pairs. Louvain's method: nodes in
// order move to the neighbouring community with the largest gain in sum of (n_ab - x_a x_b) within communities, of
// equal ones the first, until none gains; then communities become nodes.
std::vector<int32_t> louvain(const PairGraph& graph, const std::vector<double>& weights);

// Sum of (n_ab - x_a x_b) over ordered pairs of one community, divided by the sum of n_ab; NaN without pairs.
double modularity(const PairGraph& graph, const std::vector<double>& weights, const std::vector<int32_t>& community);

struct Community {
  int32_t layer = 0, expert = 0;
  int32_t community = -1;     // from 1, by first member; -1: the expert has no partners
  int64_t selected = 0;       // tokens that select the expert
  double within = no_number;  // of its pairs, the share that stay inside
};

struct LayerModularity {
  int32_t layer = 0;
  int64_t communities = 0;
  double modularity = no_number;  // of the communities, over all tokens
  // Communities found in one half of the units (units.h) in the pairs of the other half, each unit with expectations
  // of its own; p two-sided by flipping the sign of each unit's excess, q over layers.
  double held_out = no_number, p = no_number, q = no_number;
};

struct CommunityTables {
  std::vector<Community> experts;  // every expert of every recorded layer
  std::vector<LayerModularity> layers;
};
CommunityTables communities(const TraceSet& set, const RouteOptions& options);

void write_communities_csv(const std::filesystem::path& file, const std::vector<Community>& rows);
void write_modularity_csv(const std::filesystem::path& file, const std::vector<LayerModularity>& rows);

}  // namespace signalbox::eval
