#include "eval/experiment/speed.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>

#include "eval/experiment/stopwatch.h"

namespace signalbox::eval {

namespace {

// Jobs that are stopped when their time is over.
struct Timed {
  int64_t tokens = 0;                  // rows that were run
  std::map<int64_t, int64_t> emitted;  // by index: tokens that were generated
  std::vector<Result> results;
  double seconds = 0;
};

Timed run_for(Forward& forward, const std::vector<Job>& jobs, RunOptions options, double seconds) {
  Timed timed;
  std::atomic<bool> over{false};
  const std::atomic<bool>* outer = options.interrupted;
  options.interrupted = &over;
  const Clock::time_point start = Clock::now();
  RunEvents events;
  events.on_token = [&](const Job& job, int32_t, const std::string&) { ++timed.emitted[job.index]; };
  events.on_done = [&](Result result) { timed.results.push_back(std::move(result)); };
  events.on_progress = [&](int64_t done) {
    timed.tokens = done;
    timed.seconds = seconds_since(start);
    if (timed.seconds > seconds || (outer && outer->load(std::memory_order_relaxed))) over.store(true);
  };
  run_jobs(forward, jobs, options, events, nullptr);
  return timed;
}

// Each prompt once, to be run without choosing a token.
std::vector<Job> prompts_of(const std::vector<Job>& jobs) {
  std::vector<Job> prompts;
  std::map<const Prompt*, bool> seen;
  for (const Job& job : jobs) {
    const std::shared_ptr<const Prompt>& prompt = job.prefix ? job.prefix : job.prompt;
    if (!seen.emplace(prompt.get(), true).second) continue;
    Job one;
    one.prompt = prompt;
    one.task = Generate{0, {}};
    one.index = static_cast<int64_t>(prompts.size());
    prompts.push_back(std::move(one));
  }
  return prompts;
}

// As many of the jobs as their given tokens fit; references stay with those that refer to them, which follow.
std::vector<Job> within(const std::vector<Job>& jobs, double tokens) {
  std::vector<Job> kept;
  for (const Job& job : jobs) {
    tokens -= static_cast<double>(job.n_given());
    if (tokens < 0 && !kept.empty()) break;
    kept.push_back(job);
  }
  return kept;
}

}  // namespace

EngineSpeed measure_speed(Forward& forward, const std::vector<Job>& jobs, const RunOptions& given_options,
                          double seconds) {
  EngineSpeed speed;
  if (jobs.empty()) return speed;
  const Clock::time_point start = Clock::now();
  RunOptions options = given_options;
  const std::vector<Job> prompts = prompts_of(jobs);
  // The first forward finds weights that nobody has touched yet, and tells how many tokens a step may have.
  RunOptions careful = options;
  careful.chunk = std::min<int64_t>(options.chunk, 32);
  const Timed first = run_for(forward, within(prompts, 32), careful, seconds / 4);
  const double rate = static_cast<double>(first.tokens) / std::max(first.seconds, 1e-6);
  options.chunk = std::clamp<int64_t>(static_cast<int64_t>(rate * seconds / 2), careful.chunk, options.chunk);
  const Timed given = run_for(forward, prompts, options, seconds);
  speed.given_tokens = first.tokens + given.tokens;
  speed.given = static_cast<double>(given.tokens) / std::max(given.seconds, 1e-6);

  const std::vector<Job> mixed = within(jobs, speed.given * seconds);
  Timed both = run_for(forward, mixed, options, 2 * seconds);
  int64_t generated = 0, ended = 0, most = 0;
  for (const auto& [index, n] : both.emitted) generated += n - 1;  // the first comes of a given token
  for (const Result& result : both.results) {
    const Job& job = mixed[static_cast<size_t>(result.index)];
    if (job.max_new() == 0) continue;
    ended += static_cast<int64_t>(result.tokens.size());
    most += job.max_new();
    ++speed.texts;
  }
  // Texts that were broken off are the longer ones: too few ends tell nothing.
  if (speed.texts >= 4 && both.results.size() * 2 >= mixed.size())
    speed.length = static_cast<double>(ended) / static_cast<double>(most);
  const int64_t beside = both.tokens - generated;
  const double left = both.seconds - static_cast<double>(beside) / speed.given;
  speed.given_tokens += beside;
  speed.generated_tokens = generated;
  if (generated > 0 && left > 0.1 * both.seconds) {
    speed.generated = static_cast<double>(generated) / left;
  } else if (both.tokens > 0) {
    speed.given = speed.generated = static_cast<double>(both.tokens) / std::max(both.seconds, 1e-6);
  } else {
    speed.generated = speed.given;
  }
  speed.results = std::move(both.results);
  speed.seconds = seconds_since(start);
  return speed;
}

}  // namespace signalbox::eval
