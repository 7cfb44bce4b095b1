// What a server watches while jobs run: logits as scoring sees them, a bias, a pause, rows of some jobs alone. None of
// it changes a bit of a result.
#include <doctest/doctest.h>

#include <atomic>
#include <map>

#include "engine/scheduler_core.h"
#include "kernels/logits.h"
#include "tests/forward/job_runs.h"
#include "tests/memory_sink.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

Job generate_job(const Loaded& model, int64_t index, int64_t n_given, int64_t max_tokens, double temperature = 0) {
  Job job;
  job.index = index;
  job.prompt = model.prompt("r" + std::to_string(index), n_given, static_cast<uint32_t>(index) + 1);
  job.task = Generate{max_tokens, {.temperature = temperature, .seed = 3}};
  return job;
}

struct WatchedRun {
  std::map<int64_t, Result> results;
  std::map<size_t, std::vector<int64_t>> shown;     // tokens whose rows were shown
  std::map<size_t, std::vector<double>> log_probs;  // of the next given token, where there is one
  int64_t steps = 0;
};

WatchedRun run_watched(const Loaded& model, const std::vector<Job>& jobs, GroupWatch watch, ProbeSink* sink = nullptr,
                       const std::function<bool()>& on_still = {}) {
  Forward forward(*model.backend, model.loaded.model, model.weights, route_slots(jobs));
  WatchedRun out;
  SchedulerEvents events;
  events.on_done = [&](JobId, Result result) { out.results[result.index] = std::move(result); };
  SchedulerOptions options;
  options.chunk = 7;
  SchedulerCore scheduler(forward, options, 64, events, sink);
  watch.on_logits = [&](size_t place, int64_t token, std::span<const float> logits) {
    out.shown[place].push_back(token);
    const auto& given = jobs[place].prompt->tokens;
    const auto next = static_cast<size_t>(token) + 1;
    if (next < given.size())
      out.log_probs[place].push_back(static_cast<double>(logits[static_cast<size_t>(given[next])]) -
                                     log_sum_exp(logits));
  };
  scheduler.submit(jobs, std::move(watch));
  while (scheduler.step() || (on_still && on_still())) ++out.steps;
  return out;
}

}  // namespace

TEST_CASE("watched jobs: logits are those that scoring sees, and results stay") {
  const Loaded model("mixtral");
  std::vector<Job> jobs = {generate_job(model, 0, 19, 5), generate_job(model, 1, 3, 6, 1),
                           generate_job(model, 2, 11, 4), generate_job(model, 3, 9, 1)};
  Job scored = jobs[2];
  scored.task = Score{};
  const auto plain = run(model, jobs).results;
  const std::vector<double> expected = run(model, {scored}).results.at(2).logprobs;
  GroupWatch watch;
  watch.wishes.resize(4);
  watch.wishes[1].shows_logits = watch.wishes[2].shows_logits = watch.wishes[3].shows_logits = true;
  watch.wishes[2].logits_from = watch.wishes[3].logits_from = 0;
  std::vector<size_t> started;
  watch.on_started = [&](size_t place) { started.push_back(place); };
  const WatchedRun seen = run_watched(model, jobs, watch);
  for (const Job& job : jobs) check_same(seen.results.at(job.index), plain.at(job.index));
  CHECK(started.size() == 4);
  CHECK(seen.shown.count(0) == 0);
  CHECK(seen.shown.at(1) == std::vector<int64_t>{2, 3, 4, 5, 6, 7});
  CHECK(seen.shown.at(2) == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13});
  CHECK(seen.shown.at(3).size() == 9);
  CHECK(seen.log_probs.at(2) == expected);
}

TEST_CASE("watched jobs: a bias decides the choice and nothing else") {
  const Loaded model("mixtral");
  const std::vector<Job> jobs = {generate_job(model, 0, 8, 4), generate_job(model, 1, 8, 4)};
  const auto plain = run(model, jobs).results;
  const int32_t first = plain.at(0).tokens.front();
  GroupWatch watch;
  watch.wishes.resize(2);
  watch.wishes[0].choice = std::make_shared<const ChoiceRules>(ChoiceRules{{{first, -100}}, {}});
  watch.wishes[1].choice = std::make_shared<const ChoiceRules>(ChoiceRules{{{7, 100}}, {}});
  const auto biased = run_watched(model, jobs, watch).results;
  CHECK(biased.at(0).tokens.front() != first);
  CHECK(biased.at(1).tokens == std::vector<int32_t>{7, 7, 7, 7});
  // The hash is of what the model said: that of the first row alone is the same.
  std::vector<Job> short_jobs = {generate_job(model, 0, 8, 1), generate_job(model, 1, 8, 1)};
  CHECK(run_watched(model, short_jobs, watch).results.at(1).logits_hash ==
        run(model, short_jobs).results.at(1).logits_hash);
}

TEST_CASE("watched jobs: held ones stand still, and go on with the same bits") {
  const Loaded model("mixtral");
  const std::vector<Job> jobs = {generate_job(model, 0, 12, 6, 1)};
  const auto held = std::make_shared<std::atomic<bool>>(false);
  GroupWatch watch;
  watch.held = held;
  watch.wishes.resize(1);
  int64_t still = 0;
  watch.on_started = [&](size_t) { *held = true; };
  const auto on_still = [&] {
    if (still++ == 3) *held = false;
    return still <= 4;
  };
  const WatchedRun seen = run_watched(model, jobs, watch, nullptr, on_still);
  CHECK(still >= 4);
  check_same(seen.results.at(0), run(model, jobs).results.at(0));
}

TEST_CASE("watched jobs: a sink takes the rows of those that want it") {
  const Loaded model("mixtral");
  const std::vector<Job> jobs = {generate_job(model, 0, 9, 5), generate_job(model, 1, 14, 3)};
  const PointSet points = PointSet::parse("*.router.ids,*.router.weights", probe_shape(model.loaded.model));
  MemorySink all(points), one(points);
  const auto plain = run(model, jobs, {}, &all).results;
  GroupWatch watch;
  watch.wishes.resize(2);
  watch.wishes[0].recorded = false;
  const auto seen = run_watched(model, jobs, watch, &one).results;
  for (const Job& job : jobs) CHECK(seen.at(job.index).logits_hash == plain.at(job.index).logits_hash);
  CHECK(one.samples.count(0) == 0);
  for (const auto& of_point : all.samples.at(1)) {
    CAPTURE(of_point.first);
    CHECK(one.samples.at(1).at(of_point.first).data == of_point.second.data);
  }
  CHECK(one.samples.at(1).begin()->second.rows() == 17);
}
