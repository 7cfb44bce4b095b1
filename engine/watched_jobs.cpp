#include "engine/watched_jobs.h"

#include <algorithm>

namespace signalbox::engine {

RunPlan plan_watched(const std::vector<Job>& jobs, bool recorded, const GroupWatch& watch) {
  bool apart = false;
  for (size_t i = 0; i < jobs.size(); ++i)
    apart =
        apart || (watch.of(i).shows_logits && jobs[i].generate() && watch.of(i).logits_from < jobs[i].n_given() - 1);
  RunPlan plan = plan_run(jobs, (recorded && watch.shared_index < 0) || apart);
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (!watch.of(i).shows_logits || !jobs[i].generate() || jobs[i].max_new() == 0) continue;
    const int64_t n = jobs[i].n_given();
    plan.jobs[i].first_logits = std::clamp<int64_t>(watch.of(i).logits_from, 0, n - 1);
    plan.jobs[i].n_logits = n - plan.jobs[i].first_logits;
  }
  return plan;
}

}  // namespace signalbox::engine
