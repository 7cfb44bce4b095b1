#include "tools/terminal/signals.h"

#include <unistd.h>

#include <csignal>

namespace signalbox::tools {

std::atomic<bool> interrupted{false};

namespace {

extern "C" void on_signal(int) { interrupted.store(true, std::memory_order_relaxed); }

extern "C" void on_early_signal(int) {
  constexpr char text[] = "signalbox: interrupted\n";
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(3);
  _exit(3);
}

void set_handler(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) sigaction(number, &action, nullptr);
}

}  // namespace

void catch_signals() { set_handler(on_signal); }
void exit_on_signals() { set_handler(on_early_signal); }
void stop_if_interrupted() {
  if (interrupted.load(std::memory_order_relaxed)) throw Interrupted{};
}

}  // namespace signalbox::tools
