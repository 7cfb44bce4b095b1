#include "engine/trunks.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

namespace signalbox {

namespace {

int64_t own_blocks(int64_t n_positions, int64_t n_shared) {
  return KvPool::blocks_for(n_positions) - n_shared / KvPool::block_size;
}

}  // namespace

Trunks::Trunks(Forward& forward, const std::vector<Job>& jobs, const RunPlan& plan, int64_t batch, int64_t max_blocks)
    : plan_(plan), states_(plan.trunks.size()) {
  std::vector<int64_t> of_jobs, of_trunks;
  for (const Job& job : jobs) of_jobs.push_back(job_blocks(job, 0));
  for (const Trunk& trunk : plan_.trunks) of_trunks.push_back(own_blocks(trunk.length, 0));
  const auto sum_of_largest = [](std::vector<int64_t>& blocks, int64_t n) {
    std::sort(blocks.rbegin(), blocks.rend());
    blocks.resize(std::min(blocks.size(), static_cast<size_t>(n)));
    return std::accumulate(blocks.begin(), blocks.end(), int64_t{0});
  };
  const int64_t wanted = sum_of_largest(of_jobs, batch) + sum_of_largest(of_trunks, 2 * batch);  // and their parents
  const int64_t affordable = affordable_blocks(forward, of_jobs.empty() ? 0 : of_jobs.front(), max_blocks);
  pool_ =
      std::make_unique<KvPool>(forward.backend(), forward.model(), std::max<int64_t>(1, std::min(wanted, affordable)));
  unreserved_ = pool_->n_blocks();
  measure_users(jobs);
}

// Blocks that there is room for beside what a forward works in.
int64_t Trunks::affordable_blocks(Forward& forward, int64_t longest, int64_t max_blocks) const {
  int64_t blocks = max_blocks;
  std::string where = "KV cache";
  const size_t free = forward.backend().free_bytes();
  if (free != SIZE_MAX) {
    const int64_t room =
        static_cast<int64_t>(free / 10 * 8) / KvPool::block_bytes(forward.model(), forward.backend().kv_dtype());
    if (room < blocks) where = forward.backend().name() + " memory";
    blocks = std::min(blocks, room);
  }
  if (blocks < longest)
    throw Error(where, "expected room for the keys and values of " + std::to_string(longest * KvPool::block_size) +
                           " positions, found room for " + std::to_string(blocks * KvPool::block_size));
  return blocks;
}

void Trunks::measure_users(const std::vector<Job>& jobs) {
  for (size_t i = 0; i < jobs.size(); ++i) {
    const PlannedJob& job = plan_.jobs[i];
    if (job.trunk < 0) continue;
    int64_t& largest = at(job.trunk).largest;
    largest = std::max(largest, job_blocks(jobs[i], job.shared));
  }
  for (size_t t = 0; t < states_.size(); ++t) {
    const Trunk& trunk = plan_.trunks[t];
    states_[t].n_users = trunk.n_users;
    if (trunk.parent < 0) continue;
    int64_t& largest = at(trunk.parent).largest;
    largest = std::max(largest, own_blocks(trunk.length, trunk.start) + states_[t].largest);
  }
}

int64_t Trunks::job_blocks(const Job& job, int64_t n_shared) const { return own_blocks(job.max_positions(), n_shared); }

bool Trunks::reserve(int64_t n_blocks) {
  if (n_blocks > unreserved_) return false;
  unreserved_ -= n_blocks;
  return true;
}

Trunks::State* Trunks::open(int64_t t, bool may_start, const Start& start, bool& short_of_memory) {
  if (t < 0 || at(t).phase == Phase::gone) return nullptr;
  State& state = at(t);
  if (state.phase != Phase::closed) return &state;
  const Trunk& trunk = plan_.trunks[static_cast<size_t>(t)];
  State* parent = open(trunk.parent, may_start, start, short_of_memory);
  if (parent && parent->phase != Phase::ready) return &state;
  const int64_t first = parent ? trunk.start : 0, needed = own_blocks(trunk.length, first);
  if (!parent && needed + state.largest > pool_->n_blocks()) {  // it could never stand beside those who want it
    close(t);
    return nullptr;
  }
  // When all that run are done, the largest user of any trunk must find room beside the trunks that stand. One with a
  // parent was counted with it, and the parent stands until it is done.
  if (!may_start && !parent) return &state;
  int64_t standing = needed, largest = state.largest;
  for (const int64_t other : standing_) {
    standing += at(other).reserved;
    largest = std::max(largest, at(other).largest);
  }
  if ((!parent && standing + largest > pool_->n_blocks()) || !reserve(needed)) {
    short_of_memory = true;
    return &state;
  }
  if (parent) state.seconds = std::exchange(parent->seconds, 0);
  state.phase = Phase::running;
  state.reserved = needed;
  standing_.push_back(t);
  start(t, parent ? parent->kv->fork(first) : KvSlots(*pool_));
  return &state;
}

void Trunks::keep(int64_t t, KvSlots kv, double seconds) {
  State& state = at(t);
  state.kv = std::make_unique<KvSlots>(std::move(kv));
  state.seconds += seconds;
  state.phase = Phase::ready;
}

void Trunks::close(int64_t t) {
  State& state = at(t);
  std::erase(standing_, t);
  state.phase = Phase::gone;
  state.kv.reset();
  unreserved_ += std::exchange(state.reserved, 0);
  release(plan_.trunks[static_cast<size_t>(t)].parent);
}

void Trunks::release(int64_t t) {
  if (t >= 0 && --at(t).n_users == 0 && at(t).phase == Phase::ready) close(t);
}

bool Trunks::give_up() {
  if (standing_.empty()) return false;
  while (!standing_.empty()) close(standing_.back());
  return true;
}

}  // namespace signalbox
