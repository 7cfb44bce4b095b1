// A forecast of what each part does, to first order: one way back through the model for all of them. A filter for
// models of many parts, no result: the gradient does not see routes that would change.
#pragma once
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/model_scorer.h"

namespace signalbox::eval {

// [part] mean over pairs of |sum over tokens of (ablated output - own) . d metric / d output|, at the base run. Experts
// by id: those of the other run's routes take part, with the gradient of the layer's output. Throws Error for the
// metric kl, whose gradient is 0 there, where the device has no adjoints, and CircuitInterrupted.
std::vector<double> first_order_sizes(const ModelScorer& scorer);

}  // namespace signalbox::eval
