#include "engine/runner.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/choosing_runner.h"
#include "engine/scheduler_core.h"
#include "engine/shared_prefixes.h"

namespace signalbox::engine {

namespace {

// Room for the largest jobs and prefixes of a batch, but no more than there is.
int64_t pool_blocks(Forward& forward, const std::vector<Job>& jobs, const RunPlan& plan, const RunOptions& options) {
  const Room room = affordable_room(forward, options.max_kv_blocks, options.chunk);
  int64_t longest = 0;
  for (const Job& job : jobs) longest = std::max(longest, job_blocks(job, 0));
  if (room.blocks < longest)
    throw Error(room.where, "expected room for the keys and values of " + std::to_string(longest * KvPool::block_size) +
                                " positions, found room for " + std::to_string(room.blocks * KvPool::block_size));
  return std::max<int64_t>(1, std::min(planned_blocks(jobs, plan, options.batch), room.blocks));
}

bool run_all(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options,
             std::shared_ptr<const ChoiceRules> rules, const RunEvents& events, ProbeSink* sink) {
  RunPlan plan = plan_run(jobs, sink != nullptr);
  SchedulerEvents told;
  told.on_progress = events.on_progress;
  if (events.on_token)
    told.on_token = [&](JobId, const Job& job, int32_t token, const std::string& text) {
      events.on_token(job, token, text);
    };
  if (events.on_done) told.on_done = [&](JobId, Result result) { events.on_done(std::move(result)); };
  told.on_failed = [](JobId, const Failure& failure) { throw failure.error; };
  SchedulerOptions own = options;
  own.max_waiting = std::numeric_limits<int64_t>::max();
  SchedulerCore scheduler(forward, std::move(own), pool_blocks(forward, jobs, plan, options), std::move(told), sink);
  GroupWatch watch;
  JobWishes wishes;
  wishes.choice = std::move(rules);
  if (wishes.choice) watch.wishes.assign(jobs.size(), wishes);
  scheduler.submit(jobs, std::move(plan), std::move(watch));
  while (true) {
    if (options.interrupted && options.interrupted->load(std::memory_order_relaxed)) {
      scheduler.flush();
      return false;
    }
    if (!scheduler.step()) return true;
  }
}

}  // namespace

bool run_jobs(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
              ProbeSink* sink) {
  return run_all(forward, jobs, options, nullptr, events, sink);
}

bool run_jobs_choosing(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options,
                       const ChoiceRules& rules, const RunEvents& events, ProbeSink* sink) {
  return run_all(forward, jobs, options, std::make_shared<const ChoiceRules>(rules), events, sink);
}

}  // namespace signalbox::engine
