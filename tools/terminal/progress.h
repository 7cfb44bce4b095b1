// How far a command has come, on standard error.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "base/namespaces.h"

namespace signalbox::tools {

// How fast something goes, by what happened lately.
class Pace {
 public:
  // `now` in seconds, not falling; `count` so far. The first call is the beginning: what was there does not count.
  void add(double now, int64_t count);
  // Per second, over the last 30 seconds or a quarter of all time, whichever is longer; none in the first second, and
  // before anything has happened.
  std::optional<double> rate() const;

 private:
  struct Mark {
    double time;
    int64_t count;
  };
  std::optional<Mark> first_;
  std::deque<Mark> marks_;  // the oldest is the last before the window
};

// One line: "tracing [#####.....] 50 %  1200 tok/s  about 2m10s left". Cut to `width` columns: first the bar goes, then
// the end of `what`. No bar: width 0, which cuts nothing. `unit` is empty where there is none worth a name.
std::string progress_line(const std::string& what, const std::string& unit, double share, std::optional<double> rate,
                          std::optional<double> seconds_left, int width);

// A bar with the time left on a terminal, else a line now and then (every 5 seconds at first, every tenth of the
// elapsed time later), on standard error. Nothing when quiet.
class Progress {
 public:
  // `total` of `unit`: "tok", "samples", "MB".
  Progress(std::string what, int64_t total, bool quiet, std::string unit = "");
  ~Progress() { done(); }
  // So much was there before: it counts for how far, not for how fast.
  void start_at(int64_t count);
  void update(int64_t count);
  void done();

 private:
  double now() const;
  std::string what_, unit_;
  int64_t total_;
  bool quiet_, terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  double told_ = 0;  // when the last line was written
  Pace pace_;
};

}  // namespace signalbox::tools
