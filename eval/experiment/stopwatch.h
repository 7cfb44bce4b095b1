// How long something took, for estimates.
#pragma once
#include <chrono>

#include "base/namespaces.h"

namespace signalbox::eval {

using Clock = std::chrono::steady_clock;

// In seconds.
inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace signalbox::eval
