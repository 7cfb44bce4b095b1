// How far a command has come, on standard error.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
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
  // Whether the rate says when `total` is reached: a hundredth of what is to be done has been, or it has gone on for a
  // while.
  bool tells_end(int64_t total) const;

 private:
  struct Mark {
    double time;
    int64_t count;
  };
  std::optional<Mark> first_;
  std::deque<Mark> marks_;  // the oldest is the last before the window
};

// "5s", "2m10s", "3h05m".
std::string duration_text(double seconds);

// One line: "tracing [#####.....] 50 %  1200 tokens/s  about 2m10s left". Shorter than `width` columns: first the bar
// goes, then the middle of `what`, then all of it, then the end of the line. No bar: width 0, which cuts nothing.
// `unit` is empty where there is none worth a name.
std::string progress_line(const std::string& what, const std::string& unit, double share, std::optional<double> rate,
                          std::optional<double> seconds_left, int width);

// When lines are due that tell how far a command has come: every 5 seconds at first, then ever more seldom, some 40 in
// the first hour and 15 more whenever the time grows tenfold. One for all stages of a command.
class ProgressLines {
 public:
  // `now`: seconds since the command began, not falling. When it is true the line counts as told.
  bool due(double now);
  double since_begin() const;  // seconds since this was made

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  double told_ = 0;
};

// A bar with the time left on a terminal, else a line now and then, on standard error. Nothing when quiet.
class Progress {
 public:
  // `total` of `unit`: "tokens", "samples", "MB". `lines`: those of the stages before, where there were some.
  Progress(std::string what, int64_t total, bool quiet, std::string unit,
           std::shared_ptr<ProgressLines> lines = nullptr);
  ~Progress() { done(); }
  // So much was there before: it counts for how far, not for how fast.
  void start_at(int64_t count);
  // What is said from the next line on.
  void say(std::string what) { what_ = std::move(what); }
  void update(int64_t count);
  void done();

 private:
  double now() const;
  std::string what_, unit_;
  int64_t total_;
  bool quiet_, terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  double drawn_at_ = 0;  // when the bar was
  std::shared_ptr<ProgressLines> lines_;
  Pace pace_;
};

}  // namespace signalbox::tools
