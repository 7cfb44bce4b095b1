// The last stage of a run: every intervention, with its controls, over the tested records; then the findings.
#pragma once
#include "base/namespaces.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/run_context.h"

namespace signalbox::eval {

// Writes plan.json, records.jsonl, samples.jsonl, traces and the findings. False when interrupted. Throws Error.
bool run_tests(const RunContext& run, const Detected& detected, const InterventionChoice& choice);

}  // namespace signalbox::eval
