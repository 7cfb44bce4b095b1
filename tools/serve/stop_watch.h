// What tells a server to stop: signals, and the end of its parent.
#pragma once
#include <atomic>
#include <functional>
#include <thread>

#include "base/namespaces.h"

namespace signalbox::tools {

// Blocks SIGINT, SIGTERM and SIGHUP in this thread and those that it starts, and waits for them in one of its own.
class StopWatch {
 public:
  // Called with false: finish what runs; with true: at once (a second signal, the parent's end).
  using OnStop = std::function<void(bool at_once)>;
  StopWatch(bool exit_with_parent, OnStop on_stop);
  ~StopWatch();  // after which signals do what they did before
  StopWatch(const StopWatch&) = delete;
  StopWatch& operator=(const StopWatch&) = delete;

 private:
  void watch();
  bool parent_gone() const;
  const bool exit_with_parent_;
  const OnStop on_stop_;
  int parent_;
  bool watches_input_ = false;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace signalbox::tools
