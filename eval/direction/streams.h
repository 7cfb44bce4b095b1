// The residual stream of records, averaged over the tokens at which a direction is read.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/data/record_jobs.h"
#include "eval/direction/estimate.h"
#include "eval/store/kept_work.h"

namespace signalbox::eval {

struct StreamRun {
  int64_t batch = 8, batch_tokens = 1024;  // of one step, at most: records, and tokens but for one that is longer
  Kept kept;                               // finished records: their means lie in STEM.rows
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t tokens)> on_progress;
};

// [jobs, layers, d_model] of layer.N.resid_out: for each job the mean over positions[job], summed in double. Nothing
// when interrupted.
std::optional<StreamMeans> mean_streams(const engine::Session& session, const std::vector<engine::Job>& jobs,
                                        const std::vector<std::vector<int64_t>>& positions, const StreamRun& run);

}  // namespace signalbox::eval
