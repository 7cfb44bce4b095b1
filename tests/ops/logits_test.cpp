// How two rows of logits differ, against numbers worked out with 50 digits in Python's decimal.
#include "kernels/logits.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/backend.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Compared {
  double divergence = -1;
  int32_t same_top = -1;
};

Compared compare(std::vector<float> reference, std::vector<float> logits) {
  static const auto backend = make_cpu_backend({});
  Compared out;
  backend->compare_logits(&out.divergence, &out.same_top, Tensor(logits.data(), 1, static_cast<int64_t>(logits.size())),
                          Tensor(reference.data(), 1, static_cast<int64_t>(reference.size())));
  return out;
}

}  // namespace

TEST_CASE("compare_logits: KL(reference || logits) in nats, and the most probable token") {
  struct Case {
    std::vector<float> reference, logits;
    double divergence;
    int32_t same_top;
  };
  const Case cases[] = {
      {{1, 2, 3}, {3, 2, 1}, 1.1504207652088829228, 0},
      {{0.5f, -1.25f, 2, 2}, {0, 0, 0, 0}, 0.36640428481906506253, 0},
      {{0, -infinity, 1}, {0.5f, 3, -1}, 3.1100590884711718509, 0},
      {{30, 0, -20}, {-20, 0, 30}, 49.999999999995324629, 0},
      {{1, 1.0009765625f}, {1, 1}, 1.1920927533992804358e-07, 0},
      // The lowest of equals counts.
      {{5, 5, 0}, {5, 4, 0}, -1, 1},
      {{5, 5, 0}, {4, 5, 0}, -1, 0},
  };
  for (const Case& c : cases) {
    const Compared found = compare(c.reference, c.logits);
    if (c.divergence >= 0) CHECK(found.divergence == doctest::Approx(c.divergence).epsilon(1e-12));
    CHECK(found.same_top == c.same_top);
  }
}

TEST_CASE("compare_logits: equal rows differ by exactly nothing, and finite logits never give NaN") {
  std::vector<float> row;
  uint32_t state = 5;
  for (int i = 0; i < 999; ++i)
    row.push_back(static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 1e-6f - 8.f);
  CHECK(compare(row, row).divergence == 0);
  CHECK(compare(row, row).same_top == 1);
  const Compared far = compare({3e38f, -3e38f, 0}, {-3e38f, 3e38f, 0});
  CHECK(far.divergence == doctest::Approx(6e38).epsilon(1e-6));
  CHECK(far.same_top == 0);
  // Adding a constant to a row changes no probability: rounding must not leave less than 0.
  for (int shift = -20; shift <= 20; ++shift) {
    std::vector<float> shifted = row;
    for (float& z : shifted) z += 0.37f * static_cast<float>(shift);
    const Compared found = compare(row, shifted);
    CHECK(found.divergence >= 0);
    CHECK(found.divergence < 1e-9);
  }
}

TEST_CASE("compare_logits: masked tokens, and rows without a most probable token") {
  CHECK(compare({0, -infinity}, {0, -infinity}).divergence == 0);
  CHECK(compare({0, 0}, {0, -infinity}).divergence == infinity);
  CHECK(compare({0, -infinity}, {0, 0}).divergence == doctest::Approx(std::log(2.0)).epsilon(1e-14));
  const std::vector<std::vector<float>> wrong = {{0, NAN}, {0, infinity}, {-infinity, -infinity}};
  for (const std::vector<float>& bad : wrong) {
    for (const Compared& found : {compare(bad, {1, 0}), compare({1, 0}, bad), compare(bad, bad)}) {
      CHECK(std::isnan(found.divergence));
      CHECK(found.same_top == 0);
    }
  }
}

TEST_CASE("log_sum_exp: in double, and without overflow") {
  const std::vector<float> row = {0, 0, 0};
  CHECK(log_sum_exp(row) == doctest::Approx(std::log(3.0)).epsilon(1e-15));
  const std::vector<float> large = {1000, 1000};
  CHECK(log_sum_exp(large) == doctest::Approx(1000 + std::log(2.0)).epsilon(1e-15));
}
