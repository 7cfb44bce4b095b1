#include "tests/kills.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "tests/support.h"

namespace signalbox::test {

pid_t start_binary(const std::vector<std::string>& arguments) {
  std::string program = binary();
  std::vector<std::string> words = arguments;
  std::vector<char*> argv = {program.data()};
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // A SIGTERM that comes before the binary is there must not find the tests' own handler.
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, &before);
  const pid_t child = fork();
  if (child != 0) sigprocmask(SIG_SETMASK, &before, nullptr);
  if (child == 0) {
    signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    const int nowhere = open("/dev/null", O_WRONLY);
    if (dup2(nowhere, STDOUT_FILENO) < 0 || dup2(nowhere, STDERR_FILENO) < 0) _exit(9);
    execv(program.c_str(), argv.data());
    _exit(9);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return child;
}

double seconds_of(const std::vector<std::string>& arguments) {
  const auto begin = std::chrono::steady_clock::now();
  int status = 0;
  waitpid(start_binary(arguments), &status, 0);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int run_with_kills(const std::vector<std::string>& arguments, double seconds, uint64_t seed) {
  std::mt19937_64 random(seed);
  int kills = 0;
  for (int attempt = 0; attempt < 200; ++attempt) {
    const pid_t child = start_binary(arguments);
    const double share = std::uniform_real_distribution<>(0.02, 0.5)(random) * (1 + 0.1 * attempt);
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds * share));
    kill(child, random() % 3 == 0 ? SIGTERM : SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return kills;
    if (WIFEXITED(status)) CHECK(WEXITSTATUS(status) == 3);
    ++kills;
  }
  FAIL("expected the command to come to an end");
  return kills;
}

}  // namespace signalbox::test
