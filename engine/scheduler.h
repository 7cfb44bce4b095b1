// Runs jobs by continuous batching: sequences of different lengths, prompts and edits share each forward, jobs join at
// any step and leave at any step, and no result depends on the company that a job had.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/forward.h"
#include "engine/jobs.h"
#include "engine/run_plan.h"
#include "engine/text.h"

namespace signalbox::engine {

struct SchedulerOptions : StopRule {  // where a job has no rule of its own
  int64_t batch = 8;                  // sequences at once
  int64_t chunk = 512;                // given tokens per step, of all sequences together
  // Jobs that may wait; submit() refuses more.
  int64_t max_waiting = std::numeric_limits<int64_t>::max();
  const Tokenizer* tokenizer = nullptr;  // null: no text, and no stop strings
  // Logits that jobs refer to and that are kept in memory; more go to a temporary file.
  size_t max_kept_bytes = size_t{256} << 20;
};

// Given by submit(), ascending, never twice.
using JobId = int64_t;

// Why a job ended without a result.
struct Failure {
  int64_t index = 0;  // of the job
  Error error;
  // Jobs that ended by this error. More than one: the forward that failed served all of them, and nobody can tell whose
  // fault it was.
  int64_t n_jobs = 1;
  std::string message() const;  // the error, and how many ended by it
};

// What is told while jobs run, from within submit's and step's thread. Any may be empty. Each job has exactly one of
// the last three, after which its memory is free. All may call submit() and cancel(). One that throws ends step() by
// what it throws; the scheduler is then good for nothing but to be destroyed.
struct SchedulerEvents {
  std::function<void(int64_t done_tokens)> on_progress;  // tokens run so far, after each step
  // A new token and the text that became final with it.
  std::function<void(JobId, const Job&, int32_t token, const std::string& text)> on_token;
  std::function<void(JobId, Result)> on_done;
  std::function<void(JobId, const Failure&)> on_failed;
  std::function<void(JobId)> on_cancelled;
};

// submit() found no place: the same jobs may be submitted again when others have ended.
class QueueFull : public Error {
 public:
  using Error::Error;
};

struct SchedulerLoad {
  int64_t n_running = 0, n_waiting = 0;  // jobs
  int64_t n_blocks = 0, n_free = 0;      // of keys and values (KvPool::block_size positions)
  int64_t n_reserved = 0;                // that running sequences may come to own, and prefixes own
};

// Used from one thread; only cancel() may be called from others.
//
// Memory is fixed at construction: `n_blocks` blocks of keys and values. A job reserves at its start what it may come
// to own, so that none that runs can run out of it. One that does not fit now waits, first come first served, but for
// jobs that can start from a prefix that stands: they give its memory back. One that never fits is refused.
//
// Jobs that are submitted together are a group: what they begin with in common is computed once (run_plan.h), and they
// may refer to each other's results. Groups share nothing, and run side by side. A cache of prefixes over groups would
// keep SequenceMemory's prefixes beyond the end of their group: nothing here tells a job where its prefix came from.
//
// A job that fails ends alone, and the others go on with the same bits: its edits cannot be applied to it, or its
// logits are not finite. Where a forward fails as a whole (the device, the sink, a banned expert that ran), all of its
// jobs fail. Jobs that refer to one that failed or was cancelled fail too.
class Scheduler {
 public:
  // `sink` (may be null) is handed the rows of all jobs, as samples by Job::index; nothing is shared then. Throws Error
  // when the device cannot hold the blocks.
  Scheduler(Forward& forward, SchedulerOptions options, int64_t n_blocks, SchedulerEvents events, ProbeSink* sink);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Takes all of a group or none: ids follow each other from the returned one on. Throws QueueFull, or Error for jobs
  // that can never run: longer than the model's positions (check_length) or the memory, edits of wider routes than the
  // forward has, and what plan_run refuses.
  JobId submit(Job job);
  JobId submit(std::vector<Job> group);
  // With the group's plan_run(.., sink != null), where it is known already. The maker has checked the lengths
  // (Session::check).
  JobId submit(std::vector<Job> group, RunPlan plan);

  // The job leaves before the next step. Nothing happens to one that has ended.
  void cancel(JobId id);

  // Starts what can start and runs one forward. False: nothing is left to run, and the sink has every row.
  bool step();
  // Hands over what is still on its way to the sink.
  void flush();

  SchedulerLoad load() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace signalbox::engine
