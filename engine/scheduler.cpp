#include "engine/scheduler.h"

#include <utility>

#include "engine/scheduler_core.h"

namespace signalbox::engine {

std::string Failure::message() const {
  if (n_jobs < 2) return error.what();
  return std::string(error.what()) + " (" + std::to_string(n_jobs) +
         " jobs of one forward ended by this, which does not tell whose fault it was)";
}

class Scheduler::State : public SchedulerCore {
 public:
  using SchedulerCore::SchedulerCore;
};

Scheduler::Scheduler(Forward& forward, SchedulerOptions options, int64_t n_blocks, SchedulerEvents events,
                     ProbeSink* sink)
    : state_(std::make_unique<State>(forward, std::move(options), n_blocks, std::move(events), sink)) {}

Scheduler::~Scheduler() = default;

JobId Scheduler::submit(Job job) {
  std::vector<Job> group;
  group.push_back(std::move(job));
  return submit(std::move(group));
}

JobId Scheduler::submit(std::vector<Job> group) { return state_->submit(std::move(group)); }

JobId Scheduler::submit(std::vector<Job> group, RunPlan plan) {
  return state_->submit(std::move(group), std::move(plan));
}

void Scheduler::cancel(JobId id) { state_->cancel(id); }
bool Scheduler::step() { return state_->step(); }
void Scheduler::flush() { state_->flush(); }
SchedulerLoad Scheduler::load() const { return state_->load(); }

}  // namespace signalbox::engine
