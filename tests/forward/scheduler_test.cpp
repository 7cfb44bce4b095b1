// Jobs join a running batch and leave it at any step: no bit of any other job changes, what they held comes back, and
// what goes wrong with one is told of that one.
#include "engine/scheduler.h"

#include <doctest/doctest.h>

#include <functional>
#include <map>
#include <set>
#include <thread>

#include "kernels/shim/shim_backend.h"
#include "tests/forward/job_runs.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

const char* const all_points = "*.router.*,logits,*.expert.out";

// A scheduler that notes everything that is told of its jobs, by index.
class Watched {
 public:
  Watched(const Loaded& model, int32_t n_slots, const SchedulerOptions& options, int64_t n_blocks = 64,
          ProbeSink* sink = nullptr)
      : forward_(*model.backend, model.loaded.model, model.weights, n_slots),
        scheduler(forward_, options, n_blocks, events(), sink) {}

  JobId submit(const Job& job) { return submit(std::vector<Job>{job}).front(); }
  std::vector<JobId> submit(const std::vector<Job>& jobs) {
    std::vector<JobId> ids;
    const JobId first = scheduler.submit(jobs);
    for (size_t i = 0; i < jobs.size(); ++i) {
      ids.push_back(first + static_cast<JobId>(i));
      index_of[ids.back()] = jobs[i].index;
    }
    return ids;
  }
  // Steps that were run.
  int finish() {
    int steps = 0;
    while (scheduler.step()) ++steps;
    check_empty();
    return steps;
  }
  void check_empty() {
    const SchedulerLoad load = scheduler.load();
    CHECK(load.n_running == 0);
    CHECK(load.n_waiting == 0);
    CHECK(load.n_reserved == 0);
    CHECK(load.n_free == load.n_blocks);
    for (const auto& [id, index] : index_of)
      CHECK(results.count(index) + failures.count(index) + cancelled.count(index) == 1);
  }

  std::map<int64_t, Result> results;
  std::map<int64_t, std::string> failures;
  std::set<int64_t> cancelled;
  std::map<int64_t, std::vector<int32_t>> tokens;  // as they came
  std::map<JobId, int64_t> index_of;
  int64_t n_tokens = 0;
  std::function<void(JobId)> on_token;  // and more, where a test wants it

 private:
  SchedulerEvents events() {
    SchedulerEvents told;
    told.on_done = [&](JobId id, Result result) {
      CHECK(result.index == index_of.at(id));
      const int64_t index = result.index;
      CHECK(results.emplace(index, std::move(result)).second);
    };
    told.on_failed = [&](JobId id, const Failure& failure) {
      CHECK(failure.index == index_of.at(id));
      CHECK(failures.emplace(failure.index, failure.message()).second);
    };
    told.on_cancelled = [&](JobId id) { CHECK(cancelled.insert(index_of.at(id)).second); };
    told.on_token = [&](JobId id, const Job& job, int32_t token, const std::string&) {
      tokens[job.index].push_back(token);
      if (on_token) on_token(id);
    };
    told.on_progress = [&](int64_t n) { n_tokens = n; };
    return told;
  }

  Forward forward_;

 public:
  Scheduler scheduler;
};

// Jobs of every kind: what is run of given tokens alone, generated greedily and drawn, scored; without edits and with.
std::vector<Job> jobs_of_all_kinds(const Loaded& model) {
  const Plan ban = model.plan(R"([{"op":"deactivate","mode":"ban","experts":[0]}])"),
             random = model.plan(R"([{"op":"misroute","policy":"random","tokens":{"phase":"generated"}}])"),
             late = model.plan(R"([{"op":"misroute","policy":"next_best","tokens":{"positions":"20:"}}])"),
             point = model.plan(R"([{"op":"ablate","point":"resid_mid","layers":"1","value":"zero"}])");
  const Sampling drawn = {.temperature = 1, .top_p = 0.9, .seed = 5};
  std::vector<Job> jobs;
  const auto add = [&](std::shared_ptr<const Prompt> prompt, const Plan& plan, std::variant<Generate, Score> task,
                       uint32_t sample = 0) {
    Job job;
    job.index = static_cast<int64_t>(jobs.size());
    job.prompt = std::move(prompt);
    job.plan = plan;
    job.sample = sample;
    job.task = std::move(task);
    jobs.push_back(std::move(job));
  };
  const auto long_prompt = model.prompt("a", 41, 1), short_prompt = model.prompt("b", 3, 2);
  add(long_prompt, nullptr, Generate{6, {}});
  add(long_prompt, random, Generate{5, drawn}, 1);
  add(short_prompt, nullptr, Generate{11, drawn}, 2);
  add(short_prompt, point, Generate{7, {}});
  add(model.prompt("c", 33, 3), ban, Score{});
  add(model.prompt("d", 25, 4), nullptr, Score{12, {}});
  add(model.prompt("e", 30, 5), late, Generate{});
  return jobs;
}

