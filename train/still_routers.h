// Routers that no training of a loss can move.
#pragma once
#include <span>
#include <string>

#include "engine/model.h"
#include "engine/weights.h"
#include "train/namespaces.h"

namespace signalbox::train {

// Why the routers among `ids` would learn nothing from the loss of records, or empty: at least one of them would, or
// there is none. Nothing is learnt where the one chosen expert has the weight 1 whatever the logits are: one is active
// and its weight is normalised, or there is one expert.
std::string why_routers_stay(const Model& model, std::span<const TensorId> ids);

// Router or its bias.
bool of_router(const TensorId& id);

// Throws Error at `where` if `ids` are all of routers that would learn nothing.
void refuse_still_routers(const std::string& where, const Model& model, std::span<const TensorId> ids);

}  // namespace signalbox::train
