// Runs of jobs on the small models of tests/goldens, shared by the tests of sharing and of the scheduler.
#pragma once
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/device_weights.h"
#include "engine/runner.h"
#include "loaders/model/load.h"
#include "tests/memory_sink.h"
#include "tests/support.h"

namespace signalbox::test {

using Plan = std::shared_ptr<const EditPlan>;

struct Loaded {
  explicit Loaded(const std::string& name)
      : loaded(load_model((source_dir() / "tests/goldens" / name / "model").string())),
        backend(make_cpu_backend({2, "auto"})),
        weights(loaded.weights) {}
  LoadedModel loaded;
  std::unique_ptr<Backend> backend;
  Weights weights;  // of the backend's device

  void move_to(std::unique_ptr<Backend> device) {
    backend = std::move(device);
    weights = upload_weights(*backend, loaded.model, loaded.weights, {});
  }

  Plan plan(const std::string& edits) const {
    const json::Value value = json::parse(edits, "edits");
    return EditPlan::parse(json::Ref(value, "edits"), ".", probe_shape(loaded.model), 7);
  }
  // `begin`, and `length` tokens drawn by the seed.
  std::shared_ptr<Prompt> prompt(const std::string& id, int64_t length, uint32_t seed,
                                 const std::vector<int32_t>& begin = {}) const {
    auto made = std::make_shared<Prompt>(id, begin);
    for (int64_t t = 0; t < length; ++t)
      made->tokens.push_back(static_cast<int32_t>((seed = seed * 1664525u + 1013904223u) >> 8) %
                             static_cast<int32_t>(loaded.model.n_vocab));
    return made;
  }
};

inline int32_t route_slots(const std::vector<Job>& jobs) {
  int32_t slots = 0;
  for (const Job& job : jobs) slots = std::max(slots, job.plan ? job.plan->max_slots() : 0);
  return slots;
}

struct Outcome {
  std::map<int64_t, Result> results;
  int64_t n_tokens = 0;
};

inline Outcome run(const Loaded& model, const std::vector<Job>& jobs, RunOptions options = {},
                   ProbeSink* sink = nullptr) {
  Forward forward(*model.backend, model.loaded.model, model.weights, route_slots(jobs));
  Outcome out;
  RunEvents events;
  events.on_done = [&](Result result) {
    const int64_t index = result.index;
    CHECK(out.results.emplace(index, std::move(result)).second);
  };
  events.on_progress = [&](int64_t n) { out.n_tokens = n; };
  const bool complete = run_jobs(forward, jobs, options, events, sink);
  REQUIRE(complete);
  CHECK(out.results.size() == jobs.size());
  return out;
}

inline std::optional<int64_t> reference_of(const Job& job) {
  return job.score() ? job.score()->reference : std::nullopt;
}

// Each job in a run of its own, with the jobs that it refers to. A job's index is its place in the list.
inline std::map<int64_t, Result> run_alone(const Loaded& model, const std::vector<Job>& jobs, RunOptions options = {}) {
  std::map<int64_t, Result> results;
  for (const Job& job : jobs) {
    std::vector<Job> own = {job};
    for (const Job* last = &job; reference_of(*last) && *reference_of(*last) != last->index;) {
      last = &jobs[static_cast<size_t>(*reference_of(*last))];
      own.push_back(*last);
      own.back().prefix = nullptr;
    }
    own.front().prefix = nullptr;
    results[job.index] = run(model, own, options).results.at(job.index);
  }
  return results;
}

inline void check_same(const Result& got, const Result& want) {
  CAPTURE(want.index);
  CHECK(got.tokens == want.tokens);
  CHECK(got.text == want.text);
  CHECK(got.logits_hash == want.logits_hash);
  CHECK(got.logprobs == want.logprobs);
  CHECK(got.divergence == want.divergence);
  CHECK(got.same_top == want.same_top);
  CHECK(got.finish_reason == want.finish_reason);
  // A job alone may have a prefix of another length.
  EditCounts mine = got.prefix_edits, theirs = want.prefix_edits;
  CHECK((mine += got.later_edits) == (theirs += want.later_edits));
}

inline void check_same(const std::map<int64_t, Result>& found, const std::map<int64_t, Result>& expected) {
  REQUIRE(found.size() == expected.size());
  for (const auto& [index, result] : expected) check_same(found.at(index), result);
}

}  // namespace signalbox::test