// Edits that cannot be applied to the token at a position: as many experts as are active are left, and the route is
// sent to one that is not.
Plan failing_plan(const Loaded& model, int64_t position) {
  const int32_t k = model.loaded.model.n_active(), n = static_cast<int32_t>(model.loaded.model.n_experts());
  std::string experts;
  for (int32_t e = k; e < n; ++e) experts += (e > k ? "," : "") + std::to_string(e);
  const std::string tokens =
      R"("tokens":{"positions":")" + std::to_string(position) + ":" + std::to_string(position + 1) + "\"}";
  return model.plan(R"([{"op":"deactivate","mode":"ban","experts":[)" + experts + "]," + tokens +
                    R"(},{"op":"misroute","policy":"shift","by":1,)" + tokens + "}]");
}

SchedulerOptions small_steps() {
  SchedulerOptions options;
  options.batch = 4;
  options.chunk = 9;
  return options;
}

std::map<int64_t, std::map<std::string, MemorySink::Values>> recorded_alone(const Loaded& model,
                                                                            const std::vector<Job>& jobs) {
  MemorySink sink(PointSet::parse(all_points, probe_shape(model.loaded.model)));
  for (const Job& job : jobs) run(model, {job}, {}, &sink);
  return sink.samples;
}

void check_same_rows(const std::map<std::string, MemorySink::Values>& got,
                     const std::map<std::string, MemorySink::Values>& want) {
  REQUIRE(got.size() == want.size());
  for (const auto& entry : want) {
    const std::string& point = entry.first;
    const MemorySink::Values& values = entry.second;
    CAPTURE(point);
    CHECK(got.at(point).data == values.data);
  }
}

}  // namespace

TEST_CASE("scheduler: a job that joins at any step changes no bit, and has its own") {
  for (const char* name : {"deepseek_v2_lite", "gpt_oss"}) {
    CAPTURE(std::string(name));
    const Loaded model(name);
    const std::vector<Job> jobs = jobs_of_all_kinds(model);
    const auto alone = run_alone(model, jobs);
    const int32_t n_slots = route_slots(jobs);
    for (size_t joins = 0; joins < jobs.size(); ++joins) {
      CAPTURE(joins);
      int n_steps = 1;
      for (int at = 0; at <= n_steps; ++at) {
        CAPTURE(at);
        Watched watched(model, n_slots, small_steps());
        for (size_t i = 0; i < jobs.size(); ++i)
          if (i != joins) watched.submit(jobs[i]);
        int steps = 0;
        while (steps < at && watched.scheduler.step()) ++steps;
        if (at == 0) n_steps = 1000;
        n_steps = steps < at ? steps : n_steps;  // the last time it joins when the others are done
        watched.submit(jobs[joins]);
        watched.finish();
        CHECK(watched.failures.empty());
        check_same(watched.results, alone);
        for (const auto& [index, result] : watched.results) CHECK(watched.tokens[index] == result.tokens);
      }
      CHECK(n_steps > 10);
    }
  }
}

TEST_CASE("scheduler: rows that a sink is handed do not depend on who joins") {
  const Loaded model("deepseek_v2_lite");
  const std::vector<Job> jobs = jobs_of_all_kinds(model);
  const auto alone = recorded_alone(model, jobs);
  for (const size_t joins : {size_t{1}, size_t{4}}) {
    for (int at = 0; at < 30; at += 3) {
      MemorySink sink(PointSet::parse(all_points, probe_shape(model.loaded.model)));
      Watched watched(model, route_slots(jobs), small_steps(), 64, &sink);
      for (size_t i = 0; i < jobs.size(); ++i)
        if (i != joins) watched.submit(jobs[i]);
      for (int step = 0; step < at; ++step) watched.scheduler.step();
      watched.submit(jobs[joins]);
      watched.finish();
      REQUIRE(sink.samples.size() == jobs.size());
      for (const Job& job : jobs) check_same_rows(sink.samples.at(job.index), alone.at(job.index));
    }
  }
}

