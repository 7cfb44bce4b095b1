// Threads that share out numbered tasks. Which thread runs a task never affects a result, only where its scratch lies.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace signalbox {

class ThreadPool {
 public:
  // n_threads >= 1 counts the thread that calls parallel_for.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(task, thread) once for each 0 <= task < n_tasks, 0 <= thread < n_threads(); returns when all are done.
  // The first exception that a task throws is thrown here, and tasks not yet begun are dropped. Calls from several
  // threads take turns; a call from inside a task runs on its own thread.
  template <class F>
  void parallel_for(int64_t n_tasks, F&& f) {
    using Body = std::remove_reference_t<F>;
    run(
        n_tasks, [](void* body, int64_t task, int thread) { (*static_cast<Body*>(body))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Call = void (*)(void* body, int64_t task, int thread);

  void run(int64_t n_tasks, Call call, void* body);
  void work(int thread);
  void worker(int thread);
  bool enter();

  std::vector<std::thread> workers_;
  std::mutex run_mutex_;  // one parallel_for at a time

  // The current job. Written before it is opened, read by those who entered it, who are waited for.
  Call call_ = nullptr;
  void* body_ = nullptr;
  int64_t n_tasks_ = 0;
  std::atomic<int64_t> next_task_{0};
  std::atomic<uint64_t> generation_{0};
  // Workers in the current job, and whether more may enter. A worker that wakes when all tasks are taken finds it
  // closed: the caller waits for tasks, never for a thread that has none.
  static constexpr uint32_t open = uint32_t{1} << 31;
  std::atomic<uint32_t> inside_{0};

  std::mutex mutex_;  // parking, and the exception
  std::condition_variable wake_, done_;
  std::exception_ptr exception_;
  bool stop_ = false;
  int spin_limit_ = 0;
};

}  // namespace signalbox
