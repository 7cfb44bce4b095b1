// How long an op takes on a backend.
#pragma once
#include <cstdint>
#include <functional>

#include "base/namespaces.h"
#include "kernels/backend.h"

namespace signalbox::tools {

struct Timing {
  double seconds = 0;  // of one call
  double spread = 0;   // (slowest - fastest) / median of the rounds; 0 on the CPU
};

class Timer {
 public:
  struct Options {
    double seconds = 0.006;  // of one round; on the CPU of all calls together
    int rounds = 5;
  };
  Timer(Backend& backend, Options options) : backend_(backend), options_(options) {}

  // work(i) enqueues one call on set i of 0 .. n_sets - 1; sets take turns, so that together they can be larger than
  // any cache.
  //
  // A device: the median of rounds, each many calls between two synchronisations, in captured work where the device has
  // that, so that no launch from the host stands between two calls. `captured` false: work that cannot be kept.
  // The CPU: the fastest of the calls that fit into the time, or of three that fit into ten times that, or of one.
  // Other work on the machine only ever adds.
  Timing measure(int64_t n_sets, const std::function<void(int64_t)>& work, bool captured = true);

 private:
  Backend& backend_;
  Options options_;
  int64_t n_measured_ = 0;
};

// Seconds of a steady clock.
double now();

}  // namespace signalbox::tools
