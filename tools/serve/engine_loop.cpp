#include "tools/serve/engine_loop.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "engine/shared_prefixes.h"
#include "tools/serve/api_error.h"

namespace signalbox::tools {

namespace {

using EngineClock = std::chrono::steady_clock;

double seconds_since(EngineClock::time_point begin) {
  return std::chrono::duration<double>(EngineClock::now() - begin).count();
}

constexpr double tick_seconds = 0.05;

// Several jobs that generate, all recorded: their points are the same (JobGroupRequest::rows).
bool shares_rows(const JobGroupRequest& request) {
  if (request.jobs.size() < 2 || request.rows.size() < request.jobs.size()) return false;
  for (size_t i = 0; i < request.jobs.size(); ++i)
    if (!request.rows[i] || !request.jobs[i].generate()) return false;
  return true;
}

}  // namespace

struct EngineLoop::Group {
  Ticket ticket = 0;
  JobGroupRequest request;
  int32_t n_slots = 0;
  JobId first = 0;  // 0: not handed over yet
  size_t n_open = 0;
  std::vector<bool> ended;
  std::vector<int64_t> indices;
  int64_t shared_index = -1;  // of the sink's rows of what its jobs begin with in common
  bool started = false;
  std::string why;  // it was cancelled
  EngineClock::time_point submitted = EngineClock::now();
};

struct EngineLoop::Engine {
  Engine(const Session& session, int32_t n_slots, int64_t n_blocks, SchedulerEvents events, RowRouter& router)
      : n_slots(n_slots),
        forward(new Forward(session.forward(n_slots))),
        scheduler(*forward, session.options, n_blocks, std::move(events), &router) {
    router.set_slots(forward->max_slots());
  }
  int32_t n_slots;
  std::unique_ptr<Forward> forward;
  SchedulerCore scheduler;
};

EngineLoop::EngineLoop(const Session& session, EngineLimits limits, Metrics& metrics, Telling& telling)
    : session_(session), limits_(limits), metrics_(metrics), telling_(telling) {
  // Room for a batch of the longest texts, as far as memory goes.
  const int64_t longest = session.model.max_positions > 0 ? session.model.max_positions : 32768;
  n_free_ = session.options.batch;
  {
    Forward forward = session.forward(0);
    const int64_t block_bytes = KvPool::block_bytes(session.model, session.backend->kv_dtype());
    int64_t most = session.options.batch * KvPool::blocks_for(longest);
    if (session.backend->shares_host_memory()) {
      const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
      most = std::min(most, std::max<int64_t>(1, memory / 4 / block_bytes));
    }
    if (limits_.kv_positions > 0) most = KvPool::blocks_for(limits_.kv_positions);
    n_blocks_ = std::max<int64_t>(1, affordable_room(forward, most, session.options.chunk).blocks);
  }
  max_positions_ = n_blocks_ * KvPool::block_size;
  if (session.model.max_positions > 0) max_positions_ = std::min(max_positions_, session.model.max_positions);
}

EngineLoop::~EngineLoop() = default;

EngineLoop::Ticket EngineLoop::submit(JobGroupRequest request) {
  auto group = std::make_shared<Group>();
  group->request = std::move(request);
  group->request.owner = std::make_shared<OwnerElsewhere>(std::move(group->request.owner), telling_);
  group->n_slots = widest_route(group->request.jobs);
  group->n_open = group->request.jobs.size();
  group->ended.resize(group->n_open);
  std::lock_guard lock(mutex_);
  if (stopping_) throw ApiError(503, "server: expected one that takes requests, found that it stops", "", "shutdown");
  if (n_waiting_ >= limits_.max_queue + n_free_) {
    metrics_.add("rejected_total", 1, "reason=\"queue\"");
    ApiError error(429,
                   "server: expected room in the queue, found " + std::to_string(n_waiting_) + " requests that wait",
                   "", "queue_full");
    error.retry_after = 1;
    throw error;
  }
  ++n_waiting_;
  group->ticket = next_ticket_++;
  open_[group->ticket] = group;
  inbox_.push_back(group);
  changed_.notify_one();
  return group->ticket;
}

void EngineLoop::cancel(Ticket ticket, std::string why) {
  std::lock_guard lock(mutex_);
  to_cancel_.emplace_back(ticket, std::move(why));
  changed_.notify_one();
}

void EngineLoop::stop(bool at_once) {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  at_once_ = at_once_ || at_once;
  changed_.notify_one();
}

bool EngineLoop::idle() const {
  std::lock_guard lock(mutex_);
  return open_.empty();
}

std::pair<std::shared_ptr<EngineLoop::Group>, size_t> EngineLoop::find(JobId id) const {
  auto found = groups_.upper_bound(id);
  if (found == groups_.begin()) return {nullptr, 0};
  --found;
  const auto place = static_cast<size_t>(id - found->first);
  if (place >= found->second->ended.size() || found->second->ended[place]) return {nullptr, 0};
  return {found->second, place};
}

SchedulerEvents EngineLoop::events() {
  SchedulerEvents told;
  told.on_progress = [this](int64_t done_rows) {
    metrics_.set("batch_rows", done_rows - n_rows_);
    metrics_.add("rows_total", done_rows - n_rows_);
    n_rows_ = done_rows;
  };
  told.on_token = [this](JobId id, const Job&, int32_t token, const std::string& text) {
    if (const auto [group, place] = find(id); group && group->why.empty())
      group->request.owner->token(place, token, text);
  };
  told.on_done = [this](JobId id, Result result) {
    const auto [group, place] = find(id);
    if (!group) return;
    if (group->why.empty())
      group->request.owner->done(place, std::move(result));
    else
      group->request.owner->cancelled(place, group->why);
    end_job(group, place);
  };
  told.on_failed = [this](JobId id, const Failure& failure) {
    const auto [group, place] = find(id);
    if (!group) return;
    group->request.owner->failed(place, failure.message());
    end_job(group, place);
  };
  told.on_cancelled = [this](JobId id) {
    const auto [group, place] = find(id);
    if (!group) return;
    group->request.owner->cancelled(place, group->why);
    end_job(group, place);
  };
  return told;
}

void EngineLoop::end_job(const std::shared_ptr<Group>& group, size_t place) {
  if (group->ended[place]) return;
  group->ended[place] = true;
  if (!group->indices.empty()) router_.remove(group->indices[place]);
  if (--group->n_open > 0) return;
  if (group->shared_index >= 0) router_.forget_shared(group->shared_index);
  if (group->first > 0) groups_.erase(group->first);
  std::lock_guard lock(mutex_);
  if (!group->started) --n_waiting_;
  group->started = true;
  open_.erase(group->ticket);
}

// A forward as wide as the routes that edits ask for; made anew when nothing runs.
void EngineLoop::engine_for(int32_t n_slots) {
  const int32_t wanted = std::max(n_slots, std::max(session_.shape.n_active(), engine_ ? engine_->n_slots : 0));
  if (engine_ && engine_->n_slots >= wanted) return;
  engine_.reset();
  n_rows_ = 0;
  engine_ = std::make_unique<Engine>(session_, wanted, n_blocks_, events(), router_);
}

void EngineLoop::start(const std::shared_ptr<Group>& group) {
  JobGroupRequest& request = group->request;
  bool any_rows = false;
  for (const auto& rows : request.rows) any_rows = any_rows || rows;
  if (any_rows) engine_->scheduler.flush();
  request.watch.wishes.resize(request.jobs.size());
  // A job that refers to another names its place in the group.
  for (Job& job : request.jobs)
    if (Score* score = std::get_if<Score>(&job.task); score && score->reference)
      score->reference = next_index_ + *score->reference;
  for (size_t i = 0; i < request.jobs.size(); ++i) {
    request.jobs[i].index = next_index_++;
    group->indices.push_back(request.jobs[i].index);
    request.watch.wishes[i].recorded = any_rows && request.rows[i];
    if (any_rows && request.rows[i]) router_.add(request.jobs[i].index, request.rows[i]);
  }
  const std::weak_ptr<Group> weak = group;
  if (shares_rows(request)) {
    const auto most = static_cast<int64_t>(2 * request.jobs.size());
    group->shared_index = request.watch.shared_index = next_index_;
    next_index_ += most;
    router_.expect_shared(group->shared_index, most, *request.rows.front());
    request.watch.on_shared = [this, weak](size_t place, int64_t sample, int64_t, int64_t end) {
      if (const auto of = weak.lock()) router_.start_from(of->indices[place], sample, end);
    };
  }
  request.watch.on_started = [this, weak](size_t place) {
    const auto of = weak.lock();
    if (!of) return;
    if (!of->started) {
      of->started = true;
      metrics_.observe("queue_seconds", seconds_since(of->submitted));
      std::lock_guard lock(mutex_);
      --n_waiting_;
      n_free_ = std::max<int64_t>(0, n_free_ - 1);
    }
    of->request.owner->started(place);
  };
  request.watch.on_logits = [weak](size_t place, int64_t token, std::span<const float> logits) {
    if (const auto of = weak.lock(); of && of->why.empty()) of->request.owner->logits(place, token, logits);
  };
  try {
    // An owner may be told of a job before submit() returns its id: ids follow each other.
    group->first = engine_->scheduler.submit(request.jobs, request.watch);
    groups_[group->first] = group;
  } catch (const Error& error) {
    for (size_t i = 0; i < request.jobs.size(); ++i) {
      request.owner->failed(i, error.what());
      end_job(group, i);
    }
  }
}

void EngineLoop::take_inbox() {
  std::vector<std::pair<Ticket, std::string>> cancels;
  std::vector<std::shared_ptr<Group>> taken;
  {
    std::lock_guard lock(mutex_);
    cancels.swap(to_cancel_);
    // In order: one that needs a wider forward waits until nothing runs, and those behind it too.
    while (!inbox_.empty()) {
      const bool fits = engine_ && inbox_.front()->n_slots <= engine_->n_slots;
      if (!fits && (!groups_.empty() || !taken.empty())) break;
      taken.push_back(inbox_.front());
      inbox_.erase(inbox_.begin());
      if (!fits) break;
    }
  }
  for (const auto& group : taken) {
    if (group->n_open == 0) continue;
    engine_for(group->n_slots);
    start(group);
  }
  for (const auto& [ticket, why] : cancels) {
    std::shared_ptr<Group> group;
    {
      std::lock_guard lock(mutex_);
      if (const auto found = open_.find(ticket); found != open_.end()) group = found->second;
      if (group && group->first == 0) std::erase(inbox_, group);
    }
    if (group) cancel_group(*group, why);
  }
}

void EngineLoop::cancel_group(Group& group, const std::string& why) {
  if (!group.why.empty() || group.n_open == 0) return;
  group.why = why;
  metrics_.add("cancelled_total", 1, "why=\"" + why + "\"");
  if (group.first > 0) {
    for (size_t i = 0; i < group.ended.size(); ++i)
      if (!group.ended[i]) engine_->scheduler.cancel(group.first + static_cast<JobId>(i));
    return;
  }
  std::shared_ptr<Group> self;
  {
    std::lock_guard lock(mutex_);
    self = open_[group.ticket];
  }
  for (size_t i = 0; i < group.ended.size(); ++i) {
    group.request.owner->cancelled(i, why);
    end_job(self, i);
  }
}

void EngineLoop::tick_all() {
  std::vector<std::shared_ptr<Group>> groups;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [ticket, group] : open_) groups.push_back(group);
  }
  for (const auto& group : groups) {
    if (seconds_since(group->submitted) > limits_.max_seconds)
      cancel_group(*group, "time");
    else if (!group->request.owner->tick())
      cancel_group(*group, "slow_reader");
  }
}