TEST_CASE("scheduler: groups share within, run side by side, and equal separate runs") {
  const Loaded model("deepseek_v2_lite");
  const auto prefix = model.prompt("p", 50, 8);
  const Plan worst = model.plan(R"([{"op":"misroute","policy":"worst","tokens":{"positions":"30:"}}])");
  std::vector<Job> jobs;
  for (int64_t i = 0; i < 8; ++i) {
    Job job;
    job.index = i;
    job.prompt = model.prompt("p", 1 + i % 3, static_cast<uint32_t>(i), prefix->tokens);
    job.prefix = prefix;
    job.plan = i % 2 ? worst : nullptr;
    if (i < 4)
      job.task = Generate{4, {}};
    else
      job.task = Score{50, 4};
    if (i >= 4) job.prompt = model.prompt("p", 3, static_cast<uint32_t>(i), prefix->tokens);
    jobs.push_back(job);
  }
  const auto alone = run_alone(model, jobs);
  const std::vector<Job> first(jobs.begin(), jobs.begin() + 4), second(jobs.begin() + 4, jobs.end());
  for (const int64_t n_blocks : {2, 3, 5, 64}) {
    for (int at = 0; at < 12; ++at) {
      Watched watched(model, 0, small_steps(), n_blocks);
      watched.submit(first);
      for (int step = 0; step < at; ++step) watched.scheduler.step();
      watched.submit(second);
      watched.finish();
      check_same(watched.results, alone);
      const int64_t separately = planned_tokens(first) + planned_tokens(second);
      if (n_blocks == 64) CHECK(watched.n_tokens == separately);
    }
  }
}

TEST_CASE("scheduler: a job that is cancelled at any step leaves no mark") {
  const Loaded model("gpt_oss");
  std::vector<Job> jobs = jobs_of_all_kinds(model);
  const auto alone = run_alone(model, jobs);
  for (const bool together : {false, true}) {
    for (size_t leaves = 0; leaves < jobs.size(); ++leaves) {
      bool ended = false;
      for (int at = 0; !ended; ++at) {
        CAPTURE(leaves);
        CAPTURE(at);
        Watched watched(model, route_slots(jobs), small_steps());
        std::vector<JobId> ids;
        if (together) {
          ids = watched.submit(jobs);
        } else {
          for (const Job& job : jobs) ids.push_back(watched.submit(job));
        }
        for (int step = 0; step < at; ++step) watched.scheduler.step();
        ended = watched.results.contains(jobs[leaves].index);
        watched.scheduler.cancel(ids[leaves]);
        watched.scheduler.cancel(ids[leaves]);
        watched.scheduler.cancel(ids.back() + 7);  // nobody
        watched.scheduler.cancel(-1);
        watched.finish();
        auto expected = alone;
        if (!ended) expected.erase(jobs[leaves].index);
        CHECK(watched.cancelled == (ended ? std::set<int64_t>{} : std::set<int64_t>{jobs[leaves].index}));
        check_same(watched.results, expected);
        REQUIRE(at < 200);
      }
    }
  }
}

