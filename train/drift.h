// What a training did to the routes of other text: drift.csv.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/no_number.h"
#include "engine/forward.h"
#include "train/namespaces.h"
#include "train/sequence_groups.h"

namespace signalbox::train {

inline constexpr const char* drift_file = "drift.csv";

struct Drift {
  int32_t layer = -1;  // -1: all layers together (means over them; dead experts are added up)
  int64_t tokens = 0;
  double changed_slots = 0;                      // share of the slots before whose expert is not chosen after
  double jaccard = 0, jaccard_weighted = 0;      // means over tokens, as eval/routing/likeness.h has them
  double entropy_before = 0, entropy_after = 0;  // of the shares of selections, over log of the number of experts
  int64_t dead_before = 0, dead_after = 0;       // experts that no token selects
  // Of all layers alone: the mean over tokens of KL(before || after) of the next token, in nats, and the share of
  // tokens whose likeliest next token is the same.
  double kl = no_number, same_top = no_number;
};

// Both of one model, on one device. A row a layer with a router, then that of all.
std::vector<Drift> route_drift(Forward& before, Forward& after, std::span<const Example* const> examples,
                               const Groups& groups);
std::string drift_csv(const std::vector<Drift>& rows);

}  // namespace signalbox::train
