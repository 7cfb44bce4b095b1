#include "tools/terminal/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/display_width.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

namespace {

constexpr double window_seconds = 30, window_share = 0.25;
constexpr double least_seconds = 1;   // before a pace is told
constexpr double bar_interval = 0.1;  // between two drawings of the bar
constexpr double line_interval = 5;   // between two lines, at first
constexpr double line_share = 0.14;   // later: of the elapsed time
constexpr double settled_seconds = 15, settled_share = 0.01;
constexpr int bar_width = 30;

}  // namespace

std::string duration_text(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  char text[32];
  if (s >= 3600) {
    std::snprintf(text, sizeof text, "%ldh%02ldm", static_cast<long>(s / 3600), static_cast<long>(s / 60 % 60));
  } else if (s >= 60) {
    std::snprintf(text, sizeof text, "%ldm%02lds", static_cast<long>(s / 60), static_cast<long>(s % 60));
  } else {
    std::snprintf(text, sizeof text, "%lds", static_cast<long>(s));
  }
  return text;
}

void Pace::add(double now, int64_t count) {
  if (!first_) first_ = {now, count};
  marks_.push_back({now, count});
  const double window = std::max(window_seconds, window_share * (now - first_->time));
  while (marks_.size() > 2 && now - marks_[1].time >= window) marks_.pop_front();
}

std::optional<double> Pace::rate() const {
  if (marks_.size() < 2) return std::nullopt;
  const double seconds = marks_.back().time - marks_.front().time;
  const int64_t count = marks_.back().count - marks_.front().count;
  if (seconds < least_seconds || count <= 0) return std::nullopt;
  return static_cast<double>(count) / seconds;
}

bool Pace::tells_end(int64_t total) const {
  if (!first_) return false;
  return marks_.back().time - first_->time >= settled_seconds ||
         static_cast<double>(marks_.back().count - first_->count) >=
             settled_share * static_cast<double>(total - first_->count);
}

double ProgressLines::since_begin() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

bool ProgressLines::due(double now) {
  if (now - told_ < std::max(line_interval, line_share * now)) return false;
  told_ = now;
  return true;
}

std::string progress_line(const std::string& what, const std::string& unit, double share, std::optional<double> rate,
                          std::optional<double> seconds_left, int width) {
  char text[64];
  std::snprintf(text, sizeof text, "%.0f %%", 100 * share);
  std::string end = text;
  if (rate) {
    // Slow things are told by the minute.
    const bool slow = *rate < 1;
    std::snprintf(text, sizeof text, "  %.*f", *rate < 10 ? 1 : 0, slow ? 60 * *rate : *rate);
    end += text + (unit.empty() ? "" : " " + unit) + (slow ? "/min" : "/s");
  }
  end += "  " + (seconds_left ? "about " + duration_text(*seconds_left) : std::string("unknown time")) + " left";
  if (width == 0) return what + ": " + end;
  std::string bar(static_cast<size_t>(share * bar_width), '#');
  bar.resize(bar_width, '.');
  // One column stays free: a terminal may go to the next line behind a character in the last.
  const auto fits = [&](const std::string& line) { return static_cast<int>(display_width(line)) < width; };
  const std::string whole = what + " [" + bar + "] " + end, bare = what + " " + end;
  if (fits(whole)) return whole;
  if (fits(bare)) return bare;
  const int room = width - 2 - static_cast<int>(display_width(end));
  const std::string cut = room >= 5 ? cut_in_the_middle(what, static_cast<size_t>(room)) + " " + end : end;
  return std::string(beginning_of(cut, static_cast<size_t>(std::max(0, width - 1))));
}

Progress::Progress(std::string what, int64_t total, bool quiet, std::string unit, std::shared_ptr<ProgressLines> lines)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(std::max<int64_t>(total, 1)),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      lines_(lines ? std::move(lines) : std::make_shared<ProgressLines>()) {
  pace_.add(0, 0);
}

double Progress::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::start_at(int64_t count) {
  pace_ = {};
  pace_.add(now(), count);
}

void Progress::update(int64_t count) {
  if (quiet_) return;
  const double at = now();
  if (terminal_ ? at - drawn_at_ < bar_interval : !lines_->due(lines_->since_begin())) return;
  drawn_at_ = at;
  pace_.add(at, count);
  const std::optional<double> rate = pace_.rate();
  std::optional<double> left;
  if (rate && pace_.tells_end(total_)) left = static_cast<double>(std::max<int64_t>(0, total_ - count)) / *rate;
  const double share = std::min(1.0, static_cast<double>(count) / static_cast<double>(total_));
  const std::string line = progress_line(what_, unit_, share, rate, left, terminal_width(STDERR_FILENO));
  std::fprintf(stderr, terminal_ ? "\r%s\033[K" : "%s\n", line.c_str());
  drawn_ = terminal_;
  std::fflush(stderr);
}

void Progress::done() {
  if (drawn_) std::fprintf(stderr, "\r\033[K");
  drawn_ = false;
}

}  // namespace signalbox::tools
