// Which experts a task uses most: the choice of expert-specialised fine-tuning (Wang et al. 2024, 2407.01906), and
// random experts to hold it against.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "engine/forward.h"
#include "train/namespaces.h"
#include "train/sequence_groups.h"

namespace signalbox::train {

using ExpertsByLayer = std::map<int32_t, std::vector<int32_t>>;  // ids ascending, absolute layers

// Of one layer with a router; both [n_experts], means over samples of means over their tokens.
struct LayerScores {
  int32_t layer = 0;
  std::vector<double> gate;   // of the applied weight, 0 where the expert is not chosen
  std::vector<double> token;  // of 1 / k where it is chosen: they sum to 1
};
std::vector<LayerScores> expert_scores(Forward& forward, std::span<const Example* const> samples, const Groups& groups,
                                       const std::function<void(int64_t tokens)>& done);

// Experts by falling score, equal ones by id, until their sum has reached p: one is taken where the sum before it is
// less than p. Ascending ids.
std::vector<int32_t> choose_experts(std::span<const double> scores, double p);

// As many experts of each layer, drawn at random among all of it.
ExpertsByLayer random_experts(const ExpertsByLayer& like, const Model& model, uint64_t seed);

}  // namespace signalbox::train
