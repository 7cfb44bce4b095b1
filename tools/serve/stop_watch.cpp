#include "tools/serve/stop_watch.h"

#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <ctime>

namespace signalbox::tools {

namespace {

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);
  return set;
}

// A pipe, a socket or a terminal: its end is the parent's. A file, or /dev/null, has an end from the start.
bool input_tells_end() {
  struct stat found = {};
  return fstat(STDIN_FILENO, &found) == 0 && (S_ISFIFO(found.st_mode) || S_ISSOCK(found.st_mode));
}

}  // namespace

StopWatch::StopWatch(bool exit_with_parent, OnStop on_stop)
    : exit_with_parent_(exit_with_parent), on_stop_(std::move(on_stop)), parent_(getppid()) {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  watches_input_ = exit_with_parent_ && input_tells_end();
  thread_ = std::thread([this] { watch(); });
}

StopWatch::~StopWatch() {
  done_ = true;
  thread_.join();
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

bool StopWatch::parent_gone() const {
  if (!exit_with_parent_) return false;
  if (getppid() != parent_) return true;
  if (!watches_input_) return false;
  pollfd input = {STDIN_FILENO, POLLIN, 0};
  char piece[256];
  return poll(&input, 1, 0) > 0 && (input.revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
         read(STDIN_FILENO, piece, sizeof piece) <= 0;
}

void StopWatch::watch() {
  const sigset_t set = stop_signals();
  int n_signals = 0;
  while (!done_) {
    const timespec wait = {0, 50'000'000};
    if (sigtimedwait(&set, nullptr, &wait) > 0)
      on_stop_(n_signals++ > 0);
    else if (parent_gone())
      return on_stop_(true);
  }
}

}  // namespace signalbox::tools
