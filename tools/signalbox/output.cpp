// Progress on standard error, data on standard output.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

#include "tools/signalbox/common.h"

namespace signalbox {

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

std::string duration(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  char text[32];
  if (s >= 3600) {
    std::snprintf(text, sizeof text, "%ldh%02ldm", static_cast<long>(s / 3600), static_cast<long>(s / 60 % 60));
  } else {
    std::snprintf(text, sizeof text, "%ldm%02lds", static_cast<long>(s / 60), static_cast<long>(s % 60));
  }
  return text;
}

}  // namespace

void catch_signals() { set_handler(on_signal); }
void exit_on_signals() { set_handler(on_early_signal); }
void stop_if_interrupted() {
  if (interrupted.load(std::memory_order_relaxed)) throw Interrupted{};
}

bool stdout_is_terminal() { return isatty(STDOUT_FILENO) != 0; }

void write_stdout(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) throw Error("standard output", "cannot write");
}

std::string hex64(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016lx", static_cast<unsigned long>(value));
  return text;
}

void OrderedOutput::put(int64_t index, std::string text) {
  waiting_.emplace(index, std::move(text));
  for (auto it = waiting_.begin(); it != waiting_.end() && it->first == next_; it = waiting_.begin()) {
    write_stdout(it->second);
    waiting_.erase(it);
    ++next_;
  }
  if (std::fflush(stdout) != 0) throw Error("standard output", "cannot write");
}

Progress::Progress(std::string what, int64_t total, bool quiet)
    : what_(std::move(what)),
      total_(std::max<int64_t>(total, 1)),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

void Progress::update(int64_t count) {
  if (quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  if (since < (terminal_ ? 0.1 : 5.0)) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double share = std::min(1.0, static_cast<double>(count) / static_cast<double>(total_));
  const std::string left = share > 0 ? duration(elapsed * (1 - share) / share) : "?";
  const double rate = static_cast<double>(count) / elapsed;
  if (terminal_) {
    constexpr int width = 30;
    std::string bar(static_cast<size_t>(share * width), '#');
    bar.resize(width, '.');
    std::fprintf(stderr, "\r%s [%s] %3.0f %%  %.0f/s  about %s left \033[K", what_.c_str(), bar.c_str(), share * 100,
                 rate, left.c_str());
    drawn_ = true;
  } else {
    std::fprintf(stderr, "%s: %.0f %%, %.0f/s, about %s left\n", what_.c_str(), share * 100, rate, left.c_str());
  }
  std::fflush(stderr);
}

void Progress::done() {
  if (drawn_) std::fprintf(stderr, "\r\033[K");
  drawn_ = false;
}

}  // namespace signalbox
