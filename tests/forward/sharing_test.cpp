// Jobs that begin alike share what they have in common, and jobs with a reference are compared with it: bits equal
// those of separate runs, whatever the batch, the chunk and the memory; no token is run twice that need not be.
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "engine/logit_store.h"
#include "engine/run_plan.h"
#include "kernels/logits.h"
#include "kernels/shim/shim_backend.h"
#include "tests/forward/job_runs.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

// Jobs of every kind on three prefixes.
std::vector<Job> mixed_jobs(const Loaded& model) {
  const std::vector<Plan> plans = {
      nullptr, model.plan(R"([{"op":"misroute","policy":"random","tokens":{"phase":"generated"}}])"),
      model.plan(R"([{"op":"deactivate","mode":"ban","experts":[0]}])"),
      model.plan(R"([{"op":"misroute","policy":"next_best","tokens":{"positions":"20:"}}])"),
      model.plan(R"([{"op":"misroute","policy":"random","tokens":{"positions":"12:","fraction":0.5}}])"),
      model.plan(R"([{"op":"ablate","point":"resid_mid","layers":"1","value":"zero","tokens":{"span":"middle"}}])"),
      model.plan(R"([{"op":"deactivate","mode":"ban","experts":[1],"tokens":{"positions":"60:"}}])"),
      // Later tokens see what was written to a key or value, whoever else shares the tokens before.
      model.plan(R"([{"op":"ablate","point":"attn.k","layers":"1","value":"zero","tokens":{"positions":"10:14"}}])"),
      model.plan(R"([{"op":"ablate","point":"attn.v","value":"zero","tokens":{"positions":"25:26"}},
                     {"op":"ablate","point":"router.in","layers":"1","value":"zero","neurons":[0,1],
                      "tokens":{"phase":"generated"}}])")};
  std::vector<Job> jobs;
  const int64_t lengths[] = {70, 33, 2};
  for (size_t r = 0; r < 3; ++r) {
    const auto prefix = model.prompt("r" + std::to_string(r), lengths[r], static_cast<uint32_t>(r + 1));
    const int64_t n = lengths[r];
    const auto add = [&](std::shared_ptr<const Prompt> prompt, const Plan& plan) -> Job& {
      Job job;
      job.index = static_cast<int64_t>(jobs.size());
      job.prompt = std::move(prompt);
      job.prefix = job.prompt == prefix ? nullptr : prefix;
      job.plan = plan;
      job.spans = {{"middle", n / 2, n / 2 + 4}};
      return jobs.emplace_back(std::move(job));
    };
    for (const Plan& plan : plans) {
      for (uint32_t sample = 0; sample < 2; ++sample) {
        Job& job = add(prefix, plan);
        job.sample = sample;
        job.task = Generate{5, {.temperature = sample == 0 ? 0. : 1.}};
      }
    }
    std::vector<int64_t> baselines;
    for (size_t p = 0; p < plans.size(); ++p) {
      for (int64_t option = 0; option < 3; ++option) {
        Job& job =
            add(model.prompt(prefix->id, option + 1, static_cast<uint32_t>(10 + option), prefix->tokens), plans[p]);
        if (p == 0) baselines.push_back(job.index);
        job.task = Score{n, baselines[static_cast<size_t>(option)]};  // the first is its own reference
      }
    }
    // Scored from beyond the prefix, where their tokens differ.
    for (const Plan& plan : {plans[0], plans[2]}) {
      for (uint32_t seed : {31u, 32u, 33u}) {
        Job& job = add(model.prompt(prefix->id, 4, seed, prefix->tokens), plan);
        job.task = Score{n + 2, {}};
      }
    }
    // Under one plan, whose span is elsewhere in each.
    for (int64_t shift = 0; shift < 3; ++shift) {
      Job& job = add(prefix, plans[5]);
      job.spans = {{"middle", n / 2, n / 2 + 1 + shift}};
      job.task = Score{n - 1, {}};
    }
    for (const Plan& plan : {plans[0], plans[3]}) {
      for (const int64_t from : {int64_t{0}, int64_t{1}, n - 1, n}) {
        add(prefix, plan).task = Score{from, {}};
      }
    }
  }
  return jobs;
}

}  // namespace

