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

namespace signalbox::eval {

// [jobs, layers, d_model] of layer.N.resid_out: for each job the mean over positions[job], summed in double. Nothing
// when interrupted. `on_progress`: tokens done.
std::optional<StreamMeans> mean_streams(const engine::Session& session, const std::vector<engine::Job>& jobs,
                                        const std::vector<std::vector<int64_t>>& positions,
                                        const std::atomic<bool>* interrupted,
                                        const std::function<void(int64_t)>& on_progress);

}  // namespace signalbox::eval
