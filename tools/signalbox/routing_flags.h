// Flags of what a training asks of the routing (docs/training.md#routing), the same for every command that trains.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "train/routing_training.h"

namespace CLI {
class App;
}

namespace signalbox::tools {

struct RoutingFlags {
  std::vector<std::string> balance;  // KIND:COEF
  double z_loss = 0, router_anchor = 0, expert_anchor = 0, orthogonality = 0, variance = 0;
  std::string devices;  // D[:M]
  std::string gradient = "selected";
};

void add_routing_flags(CLI::App& command, RoutingFlags& flags);

// Throws UsageError naming the flag.
train::RoutingTuning tuning_of(const RoutingFlags& flags);

// For a manifest; null: nothing is asked for.
json::Value tuning_json(const train::RoutingTuning& tuning);

}  // namespace signalbox::tools