TEST_CASE("sharing: jobs of every kind equal their separate runs") {
  for (const char* name : {"deepseek_v2_lite", "gpt_oss"}) {
    CAPTURE(std::string(name));
    const Loaded model(name);
    const std::vector<Job> jobs = mixed_jobs(model);
    const auto expected = run_alone(model, jobs);
    int64_t alone = 0;
    for (const Job& job : jobs) alone += static_cast<int64_t>(job.prompt->tokens.size());
    struct Setup {
      int64_t batch, chunk, blocks;
      size_t kept_bytes;
    };
    constexpr int64_t any = std::numeric_limits<int64_t>::max();
    // The longest job takes 3 blocks.
    for (const Setup& setup : {Setup{1, 512, any, 1 << 28}, Setup{3, 7, any, 0}, Setup{16, 1, any, 1 << 28},
                               Setup{16, 512, any, 3000}, Setup{64, 64, any, 1 << 28}, Setup{16, 512, 3, 1 << 28},
                               Setup{16, 33, 4, 0}, Setup{3, 512, 5, 1 << 28}, Setup{16, 512, 9, 1 << 28}}) {
      CAPTURE(setup.batch);
      CAPTURE(setup.chunk);
      CAPTURE(setup.blocks);
      RunOptions options;
      options.batch = setup.batch;
      options.chunk = setup.chunk;
      options.max_kv_blocks = setup.blocks;
      options.max_kept_bytes = setup.kept_bytes;
      const Outcome together = run(model, jobs, options);
      check_same(together.results, expected);
      if (setup.blocks == any) CHECK(together.n_tokens == planned_tokens(jobs));
      CHECK(together.n_tokens < alone);
    }
    std::vector<Job> reversed(jobs.rbegin(), jobs.rend());
    check_same(run(model, reversed).results, expected);
  }
}

TEST_CASE("sharing: on a device with memory of its own, jobs equal their separate runs too" *
          doctest::test_suite("repeats: the same on another backend")) {
  Loaded model("deepseek_v2_lite");
  CudaOptions device;
  device.invariant = true;
  model.move_to(make_shim_backend(device));
  std::vector<Job> jobs;
  std::map<int64_t, int64_t> place;
  for (Job job : mixed_jobs(model)) {
    if (job.prompt->id != "r2" || (job.sample == 1 && job.plan)) continue;
    job.index = place[job.index] = static_cast<int64_t>(jobs.size());
    if (reference_of(job)) std::get<Score>(job.task).reference = place.at(*reference_of(job));
    jobs.push_back(std::move(job));
  }
  RunOptions options;
  options.batch = 5;
  const Outcome together = run(model, jobs, options);
  check_same(together.results, run_alone(model, jobs));
  double most = 0;
  for (const auto& [index, result] : together.results)
    for (const double x : result.divergence) most = std::max(most, x);
  CHECK(most > 1e-6);
}

TEST_CASE("sharing: memory for one job less is refused") {
  const Loaded model("gpt_oss");
  RunOptions options;
  options.max_kv_blocks = 2;
  CHECK_THROWS_WITH_AS(run(model, mixed_jobs(model), options),
                       "KV cache: expected room for the keys and values of 96 positions, found room for 64", Error);
}

TEST_CASE("sharing: the tokens that are run are those that differ") {
  const Loaded model("deepseek_v2_lite");
  const auto prefix = model.prompt("a", 50, 1);
  std::vector<Job> jobs;
  const auto add = [&](const Plan& plan, int64_t max_new, uint32_t sample = 0) {
    Job job;
    job.index = static_cast<int64_t>(jobs.size());
    job.prompt = prefix;
    job.plan = plan;
    job.sample = sample;
    job.task = Generate{max_new, {}};
    jobs.push_back(job);
  };
  const auto n_tokens = [&] {
    RunOptions options;
    options.ignore_eos = true;
    const int64_t n = run(model, jobs, options).n_tokens;
    CHECK(n == planned_tokens(jobs));
    return n;
  };
  const Plan generated = model.plan(R"([{"op":"misroute","policy":"random","tokens":{"phase":"generated"}}])");
  const Plan all = model.plan(R"([{"op":"deactivate","mode":"ban","experts":[0]}])");
  const Plan late = model.plan(R"([{"op":"deactivate","mode":"ban","experts":[0],"tokens":{"positions":"30:"}}])");
  const Plan drawn = model.plan(R"([{"op":"misroute","policy":"random","tokens":{"positions":"30:"}}])");
  // A job alone: the prompt, and all new tokens but the last.
  add(nullptr, 4);
  CHECK(n_tokens() == 53);
  // 49 positions once, then two last ones and their new tokens.
  add(generated, 4);
  CHECK(n_tokens() == 49 + 2 * 4);
  // One that shares nothing costs the others nothing.
  add(all, 4);
  CHECK(n_tokens() == 49 + 2 * 4 + 53);
  // One that shares 30 positions likewise.
  add(late, 4);
  CHECK(n_tokens() == 49 + 2 * 4 + 53 + 23);
  // A second sample under each of the plans that do the same to all samples: what they share ends at 49 too.
  add(all, 4, 1);
  add(late, 4, 1);
  CHECK(n_tokens() == 49 + 2 * 4 + (49 + 2 * 4) + (19 + 2 * 4));
  // Draws differ by sample.
  add(drawn, 4, 0);
  add(drawn, 4, 1);
  CHECK(n_tokens() == 49 + 2 * 4 + (49 + 2 * 4) + (19 + 2 * 4) + 2 * 23);

  // Options behind a prompt: their first logits are those of its last row; their last token is not run.
  jobs.clear();
  for (int64_t option = 0; option < 4; ++option) {
    for (const Plan& plan : {Plan(), all}) {
      Job job;
      job.index = static_cast<int64_t>(jobs.size());
      job.prompt = model.prompt("a", option + 1, 20 + static_cast<uint32_t>(option), prefix->tokens);
      job.prefix = prefix;
      job.plan = plan;
      job.task = Score{50, {}};
      jobs.push_back(job);
    }
  }
  CHECK(n_tokens() == 2 * (49 + (1 + 2 + 3 + 4)));
  // The sink gets every row.
  CHECK(planned_tokens(jobs, true) == 2 * (51 + 52 + 53 + 54));
  test::MemorySink sink(PointSet::parse("logits", probe_shape(model.loaded.model)));
  CHECK(run(model, jobs, {}, &sink).n_tokens == 2 * (51 + 52 + 53 + 54));
  CHECK(sink.samples.at(0).at("logits").rows() == 51);
}

