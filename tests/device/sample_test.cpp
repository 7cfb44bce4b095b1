// Sampling, log-probabilities and how logits differ: the draw's definition, and devices against the CPU backend.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "base/error.h"
#include "doctest/doctest.h"
#include "kernels/random.h"
#include "tests/device/device.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

SampleParams params_of(float temperature, int32_t top_k, float top_p, uint64_t seed) {
  SampleParams params;
  params.sampling = {temperature, top_p, top_k, seed};
  params.record_hash = seed * 0x9e3779b97f4a7c15ull + 3;
  params.sample = static_cast<uint32_t>(seed % 5);
  params.position = static_cast<int32_t>(seed * 31 % 1000);
  return params;
}

std::vector<int32_t> sample_on(Backend& backend, int64_t n_vocab, int64_t stride, const std::vector<float>& logits,
                               const std::vector<SampleParams>& params) {
  const int64_t rows = static_cast<int64_t>(params.size());
  const DeviceTensor tensor(backend, rows, n_vocab, DType::f32, logits, stride);
  const Buffer<SampleParams> device_params(backend, params);
  const Buffer<int32_t> ids(backend, std::vector<int32_t>(params.size() + 1, -77));
  backend.sample(ids.data(), tensor.view(), device_params.data());
  CHECK(tensor.guards_hold());
  std::vector<int32_t> got = ids.get();
  CHECK(got.back() == -77);
  got.pop_back();
  return got;
}

// What logits may look like.
std::vector<std::vector<float>> rows_of(int64_t n_vocab) {
  const size_t n = static_cast<size_t>(n_vocab);
  std::vector<std::vector<float>> rows;
  auto add = [&](auto f) {
    std::vector<float> row(n);
    for (size_t i = 0; i < n; ++i) row[i] = f(i);
    rows.push_back(std::move(row));
  };
  Noise noise(static_cast<uint64_t>(n_vocab));
  add([&](size_t) { return 3 * noise.normal(); });
  add([&](size_t) { return 1e-3f * noise.normal(); });                 // flat
  add([&](size_t) { return 40 * noise.normal(); });                    // one token has it all
  add([&](size_t) { return -2.5f; });                                  // ties only
  add([&](size_t) { return 0.5f * std::round(2 * noise.normal()); });  // many ties
  add([&](size_t i) { return i % 2 == 0 ? 0.f : -0.f; });
  add([&](size_t i) { return i % 3 == 1 ? noise.normal() : -infinity; });                         // masked
  add([&](size_t i) { return i == 0 ? -1e9f : 100 + 1e-4f * std::round(20 * noise.normal()); });  // an outlier
  add([&](size_t i) { return i + 1 == n ? 5.f : noise.normal(); });
  add([&](size_t) { return 1e38f * noise.normal(); });
  add([&](size_t) { return 1e-42f * noise.normal(); });  // subnormal
  return rows;
}

}  // namespace

TEST_CASE("sample_uniform: 53 bits, the same for ever") {
  CHECK(sample_uniform(0xfedcba9876543210ull, 0x0123456789abcdefull, 3, 77) == 0x1.2599d98f83ccep-1);
  CHECK(sample_uniform(1, 0, 0, 0) == 0x1.c7d00ce1ca142p-1);
}

TEST_CASE("cpu: sample draws tokens as often as their probabilities say, and none that a filter drops") {
  const auto host = cpu();
  const std::vector<float> logits = {1.f, 3.f, -2.f, 3.f, 0.5f};
  struct Case {
    float temperature;
    int32_t top_k;
    float top_p;
    std::vector<bool> kept;
  };
  // Probabilities at temperature 1: 0.061, 0.450, 0.003, 0.450, 0.037.
  const Case cases[] = {
      {1, 0, 1, {true, true, true, true, true}},           {2, 3, 1, {true, true, false, true, false}},
      {1, 0, 0.92f, {true, true, false, true, false}},     {1, 4, 0.5f, {false, true, false, true, false}},
      {0.5f, 0, 0.1f, {false, true, false, false, false}}, {1, 2, 1, {false, true, false, true, false}},
      {0, 0, 1, {false, true, false, false, false}},       {1, 1, 1, {false, true, false, false, false}}};
  constexpr int n = 4000;
  for (const Case& c : cases) {
    std::vector<float> rows;
    std::vector<SampleParams> params;
    for (int i = 0; i < n; ++i) {
      rows.insert(rows.end(), logits.begin(), logits.end());
      params.push_back(params_of(c.temperature, c.top_k, c.top_p, 9));
      params.back().position = i;
    }
    std::vector<double> drawn(logits.size(), 0), weight(logits.size(), 0);
    for (const int32_t id : sample_on(*host, 5, 5, rows, params)) drawn[static_cast<size_t>(id)] += 1;
    double sum = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (!c.kept[i]) continue;
      const double t = static_cast<double>(c.temperature);
      weight[i] = t > 0 ? std::exp(static_cast<double>(logits[i]) / t) : 1;
      sum += weight[i];
    }
    for (size_t i = 0; i < logits.size(); ++i) {
      CAPTURE(i);
      const double p = weight[i] / sum;
      // Five standard deviations.
      CHECK(std::abs(drawn[i] - n * p) <= 5 * std::sqrt(n * p * (1 - p)) + 1e-9);
    }
  }
}

