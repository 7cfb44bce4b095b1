// The last stage of a run: every intervention, with its controls, over the tested records; then the findings.
#pragma once
#include "base/namespaces.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/run_context.h"

namespace signalbox::eval {

// The tested records that a shard runs.
std::vector<int64_t> tested_records(const Experiment& experiment, const Shard& shard);
// Which interventions are traced, and what of them, as the spec says. Throws Error.
void choose_traces(const RunInputs& run, Evaluation& evaluation);

// Writes plan.json, records.jsonl, samples.jsonl, traces and the findings. False when interrupted. Throws Error.
bool run_tests(const RunContext& run, const Detected& detected, const InterventionChoice& choice);

}  // namespace signalbox::eval
