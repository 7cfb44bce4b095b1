// The one thread that runs the model: takes groups of jobs from a bounded queue, steps, and tells their owners.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/scheduler_core.h"
#include "engine/session.h"
#include "tools/serve/job_owner.h"
#include "tools/serve/metrics.h"
#include "tools/serve/owner_elsewhere.h"
#include "tools/serve/recorded_rows.h"

namespace signalbox::tools {

struct JobGroupRequest {
  std::vector<Job> jobs;                            // the loop gives them their index
  GroupWatch watch;                                 // wishes and held; the rest is the loop's
  std::vector<std::shared_ptr<RecordedRows>> rows;  // [jobs], or empty; null: nothing is recorded; of the same points
  std::shared_ptr<JobOwner> owner;
};

struct EngineLimits {
  int64_t max_queue = 64;     // groups that wait
  int64_t kv_positions = 0;   // that there is room for; 0: what suits model and machine
  double max_seconds = 3600;  // from a group's start
};

class EngineLoop {
 public:
  using Ticket = int64_t;

  // Owners of jobs are called on the thread of `telling`.
  EngineLoop(const Session& session, EngineLimits limits, Metrics& metrics, Telling& telling);
  ~EngineLoop();

  // Positions that a job can have at most.
  int64_t max_positions() const { return max_positions_; }

  // From any thread. Throws ApiError: 429 where the queue is full, 400 for jobs that never fit, 503 while stopping.
  Ticket submit(JobGroupRequest group);
  void cancel(Ticket ticket, std::string why);

  // The thread of the engine; returns after stop().
  void run();
  // From any thread. No more groups are taken; run() ends when all are done, or, `at_once`, cancels them.
  void stop(bool at_once);
  bool idle() const;

 private:
  struct Group;
  struct Engine;
  void take_inbox();
  void start(const std::shared_ptr<Group>& group);
  void engine_for(int32_t n_slots);
  void end_job(const std::shared_ptr<Group>& group, size_t place);
  void cancel_group(Group& group, const std::string& why);
  void fail_all(const std::string& message);
  void tick_all();
  void publish_load();
  SchedulerEvents events();
  std::pair<std::shared_ptr<Group>, size_t> find(JobId id) const;

  const Session& session_;
  const EngineLimits limits_;
  Metrics& metrics_;
  Telling& telling_;
  int64_t n_blocks_ = 0, max_positions_ = 0;
  std::unique_ptr<Engine> engine_;  // of the engine's thread
  RowRouter router_;
  std::map<JobId, std::shared_ptr<Group>> groups_;  // by the id of their first job
  int64_t next_index_ = 0, n_rows_ = 0;             // n_rows_: run by this engine_ so far

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Group>> inbox_;
  std::vector<std::pair<Ticket, std::string>> to_cancel_;
  std::map<Ticket, std::shared_ptr<Group>> open_;  // not yet ended
  Ticket next_ticket_ = 1;
  int64_t n_waiting_ = 0, n_free_ = 0;  // groups of which no job has started; jobs that could start at once
  bool stopping_ = false, at_once_ = false;
};

}  // namespace signalbox::tools
