// What a server wants of jobs while they run, beside their results: their logits, when they start, a bias, a pause.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/run_plan.h"

namespace signalbox::engine {

// Added to the logits of single tokens, in f32, before one is chosen; what is hashed and shown stays as it was.
using LogitBias = std::vector<std::pair<int32_t, float>>;

struct JobWishes {
  // Its logits are shown (GroupWatch::on_logits): those of a Score, or those that a Generate chooses from and, of its
  // given tokens, from this index on.
  bool shows_logits = false;
  int64_t logits_from = std::numeric_limits<int64_t>::max();
  bool recorded = true;  // its rows go to the scheduler's sink, where there is one; all are there when it ends
  std::shared_ptr<const LogitBias> bias;  // of a Generate; null: none
};

// Of jobs that are submitted together. Calls come from within step(), for jobs by their place in the list, and may be
// empty.
struct GroupWatch {
  std::vector<JobWishes> wishes;  // [jobs], or empty: none
  // A job starts: before anything else of it.
  std::function<void(size_t place)> on_started;
  // Logits of the row of token `token`, f32 [n_vocab] on the host. A job's rows come in order; those that a token was
  // chosen from after on_token of it, before that of the next one and before the job's end.
  std::function<void(size_t place, int64_t token, std::span<const float> logits)> on_logits;
  // While it is set the jobs stand still, keeping what they hold, and step() returns false when there is nothing but
  // such jobs; null: they never do.
  std::shared_ptr<const std::atomic<bool>> held;

  const JobWishes& of(size_t place) const {
    static const JobWishes none;
    return wishes.empty() ? none : wishes[place];
  }
};

// plan_run with room for the logits that are to be shown. Jobs that want those of given tokens share nothing.
// `recorded`: there is a sink, and some of the jobs are recorded.
RunPlan plan_watched(const std::vector<Job>& jobs, bool recorded, const GroupWatch& watch);

}  // namespace signalbox::engine