TEST_CASE("score_from: the log-probabilities of a whole score, from there on") {
  const Loaded model("deepseek_v2_lite");
  const auto prompt = model.prompt("a", 37, 4);
  std::vector<Job> jobs;
  for (int64_t from = 0; from <= 37; ++from) {
    Job job;
    job.index = from;
    job.prompt = prompt;
    job.task = Score{from, {}};
    jobs.push_back(job);
  }
  for (const bool recorded : {false, true}) {
    test::MemorySink sink(PointSet::parse("*.router.ids", probe_shape(model.loaded.model)));
    RunOptions options;
    options.chunk = 10;
    const auto found = run(model, jobs, options, recorded ? &sink : nullptr).results;
    const std::vector<double>& all = found.at(0).logprobs;
    REQUIRE(all.size() == 36);
    for (int64_t from = 1; from <= 37; ++from)
      CHECK(found.at(from).logprobs == std::vector<double>(all.begin() + (from - 1), all.end()));
    if (recorded)
      for (const Job& job : jobs) CHECK(sink.samples.at(job.index).begin()->second.rows() == 37);
  }
  jobs = {jobs.back()};
  jobs[0].task = Score{38, {}};
  CHECK_THROWS_WITH_AS(run(model, jobs), "record \"a\": score_from: expected 0 to 37, its number of tokens, found 38",
                       Error);
}

TEST_CASE("reference: the divergence of recorded logits, and copies equal what is computed") {
  const Loaded model("gpt_oss");
  const auto prompt = model.prompt("a", 40, 9);
  const Plan worst = model.plan(R"([{"op":"misroute","policy":"worst","tokens":{"positions":"30:"}}])");
  const Plan never = model.plan(R"([{"op":"misroute","policy":"worst","tokens":{"phase":"generated"}}])");
  const Plan last = model.plan(R"([{"op":"misroute","policy":"worst","tokens":{"positions":"39:"}}])");
  for (const int64_t from : {int64_t{0}, int64_t{1}, int64_t{25}, int64_t{39}}) {
    CAPTURE(from);
    std::vector<Job> jobs;
    // The unedited, the edited, one that no edit reaches, one whose last row alone is edited: all refer to the first.
    for (const Plan& plan : {Plan(), worst, never, last}) {
      Job job;
      job.index = static_cast<int64_t>(jobs.size());
      job.prompt = prompt;
      job.plan = plan;
      job.task = Score{from, 0};
      jobs.push_back(job);
    }
    test::MemorySink sink(PointSet::parse("logits", probe_shape(model.loaded.model)));
    const auto recorded = run(model, jobs, {}, &sink).results;  // the long way
    const Outcome found = run(model, jobs);
    for (const auto& entry : recorded) {
      const int64_t index = entry.first;
      CAPTURE(index);
      const Result &result = entry.second, &got = found.results.at(index);
      CHECK(got.logprobs == result.logprobs);
      CHECK(got.divergence == result.divergence);
      CHECK(got.same_top == result.same_top);
      CHECK(got.logits_hash == result.logits_hash);
      const auto& own = sink.samples.at(index).at("logits");
      const auto& other = sink.samples.at(*reference_of(jobs[static_cast<size_t>(index)])).at("logits");
      const size_t width = static_cast<size_t>(own.width), first = static_cast<size_t>(std::max<int64_t>(from, 1) - 1);
      REQUIRE(result.divergence.size() == 39 - first);
      REQUIRE(result.same_top.size() == 39 - first);
      for (size_t i = 0; i < result.divergence.size(); ++i) {
        const float* q = own.data.data() + (first + i) * width;
        const float* p = other.data.data() + (first + i) * width;
        long double sum_p = 0, sum_q = 0, kl = 0;
        for (size_t v = 0; v < width; ++v) {
          sum_p += std::exp(static_cast<long double>(p[v]));
          sum_q += std::exp(static_cast<long double>(q[v]));
        }
        for (size_t v = 0; v < width; ++v)
          kl += std::exp(static_cast<long double>(p[v])) / sum_p *
                (static_cast<long double>(p[v]) - static_cast<long double>(q[v]) + std::log(sum_q / sum_p));
        CHECK(result.divergence[i] == doctest::Approx(static_cast<double>(kl)).epsilon(1e-10));
        CHECK(result.same_top[i] == (std::max_element(p, p + width) - p == std::max_element(q, q + width) - q));
        if (index != 1 || first + i < 30) CHECK(result.divergence[i] == 0);
        if (index == 1 && first + i >= 30) CHECK(result.divergence[i] > 1e-9);
      }
    }
    // Neither the unreached one is run, nor, unless its row is hashed, the one whose last row is edited.
    const int64_t shared = std::max<int64_t>(0, std::min<int64_t>(30, std::max<int64_t>(from, 1) - 1));
    CHECK(found.n_tokens == (from == 0 ? 3 * 40 : shared + 2 * (39 - shared)));
    CHECK(found.n_tokens == planned_tokens(jobs));
  }
}

