// Which matrices `train lora` adapts: --targets and --experts.
#pragma once
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"

namespace signalbox::tools {

struct LoraTargets {
  std::string parts;    // of router, experts, attention, shared, dense, lm_head; empty: all but routers and the head
  std::string experts;  // L:E,L:E-E or a file: rd.csv, expert_cfg.json; empty: all
  int64_t top = 0;      // of rd.csv: so many experts at most; 0: all with rd > 0 and q below .05
};

// In no order. Throws UsageError: parts that are unknown or that the model does not have, experts without "experts"
// among the parts, experts that it does not have, none at all.
std::vector<TensorId> lora_targets(const LoraTargets& targets, const Model& model);

}  // namespace signalbox::tools