TEST_CASE("scheduler: what only cancelled jobs held comes back at once") {
  Loaded model("gpt_oss");
  model.loaded.model.max_positions = 0;  // the memory is what there is little of
  const auto prompt = model.prompt("a", 90, 1);
  std::vector<Job> jobs;
  for (int64_t i = 0; i < 3; ++i) {
    Job job;
    job.index = i;
    job.prompt = prompt;
    job.sample = static_cast<uint32_t>(i);
    job.task = Generate{6, {.temperature = 1}};
    jobs.push_back(job);
  }
  Job other = jobs[0];
  other.index = 7;
  other.prompt = model.prompt("b", 40, 2);
  const Result alone = run(model, {other}).results.at(7);
  for (int at = 0; at < 15; ++at) {
    CAPTURE(at);
    Watched watched(model, 0, small_steps());
    const auto ids = watched.submit(jobs);
    watched.submit(other);
    for (int step = 0; step < at; ++step) watched.scheduler.step();
    REQUIRE(watched.results.empty());
    watched.scheduler.cancel(ids[0]);
    watched.scheduler.cancel(ids[1]);
    watched.scheduler.step();
    const bool prefix_held = watched.scheduler.load().n_reserved > KvPool::blocks_for(46);
    CHECK(prefix_held);  // for the third
    watched.scheduler.cancel(ids[2]);
    watched.scheduler.step();
    CHECK(watched.scheduler.load().n_reserved == (watched.results.empty() ? KvPool::blocks_for(46) : 0));
    watched.finish();
    CHECK(watched.cancelled == std::set<int64_t>{0, 1, 2});
    REQUIRE(watched.results.size() == 1);
    check_same(watched.results.at(7), alone);
  }
}

TEST_CASE("scheduler: jobs may be submitted and cancelled by what is told of others, and cancelled by other threads") {
  const Loaded model("gpt_oss");
  const std::vector<Job> jobs = jobs_of_all_kinds(model);
  const auto alone = run_alone(model, jobs);
  Watched watched(model, route_slots(jobs), small_steps());
  const JobId first = watched.submit(jobs[0]), second = watched.submit(jobs[1]);
  watched.on_token = [&](JobId id) {
    if (id != first) return;
    watched.scheduler.cancel(first);
    watched.submit(jobs[2]);
  };
  std::thread([&] { watched.scheduler.cancel(second); }).join();
  watched.finish();
  CHECK(watched.cancelled == std::set<int64_t>{0, 1});
  CHECK(watched.tokens[0] == std::vector<int32_t>{alone.at(0).tokens[0]});
  CHECK(watched.results.size() == 1);
  watched.submit(jobs[3]);
  watched.finish();
  check_same(watched.results.at(2), alone.at(2));
  check_same(watched.results.at(3), alone.at(3));
}

TEST_CASE("scheduler: what can never run, and what the queue has no place for, is refused") {
  Loaded model("gpt_oss");
  model.loaded.model.max_positions = 0;  // the memory is what there is little of
  const auto job_of = [&](int64_t index, int64_t n_given, int64_t n_new, const Plan& plan = nullptr) {
    Job job;
    job.index = index;
    job.prompt = model.prompt("r" + std::to_string(index), n_given, 1);
    job.task = Generate{n_new, {}};
    job.plan = plan;
    return job;
  };
  SchedulerOptions options = small_steps();
  options.max_waiting = 3;
  options.batch = 2;
  Watched watched(model, 0, options, 3);
  CHECK_THROWS_WITH_AS(
      watched.submit(job_of(0, 90, 7)),
      "record \"r0\": expected at most 96 positions, the room for keys and values, found 97 wanted: 90 "
      "given and up to 7 generated tokens",
      Error);
  const int32_t k = model.loaded.model.n_active();
  const Plan wide = model.plan(R"([{"op":"top_k","k":)" + std::to_string(k + 1) + "}]");
  CHECK_THROWS_WITH_AS(watched.submit(job_of(0, 5, 7, wide)),
                       ("record \"r0\": edits: expected at most " + std::to_string(k) + " experts per token, found " +
                        std::to_string(k + 1))
                           .c_str(),
                       Error);
  CHECK_THROWS_WITH_AS(watched.submit(job_of(0, 0, 7)), "record \"r0\": expected at least one token, found none",
                       Error);
  // A group is taken whole or not at all.
  CHECK_THROWS_AS(watched.submit({job_of(0, 5, 2), job_of(1, 90, 7)}), Error);
  CHECK(watched.scheduler.load().n_waiting == 0);
  watched.submit({job_of(0, 90, 6), job_of(1, 90, 6)});
  CHECK_THROWS_WITH_AS(watched.submit({job_of(2, 5, 2), job_of(3, 5, 2)}),
                       "queue: expected at most 3 waiting jobs, found 2 and 2 more", QueueFull);
  watched.submit(job_of(2, 5, 2));
  CHECK_THROWS_AS(watched.submit(job_of(3, 5, 2)), QueueFull);
  // Each of the first two takes all memory: they run one after the other, and the queue has a place again.
  watched.scheduler.step();
  CHECK(watched.scheduler.load().n_running == 1);
  CHECK(watched.scheduler.load().n_waiting == 2);
  watched.submit(job_of(3, 5, 2));
  watched.finish();
  CHECK(watched.results.size() == 4);
}

