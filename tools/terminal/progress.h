// How far a command has come, on standard error.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

#include "base/namespaces.h"

namespace signalbox::tools {

// A bar with the time left on a terminal, else a line every few seconds, on standard error. Nothing when quiet.
class Progress {
 public:
  Progress(std::string what, int64_t total, bool quiet);
  ~Progress() { done(); }
  // So much was there before: it counts for how far, not for how fast.
  void start_at(int64_t count);
  void update(int64_t count);
  void done();

 private:
  std::string what_;
  int64_t total_, kept_ = 0;
  bool quiet_, terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace signalbox::tools
