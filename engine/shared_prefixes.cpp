#include "engine/shared_prefixes.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/device_weights.h"

namespace signalbox::engine {

namespace {

int64_t own_blocks(int64_t n_positions, int64_t n_shared) {
  return KvPool::blocks_for(n_positions) - n_shared / KvPool::block_size;
}

int64_t sum_of_largest(std::vector<int64_t> blocks, int64_t n) {
  std::sort(blocks.rbegin(), blocks.rend());
  blocks.resize(std::min(blocks.size(), static_cast<size_t>(n)));
  return std::accumulate(blocks.begin(), blocks.end(), int64_t{0});
}

}  // namespace

int64_t job_blocks(const Job& job, int64_t n_shared) { return own_blocks(job.max_positions(), n_shared); }

int64_t planned_blocks(const std::vector<Job>& jobs, const RunPlan& plan, int64_t batch) {
  std::vector<int64_t> of_jobs, of_prefixes;
  for (const Job& job : jobs) of_jobs.push_back(job_blocks(job, 0));
  for (const SharedPrefix& prefix : plan.prefixes) of_prefixes.push_back(own_blocks(prefix.length, 0));
  return sum_of_largest(std::move(of_jobs), batch) + sum_of_largest(std::move(of_prefixes), 2 * batch);  // and parents
}

Room affordable_room(Forward& forward, int64_t max_blocks, int64_t n_tokens) {
  Room room = {max_blocks, "KV cache"};
  const size_t free_bytes = forward.backend().free_bytes();
  if (free_bytes == SIZE_MAX) return room;
  const int64_t free = static_cast<int64_t>(free_bytes);
  const int64_t work = std::max(free / 5, work_bytes(forward.backend(), forward.model(), n_tokens));
  const int64_t of_device =
      std::max<int64_t>(0, free - work) / KvPool::block_bytes(forward.model(), forward.backend().kv_dtype());
  if (of_device < room.blocks) room = {of_device, forward.backend().name() + " memory"};
  return room;
}

std::vector<PrefixState> prefix_states(const std::vector<Job>& jobs, const RunPlan& plan) {
  std::vector<PrefixState> states(plan.prefixes.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const PlannedJob& job = plan.jobs[i];
    if (job.prefix < 0) continue;
    int64_t& largest = states[static_cast<size_t>(job.prefix)].largest;
    largest = std::max(largest, job_blocks(jobs[i], job.shared));
  }
  // A parent comes later in the list.
  for (size_t p = 0; p < states.size(); ++p) {
    const SharedPrefix& prefix = plan.prefixes[p];
    PrefixState& state = states[p];
    state.length = prefix.length;
    state.n_users = prefix.n_users;
    if (prefix.parent < 0) continue;
    state.start = prefix.start;
    state.parent = &states[static_cast<size_t>(prefix.parent)];
    state.parent->largest = std::max(state.parent->largest, own_blocks(prefix.length, prefix.start) + state.largest);
  }
  return states;
}

SequenceMemory::SequenceMemory(Forward& forward, int64_t n_blocks)
    : pool_(forward.backend(), forward.model(), n_blocks), unreserved_(n_blocks) {}

bool SequenceMemory::reserve(int64_t n_blocks) {
  if (n_blocks > unreserved_) return false;
  unreserved_ -= n_blocks;
  return true;
}

PrefixState* SequenceMemory::open(PrefixState* prefix, bool may_start, const Start& start, bool& short_of_memory) {
  if (!prefix || prefix->stage == PrefixState::Stage::gone) return nullptr;
  if (prefix->stage != PrefixState::Stage::closed) return prefix;
  PrefixState* parent = open(prefix->parent, may_start, start, short_of_memory);
  if (parent && parent->stage != PrefixState::Stage::ready) return prefix;
  const int64_t first = parent ? prefix->start : 0, needed = own_blocks(prefix->length, first);
  if (!parent) {
    if (needed + prefix->largest > pool_.n_blocks()) {  // it could never stand beside those who want it
      close(*prefix);
      return nullptr;
    }
    if (!may_start) return prefix;
    // Prefixes keep their memory while jobs come and go. So a prefix may join those that stand only if, once no job
    // runs, the largest job that waits for any of them still fits beside them all: then one of them can always be
    // worked off, and its memory comes back. A prefix with a parent passed this test as a user of its parent.
    int64_t standing = needed, largest = prefix->largest;
    for (const PrefixState* other : standing_) {
      standing += other->reserved;
      largest = std::max(largest, other->largest);
    }
    short_of_memory = short_of_memory || standing + largest > pool_.n_blocks();
    if (standing + largest > pool_.n_blocks()) return prefix;
  }
  if (!reserve(needed)) {
    short_of_memory = true;
    return prefix;
  }
  if (parent) prefix->seconds = std::exchange(parent->seconds, 0);
  prefix->stage = PrefixState::Stage::running;
  prefix->reserved = needed;
  standing_.push_back(prefix);
  start(*prefix, parent ? parent->cache->fork(first) : SequenceCache(pool_));
  return prefix->stage == PrefixState::Stage::gone ? nullptr : prefix;
}

void SequenceMemory::keep(PrefixState& prefix, SequenceCache cache, double seconds) {
  prefix.cache = std::make_unique<SequenceCache>(std::move(cache));
  prefix.seconds += seconds;
  prefix.stage = PrefixState::Stage::ready;
}

void SequenceMemory::close(PrefixState& prefix) {
  std::erase(standing_, &prefix);
  prefix.stage = PrefixState::Stage::gone;
  prefix.cache.reset();
  unreserved_ += std::exchange(prefix.reserved, 0);
  release(prefix.parent);
}

void SequenceMemory::release(PrefixState* prefix) {
  if (!prefix || --prefix->n_users > 0) return;
  if (prefix->stage == PrefixState::Stage::ready || prefix->stage == PrefixState::Stage::closed) close(*prefix);
}

bool SequenceMemory::give_up() {
  if (standing_.empty()) return false;
  while (!standing_.empty()) close(*standing_.back());
  return true;
}

}  // namespace signalbox::engine
