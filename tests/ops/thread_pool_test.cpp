// The thread pool; also run under the thread sanitizer.
#include "base/thread_pool.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace signalbox::test {

TEST_CASE("thread pool: every task runs once, writes are seen by the caller") {
  for (const int n_threads : {1, 2, 3, 8}) {
    ThreadPool pool(n_threads);
    CHECK(pool.n_threads() == n_threads);
    for (int64_t n = 0; n < 200; ++n) {
      std::vector<int> runs(static_cast<size_t>(n), 0);
      pool.parallel_for(n, [&](int64_t task, int thread) {
        if (thread < 0 || thread >= n_threads) throw std::logic_error("thread");
        ++runs[static_cast<size_t>(task)];  // plain: a race or a second run would show
      });
      CHECK(std::accumulate(runs.begin(), runs.end(), 0) == n);
      CHECK((n == 0 || *std::max_element(runs.begin(), runs.end()) == 1));
    }
  }
}

TEST_CASE("thread pool: no two tasks share a thread number at once") {
  ThreadPool pool(4);
  std::vector<int> scratch(4, 0);
  for (int round = 0; round < 50; ++round) {
    pool.parallel_for(64, [&](int64_t, int thread) { ++scratch[static_cast<size_t>(thread)]; });
  }
  CHECK(std::accumulate(scratch.begin(), scratch.end(), 0) == 50 * 64);
}

TEST_CASE("thread pool: an exception reaches the caller and the pool stays usable") {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS_AS(pool.parallel_for(100,
                                      [&](int64_t task, int) {
                                        if (task % 10 == 3) throw std::runtime_error("task");
                                      }),
                    std::runtime_error);
    std::atomic<int64_t> sum = 0;
    pool.parallel_for(100, [&](int64_t task, int) { sum += task; });
    CHECK(sum == 4950);
  }
}

TEST_CASE("thread pool: a call from inside a task runs on that task's thread") {
  ThreadPool pool(3);
  std::atomic<int64_t> sum = 0;
  pool.parallel_for(20, [&](int64_t, int outer) {
    pool.parallel_for(10, [&](int64_t task, int inner) {
      if (inner != outer) throw std::logic_error("moved");
      sum += task;
    });
  });
  CHECK(sum == 20 * 45);
}

TEST_CASE("thread pool: calls from several threads take turns") {
  ThreadPool pool(2);
  std::atomic<int64_t> sum = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        int64_t local[16] = {};
        pool.parallel_for(16, [&](int64_t task, int) { local[task] = task; });
        for (const int64_t x : local) sum += x;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(sum == 3 * 50 * 120);
}

TEST_CASE("thread pool: comes and goes at once") {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(1 + i % 5);
    if (i % 2) pool.parallel_for(3, [](int64_t, int) {});
  }
}

}  // namespace signalbox::test
