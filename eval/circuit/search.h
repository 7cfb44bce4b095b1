// Finding a circuit: what each part does alone, then nested circuits, from the parts that matter to none.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/scorer.h"

namespace signalbox::eval {

struct PartEffects {
  // [part][pair] the metric without the part - the whole model's.
  std::vector<std::vector<double>> noising;
  // [part][pair] the corrupt run's metric with the part as in the clean run - the corrupt run's. Empty: not measured.
  std::vector<std::vector<double>> denoising;
  NodeMask tested;  // [part] 1 = it was run; the others' effects are 0
  // The larger of the two, mean of its size over pairs (`weights` [pair]; empty: alike).
  double size(size_t part, std::span<const double> weights = {}) const;
};

// Each part alone; `reverse` (null: none) is the scorer of the corrupt records. Parts in whose place the same would
// stand have 0 without a run, as have those that are not `wanted` (empty: all are).
PartEffects measure_parts(CircuitScorer& scorer, CircuitScorer* reverse, const NodeMask& wanted = {});

struct SearchRule {
  size_t shortlist = 48;   // parts that are tried in company, at most
  double tolerance = 0.1;  // |1 - f| at which parts are enough
};

// Parts ranked so that the first n of them are the circuit of n parts. Parts stand first by their size alone, the mean
// over pairs of |effect|, the larger of noising and denoising; the shortest front that is faithful within half the
// tolerance, or the shortlist, is then emptied part by part: out goes the one without which the metric is nearest to
// the whole model's, the mean over pairs of the distance. So a part that is needed only beside another is kept, and of
// two that stand in for one another one goes. `weights`: [pair], of bootstrap samples.
struct Ranking {
  std::vector<size_t> parts;  // all of them
  size_t candidates = 0;      // of which so many were ranked by leaving them out
};
Ranking rank_parts(CircuitScorer& scorer, const PartEffects& effects, std::span<const double> weights,
                   const SearchRule& rule);

NodeMask first_parts(const CircuitScorer& scorer, const Ranking& ranking, size_t n);

// Mean over pairs of |m(C) - m(M)|.
double distance_from_whole(SubsetScorer& scorer, const NodeMask& kept, std::span<const double> weights);

// Of means over pairs.
double weighted_faithfulness(SubsetScorer& scorer, const NodeMask& kept, std::span<const double> weights);

// Two parts of which each restores the metric alone and neither is missed alone, while both together are.
struct RedundantParts {
  size_t one = 0, two = 0;
  double without_one = 0, without_two = 0, without_both = 0;  // mean changes of the metric
};
// Among parts whose denoising is at least `share` of the gap between whole and none while their noising is less than
// half of it; of at most `most` such parts.
std::vector<RedundantParts> find_redundant(CircuitScorer& scorer, const PartEffects& effects, double share = 0.25,
                                           size_t most = 12);

}  // namespace signalbox::eval
