// The second stage of a run: of each grid, the point that does best on the tuning records goes on to the test.
#pragma once
#include <optional>

#include "base/namespaces.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/run_context.h"

namespace signalbox::eval {

// The interventions that are tuned: the points of all grids and the baseline, without controls.
InterventionChoice points_of_grids(const ExperimentSpec& spec);

// The interventions to test: all of the spec's without "tune". Keeps its samples and choice.json in DIR/tune. nullopt
// when interrupted. Throws Error.
std::optional<InterventionChoice> run_tuning(const RunContext& run, const Detected& detected);

}  // namespace signalbox::eval
