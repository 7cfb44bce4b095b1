#include "tools/terminal/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace signalbox::tools {

namespace {

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

Progress::Progress(std::string what, int64_t total, bool quiet)
    : what_(std::move(what)),
      total_(std::max<int64_t>(total, 1)),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

void Progress::start_at(int64_t count) {
  kept_ = count;
  start_ = std::chrono::steady_clock::now();
}

void Progress::update(int64_t count) {
  if (quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  if (since < (terminal_ ? 0.1 : 5.0)) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double share = std::min(1.0, static_cast<double>(count) / static_cast<double>(total_));
  const double rate = static_cast<double>(count - kept_) / elapsed;
  const std::string left = rate > 0 ? duration(static_cast<double>(std::max<int64_t>(0, total_ - count)) / rate) : "?";
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

}  // namespace signalbox::tools
