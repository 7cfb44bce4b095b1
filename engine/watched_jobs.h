// What a server wants of jobs while they run, beside their results: their logits, when they start, other choices, a
// pause.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/choice_rules.h"
#include "engine/run_plan.h"

namespace signalbox::engine {

struct JobWishes {
  // Its logits are shown (GroupWatch::on_logits): those of a Score, or those that a Generate chooses from and, of its
  // given tokens, from this index on.
  bool shows_logits = false;
  int64_t logits_from = std::numeric_limits<int64_t>::max();
  bool recorded = true;  // its rows go to the scheduler's sink, where there is one; all are there when it ends
  std::shared_ptr<const ChoiceRules> choice;  // of a Generate; null: none
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
  // Of jobs that generate and are all recorded, where it is >= 0: what they begin with in common is run once all the
  // same. Its rows come to the sink as those of samples from shared_index on, and are there when a job starts from it,
  // which is told before its on_started: rows of positions [begin, end), which do not come again.
  int64_t shared_index = -1;
  std::function<void(size_t place, int64_t sample, int64_t begin, int64_t end)> on_shared;

  const JobWishes& of(size_t place) const {
    static const JobWishes none;
    return wishes.empty() ? none : wishes[place];
  }
};

// plan_run with room for the logits that are to be shown. Jobs that want those of given tokens share nothing.
// `recorded`: there is a sink, and some of the jobs are recorded.
RunPlan plan_watched(const std::vector<Job>& jobs, bool recorded, const GroupWatch& watch);

}  // namespace signalbox::engine
