// The scheduler (scheduler.h, which says what it promises), for those who also watch their jobs as a server does.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/scheduler.h"
#include "engine/watched_jobs.h"

namespace signalbox::engine {

class SchedulerCore {
 public:
  SchedulerCore(Forward& forward, SchedulerOptions options, int64_t n_blocks, SchedulerEvents events, ProbeSink* sink);
  ~SchedulerCore();
  SchedulerCore(const SchedulerCore&) = delete;
  SchedulerCore& operator=(const SchedulerCore&) = delete;

  // As Scheduler::submit. With wishes: the sink takes the rows of those jobs alone that want it.
  JobId submit(std::vector<Job> group, GroupWatch watch = {});
  JobId submit(std::vector<Job> group, RunPlan plan, GroupWatch watch = {});
  void cancel(JobId id);
  // False also where all jobs that run are held.
  bool step();
  void flush();
  SchedulerLoad load() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace signalbox::engine
