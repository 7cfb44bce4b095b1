#include "eval/score/judge_process.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>

#include "base/error.h"

extern char** environ;

namespace signalbox::eval {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kept_complaint = 64 << 10;

class File {
 public:
  explicit File(int fd = -1) : fd_(fd) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { close(); }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void set(int fd) { close(), fd_ = fd; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

// The reading and the writing end; neither is inherited. Never one of the numbers 0, 1, 2, which the child's own take.
void make_pipe(File& read_end, File& write_end, const std::string& where) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw Error(where, std::string("cannot make a pipe: ") + std::strerror(errno));
  for (int i : {0, 1}) {
    if (ends[i] > 2) continue;
    const int moved = ::fcntl(ends[i], F_DUPFD_CLOEXEC, 3);
    const int code = errno;
    ::close(ends[i]);
    ends[i] = moved;
    if (moved < 0) {
      if (ends[1 - i] >= 0) ::close(ends[1 - i]);
      throw Error(where, std::string("cannot make a pipe: ") + std::strerror(code));
    }
  }
  read_end.set(ends[0]);
  write_end.set(ends[1]);
}

// A write to a pipe that nobody reads raises SIGPIPE; for the life of this it stays with this thread and is dropped.
class PipeSignalBlocked {
 public:
  PipeSignalBlocked() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~PipeSignalBlocked() {
    const timespec now{};
    if (!was_pending_)
      while (sigtimedwait(&pipe_, nullptr, &now) == -1 && errno == EINTR) {
      }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  const sigset_t& before() const { return before_; }

 private:
  sigset_t pipe_, before_;
  bool was_pending_ = false;
};

// The environment with these variables in the place of its own.
std::vector<std::string> environment(const JudgeVariables& variables) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view one = *entry;
    const std::string_view name = one.substr(0, one.find('='));
    if (name != "SIGNALBOX_ID" && name != "SIGNALBOX_PROMPT") out.emplace_back(one);
  }
  for (const auto& [name, value] : variables) out.push_back(name + "=" + value);
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

// One run of a command: started in its own process group, killed and reaped at the latest when this dies.
class Child {
 public:
  Child(const std::vector<std::string>& command, const JudgeVariables& with, const std::string& where,
        const sigset_t& mask) {
    File child_in, child_out, child_error;
    make_pipe(child_in, in, where);
    make_pipe(out, child_out, where);
    make_pipe(error, child_error, where);
    std::vector<std::string> argv = command, variables = environment(with);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, child_in.get(), 0);
    posix_spawn_file_actions_adddup2(&actions, child_out.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, child_error.get(), 2);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t defaults;
    sigemptyset(&defaults);
    for (int number : {SIGPIPE, SIGINT, SIGTERM, SIGUSR1}) sigaddset(&defaults, number);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setsigmask(&attributes, &mask);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    const int code = posix_spawnp(&pid_, argv.front().c_str(), &actions, &attributes, pointers(argv).data(),
                                  pointers(variables).data());
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (code != 0) {
      pid_ = -1;
      throw Error(where, "expected a program that runs, found \"" + command.front() + "\": " + std::strerror(code));
    }
    for (File* end : {&in, &out, &error}) ::fcntl(end->get(), F_SETFL, ::fcntl(end->get(), F_GETFL) | O_NONBLOCK);
  }
  ~Child() {
    if (pid_ < 0) return;
    kill();
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
  }

  void kill() { ::kill(-pid_, SIGKILL); }

  // The status, once the command has ended.
  std::optional<int> ended() {
    int status = 0;
    pid_t found;
    while ((found = ::waitpid(pid_, &status, WNOHANG)) < 0 && errno == EINTR) {
    }
    if (found != pid_) return std::nullopt;
    pid_ = -1;
    return status;
  }

  File in, out, error;

 private:
  pid_t pid_ = -1;
};

// Reads what there is; closes at the end.
void read_some(File& file, std::string& into) {
  char buffer[16 << 10];
  const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return file.close();
  if (n > 0) into.append(buffer, static_cast<size_t>(n));
}

void write_some(File& file, std::string_view& text) {
  const ssize_t n = ::write(file.get(), text.data(), text.size());
  if (n > 0) text.remove_prefix(static_cast<size_t>(n));
  if (text.empty() || (n < 0 && errno != EAGAIN && errno != EINTR)) file.close();  // EPIPE: it does not read on
}

std::string last_line(std::string_view text) {
  while (!text.empty() && std::strchr(" \r\n\t", text.back())) text.remove_suffix(1);
  return std::string(text.substr(text.rfind('\n') + 1));
}

}  // namespace

std::string with_complaint(const std::string& reason, const std::string& said) {
  const std::string line = last_line(said);
  return line.empty() ? reason : reason + "; it said: " + line;
}

JudgeOutput run_judge_process(const JudgeRequest& request, const std::string& where) {
  const PipeSignalBlocked blocked;
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(request.timeout_seconds));
  JudgeOutput output;
  std::string& said = output.said;
  std::string& complaint = output.complaint;
  Child child(request.command, request.variables, where, blocked.before());
  std::string_view text = request.input;
  if (text.empty()) child.in.close();
  const auto check_time = [&] {
    if (Clock::now() < deadline) return;
    char limit[32];
    std::snprintf(limit, sizeof limit, "%g", request.timeout_seconds);
    throw Error(where, with_complaint("expected " + request.wanted + " within " + limit + " s, found none", complaint));
  };
  // Of a single score only the beginning is looked at; of a complaint the end.
  const auto read_output = [&] {
    read_some(child.out, said);
    if (said.size() <= request.max_output) return;
    if (!request.whole_output) return void(said.resize(request.max_output));
    throw Error(where, "expected at most " + std::to_string(request.max_output >> 20) +
                           " MiB on its standard output, found more");
  };
  const auto read_complaint = [&] {
    read_some(child.error, complaint);
    if (complaint.size() > kept_complaint) complaint.erase(0, complaint.size() - kept_complaint);
  };
  std::optional<int> status;
  while (child.out.open() || child.error.open() || !status) {
    check_time();
    if (!status) status = child.ended();
    pollfd waiting[3];
    nfds_t n = 0;
    if (child.in.open()) waiting[n++] = {child.in.get(), POLLOUT, 0};
    if (child.out.open()) waiting[n++] = {child.out.get(), POLLIN, 0};
    if (child.error.open()) waiting[n++] = {child.error.get(), POLLIN, 0};
    // Short, since the end of the command itself wakes nobody.
    if (::poll(waiting, n, 5) <= 0) {
      // Once it has ended and nothing more is there, what keeps its output open is somebody else.
      if (status) break;
      continue;
    }
    for (nfds_t i = 0; i < n; ++i) {
      if (waiting[i].revents == 0) continue;
      if (waiting[i].fd == child.in.get())
        write_some(child.in, text);
      else if (waiting[i].fd == child.out.get())
        read_output();
      else
        read_complaint();
    }
  }
  if (WIFSIGNALED(*status))
    throw Error(where,
                with_complaint("expected exit code 0, found signal " + std::to_string(WTERMSIG(*status)), complaint));
  if (WEXITSTATUS(*status) != 0)
    throw Error(where,
                with_complaint("expected exit code 0, found " + std::to_string(WEXITSTATUS(*status)), complaint));
  return output;
}

}  // namespace signalbox::eval
