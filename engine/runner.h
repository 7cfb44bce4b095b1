// Runs a list of jobs that is known from the beginning.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/scheduler.h"

namespace signalbox::engine {

struct RunOptions : SchedulerOptions {
  const std::atomic<bool>* interrupted = nullptr;
  // Blocks of keys and values at most (KvPool); fewer where the device has less room.
  int64_t max_kv_blocks = std::numeric_limits<int64_t>::max();
};

// What a run tells while it goes on. Any may be empty. Called from the thread that runs.
struct RunEvents {
  // A new token and the text that became final with it.
  std::function<void(const Job&, int32_t token, const std::string& text)> on_token;
  std::function<void(Result)> on_done;                   // in order of completion
  std::function<void(int64_t done_tokens)> on_progress;  // tokens run so far
};

// Runs the jobs as one group of a scheduler whose memory is sized by them. Jobs with the same prefix share its keys and
// values up to the first position where an edit of theirs can act, and jobs under one plan also those that the edits
// made, where they are the same for all (not while a sink records: every row of every job is then run). Results do not
// depend on batch, chunk or sharing. Jobs whose edits act on nothing take over what their unedited reference found.
// Jobs run in an order of their own. Returns false when interrupted. Throws Error as Forward::run does, for the first
// job that fails, and for jobs that do not fit together.
bool run_jobs(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
              ProbeSink* sink);

}  // namespace signalbox::engine
