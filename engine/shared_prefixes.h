// The memory of sequences: how many blocks each may come to own, and the shared prefixes that stand beside the jobs.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/forward.h"
#include "engine/run_plan.h"

namespace signalbox::engine {

// Blocks that a job comes to own at most, beside `n_shared` positions of a prefix.
int64_t job_blocks(const Job& job, int64_t n_shared);
// Blocks for a batch of the largest jobs and their prefixes.
int64_t planned_blocks(const std::vector<Job>& jobs, const RunPlan& plan, int64_t batch);

// Blocks that there is room for beside what a forward of `n_tokens` tokens works in (a fifth of what is free at least),
// but no more than max_blocks.
struct Room {
  int64_t blocks = 0;
  std::string where;  // what is short, for messages: "KV cache" or the device's memory
};
Room affordable_room(Forward& forward, int64_t max_blocks, int64_t n_tokens);

// A shared prefix of one group of jobs, from its plan to the end of the last job that starts from it.
struct PrefixState {
  enum class Stage : uint8_t { closed, running, ready, gone };
  Stage stage = Stage::closed;
  PrefixState* parent = nullptr;  // the prefix that it starts from
  int64_t start = 0, length = 0;  // positions taken from the parent; all that it holds
  int64_t n_users = 0;            // jobs and prefixes that start from it, not yet done
  int64_t largest = 0;            // blocks that the largest of its users owns beside it, prefixes in between included
  int64_t reserved = 0;           // blocks
  double seconds = 0;             // that it took; until a user is charged with them
  std::unique_ptr<SequenceCache> cache;
  std::vector<TokenEdits> edits;  // what its edits did to each position; empty: it has none
};
// The prefixes of a plan, none of them open.
std::vector<PrefixState> prefix_states(const std::vector<Job>& jobs, const RunPlan& plan);

// One pool of blocks for all groups. Every sequence reserves the blocks that it may come to own before it starts, so
// that none runs out of them later. A prefix's blocks are its own until all who start from it are done; these reserve
// what they own beside it.
class SequenceMemory {
 public:
  SequenceMemory(Forward& forward, int64_t n_blocks);

  KvPool& pool() { return pool_; }
  const KvPool& pool() const { return pool_; }
  int64_t n_unreserved() const { return unreserved_; }
  bool reserve(int64_t n_blocks);  // false: fewer are left
  void give_back(int64_t n_blocks) { unreserved_ += n_blocks; }

  // The prefix itself; null for null and for one that is gone. One that is closed is started where there is memory and
  // may_start holds or its parent stands: `start` is called with the positions that it takes from its parent, which is
  // started first. Sets short_of_memory where there is none.
  using Start = std::function<void(PrefixState& prefix, SequenceCache cache)>;
  PrefixState* open(PrefixState* prefix, bool may_start, const Start& start, bool& short_of_memory);
  // A prefix has been run.
  void keep(PrefixState& prefix, SequenceCache cache, double seconds);
  // A job or prefix that started from it, or was to, is done. The last one closes it, but for a prefix that runs: that
  // is closed by whoever runs it. Null: nothing.
  void release(PrefixState* prefix);
  // Gives its memory back; users that have not started yet will run its positions themselves.
  void close(PrefixState& prefix);
  // Closes all prefixes that stand; nothing may run. False: there is none.
  bool give_up();

 private:
  KvPool pool_;
  std::vector<PrefixState*> standing_;  // those that hold memory
  int64_t unreserved_ = 0;
};

}  // namespace signalbox::engine