// The scheduler is good for nothing more.
void EngineLoop::fail_all(const std::string& message) {
  for (const auto& [first, group] : std::map(groups_))
    for (size_t i = 0; i < group->ended.size(); ++i)
      if (!group->ended[i]) {
        group->request.owner->failed(i, message);
        end_job(group, i);
      }
  groups_.clear();
  engine_.reset();
}

void EngineLoop::publish_load() {
  const SchedulerLoad load = engine_ ? engine_->scheduler.load() : SchedulerLoad{0, 0, n_blocks_, n_blocks_, 0};
  int64_t n_running = 0, n_waiting = 0;
  {
    std::lock_guard lock(mutex_);
    n_free_ = std::max<int64_t>(0, session_.options.batch - load.n_running);
    n_waiting = n_waiting_;
    n_running = static_cast<int64_t>(open_.size()) - n_waiting_;
  }
  metrics_.set("requests_running", n_running);
  metrics_.set("requests_waiting", n_waiting);
  if (load.n_running == 0) metrics_.set("batch_rows", 0);
  metrics_.set("kv_blocks", load.n_blocks);
  metrics_.set("kv_blocks_free", load.n_free);
}

void EngineLoop::run() {
  engine_for(0);
  publish_load();
  auto last_tick = EngineClock::now();
  while (true) {
    bool moved = false;
    try {
      take_inbox();
      moved = engine_ && engine_->scheduler.step();
      if (!engine_) engine_for(0);
      if (moved) metrics_.add("steps_total");
    } catch (const std::exception& error) {
      fail_all(error.what());
    }
    if (seconds_since(last_tick) > tick_seconds) {
      tick_all();
      last_tick = EngineClock::now();
    }
    telling_.wake();
    publish_load();
    std::unique_lock lock(mutex_);
    if (stopping_ && at_once_ && !open_.empty()) {
      const auto open = open_;
      inbox_.clear();
      lock.unlock();
      for (const auto& [ticket, group] : open) cancel_group(*group, "shutdown");
      continue;
    }
    if (moved) continue;
    if (stopping_ && open_.empty()) return;
    if (inbox_.empty() && to_cancel_.empty())
      changed_.wait_for(lock, std::chrono::duration<double>(open_.empty() ? 1.0 : 0.005));
  }
}

}  // namespace signalbox::tools