TEST_CASE("device: sample chooses the CPU's tokens" *
          doctest::test_suite("repeats: the sampler's kernel, at many settings")) {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    uint64_t seed = 1;
    for (const int64_t n_vocab : {1, 2, 33, 1000, 6151}) {
      CAPTURE(n_vocab);
      const bool large = n_vocab > 2048;
      const std::vector<std::vector<float>> kinds = rows_of(n_vocab);
      std::vector<float> logits;
      std::vector<SampleParams> params;
      std::vector<size_t> kind_of;
      auto add = [&](size_t kind, float temperature, int32_t top_k, float top_p) {
        logits.insert(logits.end(), kinds[kind].begin(), kinds[kind].end());
        params.push_back(params_of(temperature, top_k, top_p, ++seed));
        kind_of.push_back(kind);
      };
      for (size_t kind = 0; kind < kinds.size(); ++kind) {
        add(kind, 1, 0, 1);
        if (!large || kind % 2 == 0) add(kind, 0, 0, 1);
        add(kind, 0.7f, 20, 0.9f);
        if (large || kind % 3 == 0) add(kind, 1.3f, 0, 0.8f);
        if (large || kind % 3 == 1) add(kind, 100, 3000, 0.97f);
        if (kind % 4 == 0) add(kind, 1e-4f, 0, 0.99f);
        if (kind % 4 == 1) add(kind, 1, 1, 1);
        if (kind % 4 == 2) add(kind, 1.5f, 2, 1);
        if (kind % 4 == 3) add(kind, 1, 0, 0);
      }
      const int64_t stride = n_vocab + (n_vocab % 2 == 0 ? 0 : 5);
      const std::vector<int32_t> want = sample_on(*host, n_vocab, n_vocab, logits, params);
      const std::vector<int32_t> got = sample_on(device, n_vocab, stride, logits, params);
      for (size_t i = 0; i < want.size(); ++i) {
        CAPTURE(i);
        CAPTURE(kind_of[i]);
        CHECK(got[i] == want[i]);
      }
      // A row alone is cut into other parts.
      for (const size_t i : {size_t{0}, want.size() / 2, want.size() - 1}) {
        const std::vector<float> row = kinds[kind_of[i]];
        CHECK(sample_on(device, n_vocab, n_vocab, row, {params[i]})[0] == want[i]);
      }
    }
  });
}

TEST_CASE("device: draws close to the boundary of two tokens fall on the CPU's side") {
  // One far token makes the bins as wide as they get.
  constexpr int64_t n_vocab = 2300;
  std::vector<float> logits = normal_values(n_vocab, 6);
  logits[77] = -1e6f;
  std::vector<float> sorted = logits;
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  std::vector<double> mass;
  double sum = 0;
  for (const float z : sorted) mass.push_back(sum += std::exp(static_cast<double>(z) - static_cast<double>(sorted[0])));
  std::vector<SampleParams> params;
  std::vector<float> rows;
  for (uint64_t seed = 0; seed < 300000; ++seed) {
    const SampleParams p = params_of(1, 0, 1, seed);
    const double target = sample_uniform(p.sampling.seed, p.record_hash, p.sample, p.position) * sum;
    const auto above = std::lower_bound(mass.begin(), mass.end(), target);
    double distance = *above - target;
    if (above != mass.begin()) distance = std::min(distance, target - above[-1]);
    if (distance < 1e-8 * sum && distance > 1e-12 * sum) {
      params.push_back(p);
      rows.insert(rows.end(), logits.begin(), logits.end());
    }
  }
  CHECK(params.size() >= 5);
  const std::vector<int32_t> want = sample_on(*cpu(), n_vocab, n_vocab, rows, params);
  for_each_device(
      [&](Backend& device, const std::string&) { CHECK(sample_on(device, n_vocab, n_vocab, rows, params) == want); });
}

