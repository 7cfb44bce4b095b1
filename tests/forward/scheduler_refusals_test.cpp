// What a scheduler does with a sink that fails within a batch, and with jobs that can never run.
#include <doctest/doctest.h>

#include <map>
#include <set>
#include <string>

#include "base/error.h"
#include "engine/scheduler.h"
#include "tests/forward/job_runs.h"

namespace {

using namespace signalbox;
using namespace signalbox::test;

// Fails once, in the middle of its second batch, and knows whether a batch is open.
class TornSink : public MemorySink {
 public:
  using MemorySink::MemorySink;
  int n_batches = 0, n_abandoned = 0, n_ended = 0;
  bool open = false;

  void begin(const StepRows& rows) override {
    REQUIRE(!open);
    open = true;
    ++n_batches;
    MemorySink::begin(rows);
  }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    fail();
    MemorySink::take(point, layer, data, width);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override {
    fail();
    MemorySink::take_ids(layer, ids, original_ids, n_slots);
  }
  void end() override {
    REQUIRE(open);
    open = false;
    ++n_ended;
  }
  void abandon() override {
    REQUIRE(open);
    open = false;
    ++n_abandoned;
  }

 private:
  void fail() const {
    if (n_batches == 2 && n_abandoned == 0) throw Error("disk", "expected room, found none");
  }
};

std::vector<Job> few_jobs(const Loaded& model) {
  std::vector<Job> jobs(7);
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].index = static_cast<int64_t>(i);
    jobs[i].prompt = model.prompt("r" + std::to_string(i), 3 + static_cast<int64_t>(i), static_cast<uint32_t>(i));
    jobs[i].task = Generate{4, {}};
  }
  return jobs;
}

}  // namespace

TEST_CASE("scheduler: a sink that fails within a batch is not left in it, and the jobs that wait go on") {
  const Loaded model("gpt_oss");
  const std::vector<Job> jobs = few_jobs(model);
  std::map<int64_t, Result> alone;
  for (const Job& job : jobs) alone[job.index] = run(model, {job}).results.at(job.index);
  // Points that the forward stops for, and routes that come later through a ring.
  for (const char* points : {"logits", "*.router.ids"}) {
    CAPTURE(points);
    TornSink sink(PointSet::parse(points, probe_shape(model.loaded.model)));
    Forward forward(*model.backend, model.loaded.model, model.weights, 0);
    std::map<int64_t, Result> results;
    std::set<int64_t> failed;
    SchedulerEvents events;
    events.on_done = [&](JobId, Result result) { results[result.index] = std::move(result); };
    events.on_failed = [&](JobId, const Failure& failure) {
      CHECK(std::string(failure.error.what()) == "disk: expected room, found none");
      failed.insert(failure.index);
    };
    SchedulerOptions options;
    options.batch = 3;
    Scheduler scheduler(forward, options, 64, events, &sink);
    for (const Job& job : jobs) scheduler.submit(job);
    while (scheduler.step()) {
    }
    CHECK(!sink.open);
    CHECK(sink.n_abandoned == 1);
    CHECK(sink.n_batches == sink.n_ended + 1);
    CHECK(failed.size() == 3);
    CHECK(failed.size() + results.size() == jobs.size());
    for (const auto& [index, result] : results) check_same(result, alone.at(index));
  }
}

TEST_CASE("scheduler: submit refuses what is longer than the model's positions") {
  const Loaded model("gpt_oss");
  const int64_t most = model.loaded.model.max_positions;
  REQUIRE(most > 0);
  Forward forward(*model.backend, model.loaded.model, model.weights, 0);
  Scheduler scheduler(forward, {}, 64, {}, nullptr);
  Job job;
  job.prompt = model.prompt("long", most - 1, 3);
  job.task = Generate{2, {}};
  std::string message;
  try {
    scheduler.submit(job);
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message == "record \"long\": expected at most the model's " + std::to_string(most) + " positions, found " +
                       std::to_string(most - 1) + " given and up to 2 generated tokens");
  job.task = Generate{1, {}};
  CHECK_NOTHROW(scheduler.submit(job));
}