TEST_CASE("scheduler: a job that fails ends alone") {
  const Loaded model("qwen3_moe");
  const std::vector<Job> good = jobs_of_all_kinds(model);
  const auto alone = run_alone(model, good);
  const auto alone_rows = recorded_alone(model, good);
  const Plan banned = failing_plan(model, 4);
  // Weights beyond f32 in the first layer: the next router sees no number.
  const Plan huge = model.plan(R"([
      {"op":"scale_expert","by":1e30,"layers":"0","experts":[0,1,2,3,4,5,6,7],"tokens":{"positions":"2:3"}},
      {"op":"scale_expert","by":1e30,"layers":"0","experts":[0,1,2,3,4,5,6,7],"tokens":{"positions":"2:3"}}])");
  const auto bad_job = [&](int64_t index, const Plan& plan, int64_t n_given) {
    Job job;
    job.index = index;
    job.prompt = model.prompt("bad" + std::to_string(index), n_given, static_cast<uint32_t>(index));
    job.plan = plan;
    job.task = Generate{20, {}};
    return job;
  };
  // Two fail by their own edits, perhaps in one forward; two of a group that share an edited prefix; one has no
  // numbers.
  std::vector<Job> bad = {bad_job(10, banned, 40), bad_job(11, banned, 40), bad_job(12, huge, 6)};
  std::vector<Job> sharing = {bad_job(13, banned, 40), bad_job(14, banned, 40)};
  sharing[1].prompt = sharing[0].prompt;
  std::map<int64_t, std::string> messages;
  for (const auto* list : {&bad, &sharing}) {
    for (const Job& job : *list) {
      try {
        run(model, {job});
      } catch (const Error& error) {
        messages[job.index] = error.what();
      }
    }
  }
  REQUIRE(messages.size() == 5);
  CHECK(messages[10].find("bad10") != std::string::npos);
  CHECK(messages[12].find("expected finite") != std::string::npos);
  for (const bool recorded : {false, true}) {
    for (int at = 0; at < 25; ++at) {
      CAPTURE(at);
      MemorySink sink(PointSet::parse(all_points, probe_shape(model.loaded.model)));
      SchedulerOptions options = small_steps();
      options.batch = 12;
      options.chunk = 80;
      if (at % 2) options = small_steps();
      Watched watched(model, route_slots(good), options, 64, recorded ? &sink : nullptr);
      for (const Job& job : good) watched.submit(job);
      for (int step = 0; step < at; ++step) watched.scheduler.step();
      for (const Job& job : bad) watched.submit(job);
      watched.submit(sharing);
      watched.finish();
      CHECK(watched.failures == messages);
      check_same(watched.results, alone);
      if (recorded)
        for (const Job& job : good) check_same_rows(sink.samples.at(job.index), alone_rows.at(job.index));
    }
  }
}

TEST_CASE("scheduler: jobs whose reference failed or was cancelled fail") {
  const Loaded model("gpt_oss");
  const auto prompt = model.prompt("a", 40, 1);
  const auto job_of = [&](int64_t index, int64_t reference, const Plan& plan) {
    Job job;
    job.index = index;
    job.prompt = prompt;
    job.plan = plan;
    job.task = Score{1, reference};
    return job;
  };
  const Plan banned = failing_plan(model, 30);
  const Plan worst = model.plan(R"([{"op":"misroute","policy":"worst"}])");
  const std::string message = "record \"a\": reference: expected the results of record \"a\", found that it ";
  {
    Watched watched(model, 0, small_steps());
    watched.submit({job_of(0, 0, banned), job_of(1, 0, nullptr), job_of(2, 1, worst), job_of(3, 3, nullptr)});
    watched.finish();
    CHECK(watched.failures.size() == 3);
    CHECK(watched.failures[1] == message + "failed");
    CHECK(watched.failures[2] == message + "failed");
    CHECK(watched.results.contains(3));
  }
  for (int at = 0; at < 5; ++at) {
    Watched watched(model, 0, small_steps());
    const auto ids = watched.submit({job_of(0, 0, nullptr), job_of(1, 0, worst)});
    for (int step = 0; step < at; ++step) watched.scheduler.step();
    watched.scheduler.cancel(ids[0]);
    watched.finish();
    CHECK(watched.cancelled == std::set<int64_t>{0});
    CHECK(watched.failures == std::map<int64_t, std::string>{{1, message + "was cancelled"}});
  }
}