TEST_CASE("device: sample says -1 where a logit is NaN, the largest is infinite or all are -inf") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    constexpr int64_t n_vocab = 2500;
    std::vector<float> logits;
    std::vector<SampleParams> params;
    std::vector<int32_t> want;
    for (const float temperature : {0.f, 1.f}) {
      for (const int kind : {0, 1, 2, 3, 4}) {
        std::vector<float> row = normal_values(n_vocab, 3);
        if (kind == 0) row[2499] = NAN;
        if (kind == 1) row[7] = -NAN;
        if (kind == 2) row[1200] = infinity;
        if (kind == 3) row.assign(n_vocab, -infinity);
        if (kind == 4) row.assign(n_vocab, -infinity), row[2048] = -3e38f;
        logits.insert(logits.end(), row.begin(), row.end());
        params.push_back(params_of(temperature, 0, 0.9f, 4));
        want.push_back(kind == 4 ? 2048 : -1);
      }
    }
    CHECK(sample_on(*host, n_vocab, n_vocab, logits, params) == want);
    CHECK(sample_on(device, n_vocab, n_vocab, logits, params) == want);
    CHECK(sample_on(device, 2, 2, {1.f, NAN}, {params_of(0, 0, 1, 1)}) == std::vector<int32_t>{-1});
    std::vector<float> row(4);
    const Tensor too_wide(row.data(), 1, 1 << 20);
    CHECK_THROWS_AS(device.sample(nullptr, too_wide, nullptr), Error);
  });
}

TEST_CASE("device: a repeated sample reads its logits and parameters anew") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    constexpr int64_t n_vocab = 300, rows = 2;
    const DeviceTensor tensor(device, rows, n_vocab, DType::f32, normal_values(rows * n_vocab, 1));
    const Buffer<SampleParams> params(device, std::vector<SampleParams>(rows));
    const Buffer<int32_t> ids(device, std::vector<int32_t>(rows, -77));
    const int64_t key[] = {77};
    for (uint64_t round = 0; round < 4; ++round) {
      const std::vector<float> logits = normal_values(rows * n_vocab, 10 + round);
      const std::vector<SampleParams> now = {params_of(round % 2 == 0 ? 0.f : 1.f, 0, 1, round),
                                             params_of(1, 40, 0.9f, round + 7)};
      device.upload(tensor.view().data, logits.data(), logits.size() * sizeof(float));
      device.upload(params.data(), now.data(), now.size() * sizeof(SampleParams));
      device.replay(key, [&] { device.sample(ids.data(), tensor.view(), params.data()); });
      CHECK(ids.get() == sample_on(*host, n_vocab, n_vocab, logits, now));
    }
    device.forget_graphs();  // the tensors go
  });
}

TEST_CASE("device: log_probs as on the CPU") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const int64_t n_vocab : {1, 3, 130, 2049, 5000}) {
      CAPTURE(n_vocab);
      std::vector<float> logits;
      std::vector<int32_t> targets;
      for (const std::vector<float>& row : rows_of(n_vocab)) {
        logits.insert(logits.end(), row.begin(), row.end());
        targets.push_back(static_cast<int32_t>((targets.size() * 37 + 11) % static_cast<size_t>(n_vocab)));
      }
      targets[2] = -1;
      const int64_t rows = static_cast<int64_t>(targets.size());
      auto run = [&](Backend& backend, int64_t stride) {
        const DeviceTensor tensor(backend, rows, n_vocab, DType::f32, logits, stride);
        const Buffer<int32_t> at(backend, targets);
        const Buffer<double> out(backend, std::vector<double>(targets.size(), 99));
        backend.log_probs(out.data(), tensor.view(), at.data());
        return out.get();
      };
      const std::vector<double> want = run(*host, n_vocab), got = run(device, n_vocab + 3);
      for (size_t i = 0; i < want.size(); ++i) {
        CAPTURE(i);
        if (std::isnan(want[i]) || std::isinf(want[i])) {
          CHECK(std::isnan(got[i]) == std::isnan(want[i]));
          CHECK(std::isinf(got[i]) == std::isinf(want[i]));
          continue;
        }
        CHECK(std::abs(got[i] - want[i]) <=
              tolerance::device_log_prob.absolute + tolerance::device_log_prob.relative * std::abs(want[i]));
        // And the CPU against the definition.
        double sum = 0;
        const float* row = &logits[i * static_cast<size_t>(n_vocab)];
        const double at = static_cast<double>(row[targets[i]]);
        for (int64_t c = 0; c < n_vocab; ++c) sum += std::exp(static_cast<double>(row[c]) - at);
        if (std::isfinite(sum)) CHECK(std::abs(want[i] + std::log(sum)) <= 1e-9 * (1 + std::abs(want[i])));
      }
      CHECK(std::isnan(got[2]));
    }
  });
}

