// What is lost when one expert is banned.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/compress/measure.h"
#include "eval/data/record_jobs.h"

namespace signalbox::eval {

// Means over the predicted tokens (all but each record's first).
struct Ablation {
  double kl = 0;   // KL(model || model without the expert), nats
  double nll = 0;  // -log p without the expert, minus -log p with it
};

// [layer][expert] of `layers`: each expert of each layer is banned everywhere (the edit deactivate, mode ban: the next
// best takes its place by the model's own rule), one at a time. Runs the records 1 + n_experts times a layer.
// on_progress is told tokens run, and may throw. Throws Error where a ban leaves less than the active experts (as edits
// do), and where no record has two tokens.
std::vector<std::vector<Ablation>> ablate_experts(const Session& session, const RecordJobs& records,
                                                  const std::vector<LayerMeasures>& layers, const RunOptions& run,
                                                  const std::function<void(int64_t done)>& on_progress);

}  // namespace signalbox::eval