// Fails once, at its n-th batch.
class FailingSink : public MemorySink {
 public:
  FailingSink(PointSet points, int fails_at) : MemorySink(std::move(points)), fails_at_(fails_at) {}
  void begin(const StepRows& rows) override {
    if (n_++ == fails_at_) throw Error("disk", "expected room, found none");
    MemorySink::begin(rows);
  }

 private:
  int fails_at_, n_ = 0;
};

TEST_CASE("scheduler: where nobody can tell whose fault it is, all of the forward fail and those that wait go on") {
  const Loaded model("gpt_oss");
  const std::vector<Job> jobs = jobs_of_all_kinds(model);
  const auto alone = run_alone(model, jobs);
  FailingSink sink(PointSet::parse("logits", probe_shape(model.loaded.model)), 0);
  SchedulerOptions options;
  options.batch = 3;
  Watched watched(model, route_slots(jobs), options, 64, &sink);
  for (const Job& job : jobs) watched.submit(job);
  watched.finish();
  const std::string message =
      "disk: expected room, found none (3 jobs of one forward ended by this, which does not tell whose fault it was)";
  CHECK(watched.failures == std::map<int64_t, std::string>{{0, message}, {1, message}, {2, message}});
  auto expected = alone;
  for (int64_t i = 0; i < 3; ++i) expected.erase(i);
  check_same(watched.results, expected);
}

TEST_CASE("scheduler: each job may have a rule of its own for where its text ends") {
  const Loaded model("gpt_oss");
  Job job;
  job.prompt = model.prompt("a", 12, 3);
  job.task = Generate{8, {}};
  const Result whole = run(model, {job}).results.at(0);
  REQUIRE(whole.tokens.size() == 8);
  const auto rule = std::make_shared<StopRule>();
  rule->stop_tokens = {whole.tokens[3]};
  const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[3]) - whole.tokens.begin();
  SchedulerOptions options = small_steps();
  options.stop_tokens = {whole.tokens[0]};
  Watched watched(model, 0, options);
  Job own = job;
  own.index = 1;
  own.task = Generate{8, {}, rule};
  Job ignoring = own;
  ignoring.index = 2;
  ignoring.task = Generate{8, {}, std::make_shared<StopRule>(StopRule{rule->stop_tokens, {}, true})};
  for (const Job& one : {job, own, ignoring}) watched.submit(one);
  watched.finish();
  CHECK(watched.results.at(0).tokens.size() == 1);
  CHECK(watched.results.at(0).finish_reason == "eos");
  CHECK(watched.results.at(1).tokens.size() == static_cast<size_t>(first) + 1);
  CHECK(watched.results.at(1).finish_reason == "eos");
  CHECK(watched.results.at(2).tokens == whole.tokens);
  CHECK(watched.results.at(2).finish_reason == "length");
}

TEST_CASE("scheduler: on a device with memory of its own, joining and leaving change no bit either" *
          doctest::test_suite("repeats: the same on another backend")) {
  Loaded model("deepseek_v2_lite");
  CudaOptions device;
  device.invariant = true;
  model.move_to(make_shim_backend(device));
  std::vector<Job> jobs = jobs_of_all_kinds(model);
  jobs.resize(4);
  const auto alone = run_alone(model, jobs);
  for (const int at : {1, 7}) {
    Watched watched(model, route_slots(jobs), small_steps());
    watched.submit(jobs[0]);
    const JobId leaves = watched.submit(jobs[1]);
    for (int step = 0; step < at; ++step) watched.scheduler.step();
    watched.submit(jobs[2]);
    watched.scheduler.step();
    watched.scheduler.cancel(leaves);
    watched.submit(jobs[3]);
    watched.finish();
    for (const int64_t index : {0, 2, 3}) check_same(watched.results.at(index), alone.at(index));
  }
}