TEST_CASE("jobs that do not fit together are refused") {
  const Loaded model("gpt_oss");
  const auto job_of = [&](int64_t index, int64_t length, int64_t from, std::optional<int64_t> reference) {
    Job job;
    job.index = index;
    job.prompt = model.prompt("p" + std::to_string(index), length, 1);
    job.task = Score{from, reference};
    return job;
  };
  const auto refused = [&](const std::vector<Job>& jobs, const std::string& message) {
    for (const bool recorded : {false, true}) CHECK_THROWS_WITH_AS(plan_run(jobs, recorded), message.c_str(), Error);
  };
  refused({job_of(0, 5, 2, 7)}, "record \"p0\": reference: expected the index of a job of this run, found 7");
  refused({job_of(0, 5, 2, 1), job_of(1, 6, 2, {})},
          "record \"p0\": reference: expected jobs with one number of tokens, scored from one token, found 5 tokens "
          "scored from 2 and, of record \"p1\", 6 tokens scored from 2");
  refused({job_of(0, 5, 2, 1), job_of(1, 5, 3, {})},
          "record \"p0\": reference: expected jobs with one number of tokens, scored from one token, found 5 tokens "
          "scored from 2 and, of record \"p1\", 5 tokens scored from 3");
  std::vector<Job> jobs = {job_of(0, 5, 2, 1), job_of(1, 5, 2, {})};
  jobs[1].task = Generate{};
  refused(jobs,
          "record \"p0\": reference: expected jobs with one number of tokens, scored from one token, found 5 "
          "tokens scored from 2 and, of record \"p1\", a job without scores");
  refused({job_of(3, 5, 2, {}), job_of(0, 5, 2, 1), job_of(1, 5, 2, 2), job_of(2, 5, 2, 0)},
          "record \"p0\": reference: expected a job that does not refer back to this one, found record \"p1\" in a "
          "circle with it");
  refused({job_of(0, 5, 2, 0), job_of(0, 5, 2, {})}, "record \"p0\": index: expected one of its own, found 0 twice");
  jobs = {job_of(0, 5, 2, {})};
  jobs[0].prefix = model.prompt("s", 5, 2);
  refused(jobs, "record \"p0\": expected to begin with the tokens of its prefix \"s\", found others");
  jobs[0].prefix = model.prompt("s", 6, 1);
  refused(jobs, "record \"p0\": expected to begin with the tokens of its prefix \"s\", found others");
}

TEST_CASE("kept logits: rows come back from memory and from the file, and room is used again") {
  constexpr int64_t width = 100;
  LogitStore store(width, 2 * width * sizeof(float) + 8);
  const auto row_of = [](int value) { return std::vector<float>(width, static_cast<float>(value)); };
  std::map<int, int64_t> kept;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 5; ++i) kept[10 * round + i] = store.add(row_of(10 * round + i).data());
    CHECK(store.bytes_in_memory() == 2 * width * sizeof(float));
    for (const auto& [value, number] : kept) {
      std::vector<float> row(width);
      store.read(number, row.data());
      CHECK(row == row_of(value));
    }
    if (round == 2) {
      int64_t highest = 0;
      for (const auto& [value, number] : kept) highest = std::max(highest, number);
      CHECK(highest == 6);  // eight rows have been released
      CHECK(kept.size() == 7);
    }
    // All but one of each round go.
    for (int i = 0; i < 4; ++i) {
      store.release(kept.at(10 * round + i));
      kept.erase(10 * round + i);
    }
  }
}
