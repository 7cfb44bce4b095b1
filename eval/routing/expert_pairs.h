// Which experts go together: within a route (coactivation.csv), from token to token (transitions.csv), and from a layer
// to the next (across_layers.csv). Pairs that never meet have no rows.
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

struct Coactivation {
  int32_t layer = 0, expert_a = 0, expert_b = 0;  // a < b
  int64_t count = 0, count_a = 0, count_b = 0;    // tokens that select both, a, b
  int64_t tokens = 0;                             // that count
  double p_b_given_a() const { return static_cast<double>(count) / static_cast<double>(count_a); }
  double p_a_given_b() const { return static_cast<double>(count) / static_cast<double>(count_b); }
  double lift() const {
    return static_cast<double>(count) * static_cast<double>(tokens) /
           (static_cast<double>(count_a) * static_cast<double>(count_b));
  }
};
std::vector<Coactivation> coactivations(const TraceSet& set, const RouteOptions& options);

// From the expert of the highest weight to that of the next token, over neighbours (route_walk.h).
struct Transition {
  int32_t layer = 0, from = 0, to = 0;
  int64_t count = 0;
  double probability = 0;       // of all transitions from `from`
  double expected = no_number;  // mean count when the tokens of each sample are shuffled
  // One-sided: how often a shuffled count is at least as large, (1 + hits) / (1 + resamples); q over all pairs of all
  // layers, those that never occur (p 1) among them.
  double p = no_number, q = no_number;
};
std::vector<Transition> transitions(const TraceSet& set, const RouteOptions& options);

// Of an expert of a recorded layer and one of the next recorded layer, over the tokens that select each.
struct AcrossLayers {
  int32_t layer_a = 0, expert_a = 0, layer_b = 0, expert_b = 0;
  double jaccard = 0;  // tokens that select both, of those that select either
  double phi = 0;      // Pearson correlation of the two indicators; no_number where one is constant
  // One-sided on jaccard: the second layer's routes of each sample turned in a circle by a drawn number of tokens,
  // which keeps how long tokens stay with an expert; q over all pairs, those that never meet (p 1) among them.
  double p = no_number, q = no_number;
};
std::vector<AcrossLayers> across_layers(const TraceSet& set, const RouteOptions& options);

void write_coactivation_csv(const std::filesystem::path& file, const std::vector<Coactivation>& rows);
void write_transitions_csv(const std::filesystem::path& file, const std::vector<Transition>& rows);
void write_across_layers_csv(const std::filesystem::path& file, const std::vector<AcrossLayers>& rows);

}  // namespace signalbox::eval