TEST_CASE("device: compare_logits as on the CPU") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const int64_t n_vocab : {1, 3, 130, 2049, 5000}) {
      CAPTURE(n_vocab);
      // Every kind of row with itself, with the next kind and with itself but for a little.
      const std::vector<std::vector<float>> kinds = rows_of(n_vocab);
      std::vector<float> logits, reference;
      size_t n_rows = 0;
      auto add = [&](const std::vector<float>& row, const std::vector<float>& other) {
        logits.insert(logits.end(), row.begin(), row.end());
        reference.insert(reference.end(), other.begin(), other.end());
        ++n_rows;
      };
      Noise noise(7);
      for (size_t kind = 0; kind < kinds.size(); ++kind) {
        add(kinds[kind], kinds[kind]);
        add(kinds[kind], kinds[(kind + 1) % kinds.size()]);
        std::vector<float> near = kinds[kind];
        for (float& z : near) z += 0.01f * noise.normal();
        add(near, kinds[kind]);
      }
      std::vector<float> row = normal_values(n_vocab, 3);
      for (const float bad : {NAN, -NAN, infinity}) {
        std::vector<float> other = row;
        other.back() = bad;
        add(other, row);
        add(row, other);
        add(other, other);
      }
      add(std::vector<float>(static_cast<size_t>(n_vocab), -infinity), row);
      struct Found {
        std::vector<double> divergence;
        std::vector<int32_t> same_top;
      };
      auto run = [&](Backend& backend, int64_t stride, int64_t reference_stride) {
        const int64_t n = static_cast<int64_t>(n_rows);
        const DeviceTensor a(backend, n, n_vocab, DType::f32, logits, stride);
        const DeviceTensor b(backend, n, n_vocab, DType::f32, reference, reference_stride);
        const Buffer<double> divergence(backend, std::vector<double>(n_rows + 1, 99));
        const Buffer<int32_t> same_top(backend, std::vector<int32_t>(n_rows + 1, 99));
        backend.compare_logits(divergence.data(), same_top.data(), a.view(), b.view());
        CHECK(a.guards_hold());
        CHECK(b.guards_hold());
        Found found{divergence.get(), same_top.get()};
        CHECK(found.divergence.back() == 99);
        CHECK(found.same_top.back() == 99);
        return found;
      };
      const Found want = run(*host, n_vocab, n_vocab), got = run(device, n_vocab + 3, n_vocab);
      for (size_t i = 0; i < n_rows; ++i) {
        CAPTURE(i);
        CHECK(got.same_top[i] == want.same_top[i]);
        if (std::isnan(want.divergence[i]) || std::isinf(want.divergence[i])) {
          CHECK(std::isnan(got.divergence[i]) == std::isnan(want.divergence[i]));
          CHECK(std::isinf(got.divergence[i]) == std::isinf(want.divergence[i]));
          continue;
        }
        if (i < 3 * kinds.size() && i % 3 == 0) CHECK(got.divergence[i] == 0);
        CHECK(std::abs(got.divergence[i] - want.divergence[i]) <=
              tolerance::device_log_prob.absolute + tolerance::device_log_prob.relative * std::abs(want.divergence[i]));
      }
      // The bits of a row depend on that row alone.
      CHECK(run(device, n_vocab, n_vocab + 5).divergence[2] == got.divergence[2]);
    }
  });
}

}  // namespace signalbox::test
