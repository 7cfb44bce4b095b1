// Sequences: the block pool, forks that share and then part, rewinding, and the choice of tokens.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "engine/forward.h"
#include "kernels/logits.h"
#include "loaders/model/load.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;

namespace {

const std::filesystem::path goldens = test::source_dir() / "tests/goldens";

// Runs `ids` as the next tokens of a sequence; the logits of the last one.
std::vector<float> step(Forward& forward, SequenceCache& kv, const std::vector<int32_t>& ids) {
  Batch batch;
  batch.append(kv, nullptr, 0, ids, {}, 1 << 20, 1);
  const Tensor logits = forward.run(batch, nullptr).logits;
  return {logits.data, logits.data + logits.cols};
}

std::vector<int32_t> some_tokens(int64_t n, uint32_t seed) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((seed = seed * 1664525u + 1013904223u) >> 8) % 90);
  return ids;
}

}  // namespace

TEST_CASE("kv pool: blocks are taken, shared, copied on write and given back") {
  const LoadedModel loaded = load_model((goldens / "mixtral/model").string());
  auto backend = make_cpu_backend({});
  KvPool pool(*backend, loaded.model, 6);
  CHECK(pool.n_free() == 6);
  {
    SequenceCache a(pool);
    a.extend(KvPool::block_size + 3);
    CHECK(pool.n_free() == 4);
    SequenceCache b = a.fork(KvPool::block_size + 1);
    CHECK(pool.n_free() == 4);  // all shared
    b.extend(1);                // copies the block that both would write
    CHECK(pool.n_free() == 3);
    CHECK(a.blocks()[0] == b.blocks()[0]);
    CHECK(a.blocks()[1] != b.blocks()[1]);
    b.rewind(KvPool::block_size);
    CHECK(pool.n_free() == 4);
    CHECK(b.length() == KvPool::block_size);
    SequenceCache c = std::move(a);
    CHECK(c.length() == KvPool::block_size + 3);
    CHECK_THROWS_AS(c.extend(100 * KvPool::block_size), Error);
  }
  CHECK(pool.n_free() == 6);
}

TEST_CASE("a fork, and a rewound sequence, compute what a fresh one does") {
  for (const char* name : {"deepseek_v2_lite", "gpt_oss"}) {
    CAPTURE(name);
    const LoadedModel loaded = load_model((goldens / name / "model").string());
    auto backend = make_cpu_backend({});
    Forward forward(*backend, loaded.model, loaded.weights, 0);
    KvPool pool(*backend, loaded.model, 64);
    const auto prompt = some_tokens(45, 1), left = some_tokens(7, 2), right = some_tokens(9, 3);
    const auto fresh = [&](std::vector<int32_t> ids) {
      SequenceCache kv(pool);
      return step(forward, kv, ids);
    };
    auto joined = [&](const std::vector<int32_t>& tail) {
      std::vector<int32_t> all = prompt;
      all.insert(all.end(), tail.begin(), tail.end());
      return all;
    };
    SequenceCache whole(pool);
    step(forward, whole, prompt);
    SequenceCache branch = whole.fork(45);
    CHECK(step(forward, branch, left) == fresh(joined(left)));
    CHECK(step(forward, whole, right) == fresh(joined(right)));  // the branch left no mark on the whole
    whole.rewind(45);
    CHECK(step(forward, whole, left) == fresh(joined(left)));
    whole.rewind(30);
    const std::vector<int32_t> rest(prompt.begin() + 30, prompt.end());
    CHECK(step(forward, whole, rest) == fresh(prompt));
  }
}

TEST_CASE("sampling: greedy, filters, and the right frequencies") {
  const auto backend = make_cpu_backend({});
  struct Key {
    uint64_t record_hash = 0;
    uint32_t sample = 0;
    int32_t position = 0;
  };
  const auto sample_token = [&](std::vector<float> row, const Sampling& s, const Key& key) {
    const SampleParams params{s, key.record_hash, key.sample, key.position};
    int32_t id = -7;
    backend->sample(&id, Tensor(row.data(), 1, static_cast<int64_t>(row.size())), &params);
    return id;
  };
  const std::vector<float> logits = {1.0f, 3.0f, 3.0f, -2.0f, 0.5f};
  CHECK(sample_token(logits, {}, {}) == 1);  // ties to the lowest id
  Sampling sampling;
  sampling.temperature = 0.7;
  const auto frequencies = [&](const Sampling& s) {
    std::map<int32_t, double> seen;
    constexpr int n = 20000;
    for (int i = 0; i < n; ++i) seen[sample_token(logits, s, {7, 0, i})] += 1.0 / n;
    return seen;
  };
  double sum = 0;
  for (float z : logits) sum += std::exp(z / 0.7);
  auto seen = frequencies(sampling);
  for (int32_t id = 0; id < 5; ++id) {
    const double p = std::exp(logits[id] / 0.7) / sum;
    CHECK(seen[id] == doctest::Approx(p).scale(1).epsilon(5 * std::sqrt(p * (1 - p) / 20000) + 1e-4));
  }
  sampling.top_k = 2;
  seen = frequencies(sampling);
  CHECK(seen.size() == 2);
  CHECK(std::abs(seen[1] - 0.5) < 0.02);
  sampling.top_k = 0;
  sampling.top_p = 0.4;  // the first of the two equal ones has 0.48 already
  seen = frequencies(sampling);
  CHECK(seen.size() == 1);
  CHECK(seen.contains(1));
  sampling.top_p = 0.9;
  CHECK(frequencies(sampling).size() == 2);
  // A draw is a function of its key alone.
  sampling.top_p = 1;
  CHECK(sample_token(logits, sampling, {1, 2, 3}) == sample_token(logits, sampling, {1, 2, 3}));
  int differ = 0;
  for (int i = 0; i < 200; ++i)
    differ += sample_token(logits, sampling, {1, 0, i}) != sample_token(logits, sampling, {2, 0, i});
  CHECK(differ > 40);
  CHECK(sample_token({0, NAN}, {}, {}) == -1);
  CHECK(log_sum_exp(logits) == doctest::Approx(std::log(std::exp(1) + 2 * std::exp(3) + std::exp(-2) + std::exp(0.5))));
}
