// The memory of a run's timelines: how many blocks each may come to own, and the trunks that stand beside the jobs.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/forward.h"
#include "engine/run_plan.h"

namespace signalbox {

// Every timeline reserves the blocks that it may come to own before it starts, so that none runs out of them later. A
// trunk's blocks are its own until all who start from it are done; these reserve what they own beside it.
class Trunks {
 public:
  enum class Phase : uint8_t { closed, running, ready, gone };
  struct State {
    Phase phase = Phase::closed;
    int64_t n_users = 0;   // not yet done
    int64_t reserved = 0;  // blocks
    int64_t largest = 0;   // blocks that the largest of its users owns beside it, trunks in between included
    double seconds = 0;    // that it took; until a user is charged with them
    std::unique_ptr<KvSlots> kv;
  };

  // Takes a pool with room for the largest jobs and trunks of a batch, but no more than max_blocks and the device has.
  // Throws Error when the longest job does not fit.
  Trunks(Forward& forward, const std::vector<Job>& jobs, const RunPlan& plan, int64_t batch, int64_t max_blocks);

  KvPool& pool() { return *pool_; }
  int64_t n_unreserved() const { return unreserved_; }
  // Blocks that a job owns beside `n_shared` positions of a trunk.
  int64_t job_blocks(const Job& job, int64_t n_shared) const;
  bool reserve(int64_t n_blocks);  // false: fewer are left
  void give_back(int64_t n_blocks) { unreserved_ += n_blocks; }

  // The state of a trunk; null for -1 and for one that is gone. One that is closed is started where there is memory and
  // may_start holds or its parent stands: `start` is called with the positions that it takes from its parent, which
  // comes first. Sets short_of_memory where there is none.
  using Start = std::function<void(int64_t trunk, KvSlots kv)>;
  State* open(int64_t trunk, bool may_start, const Start& start, bool& short_of_memory);
  // A trunk has been run.
  void keep(int64_t trunk, KvSlots kv, double seconds);
  // A job or trunk that started from it, or was to, is done; -1: nothing.
  void release(int64_t trunk);
  // Gives up all trunks that stand; nothing may run. False: there is none.
  bool give_up();

 private:
  State& at(int64_t trunk) { return states_[static_cast<size_t>(trunk)]; }
  int64_t affordable_blocks(Forward& forward, int64_t longest, int64_t max_blocks) const;
  void measure_users(const std::vector<Job>& jobs);
  void close(int64_t trunk);

  const RunPlan& plan_;
  std::unique_ptr<KvPool> pool_;  // before all that hold blocks of it
  std::vector<State> states_;
  std::vector<int64_t> standing_;  // trunks that hold memory
  int64_t unreserved_ = 0;
};

}  // namespace signalbox
