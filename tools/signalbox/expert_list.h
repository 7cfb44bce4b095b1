// Experts as a user lists them.
#pragma once
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"

namespace signalbox::tools {

using ExpertSet = std::set<std::pair<int32_t, int32_t>>;  // layer, expert

// Items between commas, without the space around them.
std::vector<std::string> items_of_list(const std::string& list);

// Throws Error naming `where`: a layer without experts, an expert that the layer does not have.
void add_expert(ExpertSet& experts, const Model& model, const std::string& where, int64_t layer, int64_t expert);

// LAYER:EXPERT or LAYER.EXPERT, LAYER:FIRST-LAST, with commas. Throws UsageError naming `flag` where an item is none of
// these or an expert stands twice, and as add_expert does.
ExpertSet parse_expert_list(const std::string& flag, const std::string& list, const Model& model);

}  // namespace signalbox::tools
