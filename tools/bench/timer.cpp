#include "tools/bench/timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

namespace signalbox::tools {

namespace {

constexpr int64_t max_captured_calls = 512;
constexpr int64_t bench_key = -0x62656e63;  // no forward's key begins so

}  // namespace

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Timing Timer::measure(int64_t n_sets, const std::function<void(int64_t)>& work, bool captured) {
  if (backend_.shares_host_memory()) {
    double best = INFINITY;
    const double start = now();
    for (int64_t i = 0; i == 0 || now() - start < (i < 3 ? 10 : 1) * options_.seconds; ++i) {
      const double begin = now();
      work(i % n_sets);
      best = std::min(best, now() - begin);
    }
    return {best, 0};
  }

  const auto timed = [&](const std::function<void()>& enqueue) {
    backend_.synchronize();
    const double begin = now();
    enqueue();
    backend_.synchronize();
    return now() - begin;
  };
  const auto all_sets = [&] {
    for (int64_t i = 0; i < n_sets; ++i) work(i);
  };
  timed(all_sets);  // loads kernels, and takes what scratch memory they need
  const double pass = std::max(timed(all_sets), 1e-9);
  // Calls of one piece of captured work: enough that launching the piece is little beside it.
  const double wanted = options_.seconds / pass;
  const int64_t passes = std::clamp<int64_t>(static_cast<int64_t>(std::ceil(std::min(wanted, 1e6))), 1,
                                             std::max<int64_t>(1, max_captured_calls / n_sets));
  const int64_t key[] = {bench_key, reinterpret_cast<int64_t>(this), ++n_measured_};
  const auto piece = [&] {
    const auto calls = [&] {
      for (int64_t p = 0; p < passes; ++p) all_sets();
    };
    if (captured) {
      backend_.replay(key, calls);
    } else {
      calls();
    }
  };
  timed(piece);                                      // does the work,
  timed(piece);                                      // captures it,
  const double once = std::max(timed(piece), 1e-9);  // and repeats it
  const int64_t pieces = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(std::min(options_.seconds / once, 1e6))));
  std::vector<double> rounds;
  for (int r = 0; r < options_.rounds; ++r)
    rounds.push_back(timed([&] {
      for (int64_t i = 0; i < pieces; ++i) piece();
    }));
  backend_.forget_graphs();  // the memory that they name goes away
  std::sort(rounds.begin(), rounds.end());
  const double median = rounds[rounds.size() / 2];
  return {median / static_cast<double>(pieces * passes * n_sets), (rounds.back() - rounds.front()) / median};
}

}  // namespace signalbox::tools
