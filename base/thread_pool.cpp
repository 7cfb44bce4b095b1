#include "base/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace signalbox {

namespace {

// The pool whose task this thread is running, and its index there.
thread_local const ThreadPool* current_pool = nullptr;
thread_local int current_thread = 0;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
  // Ops follow each other within microseconds, so a worker first spins for some tens of them; where there are more
  // threads than processors spinning only takes time from the thread that has work.
  const unsigned n_processors = std::thread::hardware_concurrency();
  spin_limit_ = n_processors != 0 && static_cast<unsigned>(n_threads) <= n_processors ? 1000 : 0;
  workers_.reserve(static_cast<size_t>(n_threads > 1 ? n_threads - 1 : 0));
  for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::run(int64_t n_tasks, Call call, void* body) {
  if (n_tasks <= 0) return;
  if (current_pool == this) {
    for (int64_t task = 0; task < n_tasks; ++task) call(body, task, current_thread);
    return;
  }
  std::lock_guard run_lock(run_mutex_);
  call_ = call;
  body_ = body;
  n_tasks_ = n_tasks;
  next_task_.store(0, std::memory_order_relaxed);
  exception_ = nullptr;
  const bool shared = n_tasks > 1 && !workers_.empty();
  if (shared) {
    inside_.store(open, std::memory_order_release);
    {
      std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }
  work(0);
  if (shared && inside_.fetch_and(~open, std::memory_order_acq_rel) != open) {
    for (int spin = 0; spin < spin_limit_ && inside_.load(std::memory_order_acquire) != 0; ++spin) pause();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return inside_.load(std::memory_order_acquire) == 0; });
  }
  if (exception_) std::rethrow_exception(exception_);
}

void ThreadPool::work(int thread) {
  const ThreadPool* outer_pool = current_pool;
  const int outer_thread = current_thread;
  current_pool = this;
  current_thread = thread;
  for (;;) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= n_tasks_) break;
    try {
      call_(body_, task, thread);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!exception_) exception_ = std::current_exception();
      next_task_.store(n_tasks_, std::memory_order_relaxed);
    }
  }
  current_pool = outer_pool;
  current_thread = outer_thread;
}

// Whether a job is open. It may be a later one than the one that woke this thread.
bool ThreadPool::enter() {
  uint32_t inside = inside_.load(std::memory_order_acquire);
  while (inside & open) {
    if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel, std::memory_order_acquire))
      return true;
  }
  return false;
}

void ThreadPool::worker(int thread) {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < spin_limit_ && generation_.load(std::memory_order_acquire) == seen; ++spin) pause();
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      if (stop_) return;
      // Under the lock: the generation in which the pool stops must not be taken for one that was seen.
      seen = generation_.load(std::memory_order_acquire);
    }
    if (!enter()) continue;
    work(thread);
    if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

}  // namespace signalbox
