// Corrected intervals and differences of effects: against scipy and numpy (tests/statistics/make_numbers.py), and their
// size and coverage in simulation.
#include "eval/statistics/effects.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "eval/statistics/corrected.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

ClusteredValues singles(const std::vector<double>& values) { return {values, std::vector<double>(values.size(), 1.0)}; }

const std::vector<double> x = {0.3, -1.2, 2.5, 0.7, 1.9, -0.4, 3.1, 0.05, 1.4, 2.2, -0.9, 0.6};

std::vector<ClusteredValues> some_controls() {
  std::vector<ClusteredValues> out;
  for (size_t s = 0; s < 5; ++s) {
    std::vector<double> values;
    for (size_t i = 0; i < x.size(); ++i)
      values.push_back(0.3 * x[i] + 0.1 * static_cast<double>(s) + (i == (3 + 2 * s) % 12 ? 0.5 : 0));
    out.push_back(singles(values));
  }
  return out;
}

bool is_long() {
  const char* asked = std::getenv("SIGNALBOX_LONG_TESTS");
  return asked && std::string(asked) == "1";
}

}  // namespace

TEST_CASE("corrected intervals are scipy's BCa with widened levels") {
  std::vector<double> exponentials;
  for (double value : x) exponentials.push_back(std::exp(value));
  const std::vector<ClusteredValues> columns = {singles(x), singles(exponentials), singles({4}), singles({2, 2, 2})};
  const auto means = corrected_means(columns, 0, 40000, 2);
  CHECK(std::abs(means[0].ci.lo - 0.0125) < 0.02);
  CHECK(std::abs(means[0].ci.hi - 1.7417) < 0.02);
  CHECK(std::abs(means[1].ci.lo - 2.2173) < 0.03);
  CHECK(std::abs(means[1].ci.hi - 11.625) < 0.2);
  CHECK((means[2].mean == 4 && std::isnan(means[2].ci.lo)));
  CHECK((means[3].ci.lo == 2 && means[3].ci.hi == 2));
  // Skewed: further on the side of the long tail than percentiles.
  const auto plain = bootstrap_means(columns, 0, 20000, 1);
  CHECK(means[1].ci.lo > plain[1].ci.lo);
  CHECK(means[1].ci.hi > plain[1].ci.hi + 1);
  CHECK(std::isnan(corrected_interval({}, 0, {}, 3).lo));
  CHECK(std::isnan(corrected_interval({1, 2}, 0, {}, 0).lo));
}

TEST_CASE("an effect over its controls is numpy's") {
  const std::vector<ClusteredValues> controls = some_controls();
  const EffectDifference found = effect_over_controls(singles(x), controls, 0, 40000, 2);
  CHECK(found.diff == doctest::Approx(0.35625).epsilon(1e-12));
  CHECK(std::abs(found.ci.lo + 0.2525) < 0.01);
  CHECK(std::abs(found.ci.hi - 0.9875) < 0.01);
  CHECK(std::abs(found.p - 0.2384) < 0.009);
  CHECK(found.n_units == 12);
  const EffectDifference once = effect_over_controls(singles(x), controls, 3, 1000, 1),
                         again = effect_over_controls(singles(x), controls, 3, 1000, 3);
  CHECK((once.ci.lo == again.ci.lo && once.ci.hi == again.ci.hi && once.p == again.p));

  // One unit or one set: no spread. No set, or an effect without values: nothing at all.
  CHECK(std::isnan(effect_over_controls(singles(x), std::span(controls).first(1), 0, 100, 1).p));
  CHECK(effect_over_controls(singles(x), std::span(controls).first(1), 0, 100, 1).diff ==
        doctest::Approx(0.85416666666 * 0.7 - 0.5 / 12));
  CHECK(std::isnan(
      effect_over_controls(singles({1}), std::vector<ClusteredValues>{singles({1}), singles({2})}, 0, 100, 1).ci.lo));
  CHECK(std::isnan(effect_over_controls(singles(x), {}, 0, 100, 1).diff));
  CHECK(std::isnan(
      effect_over_controls({std::vector<double>(12, 0), std::vector<double>(12, 0)}, controls, 0, 100, 1).diff));
  CHECK_THROWS_AS(effect_over_controls(singles({1, 2}), controls, 0, 100, 1), Error);
  // A unit without values on one side leaves that side's mean over the others.
  ClusteredValues gap = singles(x);
  gap.sums[2] = gap.counts[2] = 0;
  CHECK(effect_over_controls(gap, controls, 0, 1000, 1).diff ==
        doctest::Approx((0.8541666666666666 * 12 - 2.5) / 11 - 0.8541666666666666 * 0.3 - 0.2 - 0.5 / 12));
}

TEST_CASE("differences of effects are numpy's") {
  std::vector<double> squares;
  for (double value : x) squares.push_back(0.4 * value * value);
  const EffectDifference shared = difference_of_effects(singles(x), singles(squares), 0, 40000, 2);
  CHECK(shared.diff == doctest::Approx(-0.13325).epsilon(1e-12));
  CHECK(std::abs(shared.ci.lo + 0.754) < 0.02);
  CHECK(std::abs(shared.ci.hi - 0.2487) < 0.01);
  CHECK(std::abs(shared.p - 0.575) < 0.01);

  ClusteredValues one = singles(x), two = singles(x);
  for (size_t i = 0; i < 12; ++i) {
    ClusteredValues& absent = i < 5 ? two : one;
    absent.sums[i] = absent.counts[i] = 0;
  }
  const EffectDifference apart = difference_of_effects(one, two, 0, 40000, 2);
  CHECK(apart.diff == doctest::Approx(-0.024285714285714355).epsilon(1e-12));
  CHECK(std::abs(apart.ci.lo + 1.9857) < 0.03);
  CHECK(std::abs(apart.ci.hi - 1.6686) < 0.03);
  CHECK(std::abs(apart.p - 0.9799) < 0.005);
  CHECK(apart.n_units == 12);
  const EffectDifference again = difference_of_effects(one, two, 0, 40000, 3);
  CHECK((again.ci.lo == apart.ci.lo && again.p == apart.p));

  // Beside shared units others count in the difference and not in p.
  ClusteredValues first = singles(x), second = singles(squares);
  first.sums.push_back(100);
  first.counts.push_back(1);
  second.sums.push_back(0);
  second.counts.push_back(0);
  const EffectDifference more = difference_of_effects(first, second, 5, 500, 1);
  CHECK(more.p == difference_of_effects(singles(x), singles(squares), 5, 500, 1).p);
  CHECK(more.diff > 5);
  // Nothing, one unit, a constant difference of exactly 0 and of exactly 1.
  CHECK(std::isnan(difference_of_effects({}, {}, 0, 100, 1).diff));
  CHECK(std::isnan(difference_of_effects(singles({1}), singles({3}), 0, 100, 1).ci.lo));
  CHECK(difference_of_effects(singles({1}), singles({3}), 0, 100, 1).p == 1);
  CHECK(difference_of_effects(singles(x), singles(x), 0, 100, 1).p == 1);
  std::vector<double> above = x;
  for (double& value : above) value += 1;
  const EffectDifference constant = difference_of_effects(singles(above), singles(x), 0, 4000, 1);
  CHECK(constant.ci.lo == doctest::Approx(1));
  CHECK(constant.ci.hi == doctest::Approx(1));
  CHECK(constant.p < 0.002);  // 2 of 4096
}

TEST_CASE("differences of effects hold their level") {
  std::mt19937_64 generator(9);
  std::normal_distribution<double> normal;
  const int n_sets = is_long() ? 2000 : 120;
  const int64_t resamples = is_long() ? 999 : 199;
  int over = 0, over_covers = 0, unequal = 0, unequal_covers = 0;
  for (int set = 0; set < n_sets; ++set) {
    // 25 units, 10 sets that differ: the named effect is one more set of their kind.
    std::vector<ClusteredValues> all;
    std::vector<double> unit(25);
    for (double& value : unit) value = normal(generator);
    for (int s = 0; s < 11; ++s) {
      const double of_set = 0.3 * normal(generator);
      std::vector<double> values;
      for (double value : unit) values.push_back(0.5 * value + (s == 0 ? 0 : of_set) + 0.5 * normal(generator));
      all.push_back(singles(values));
    }
    const EffectDifference controls =
        effect_over_controls(all[0], std::span(all).subspan(1), static_cast<uint64_t>(set), resamples, 1);
    over += controls.p <= 0.05;
    over_covers += controls.ci.lo <= 0 && 0 <= controls.ci.hi;
    // 12 units with a spread of 2 against 36 with one of 1, equal means.
    ClusteredValues one, two;
    for (int i = 0; i < 48; ++i) {
      const double value = (i < 12 ? 2 : 1) * normal(generator);
      one.sums.push_back(i < 12 ? value : 0);
      one.counts.push_back(i < 12);
      two.sums.push_back(i < 12 ? 0 : value);
      two.counts.push_back(i >= 12);
    }
    const EffectDifference apart = difference_of_effects(one, two, static_cast<uint64_t>(set), resamples, 1);
    unequal += apart.p <= 0.05;
    unequal_covers += apart.ci.lo <= 0 && 0 <= apart.ci.hi;
  }
  const auto share = [&](int count) { return static_cast<double>(count) / n_sets; };
  MESSAGE("over controls: size " << share(over) << ", coverage " << share(over_covers) << "; apart: size "
                                 << share(unequal) << ", coverage " << share(unequal_covers));
  const double slack = 3 * std::sqrt(0.05 * 0.95 / n_sets);
  CHECK(share(over) < 0.05 + slack);
  CHECK(share(over_covers) > 0.94 - slack);
  CHECK(share(unequal) < 0.06 + slack);
  CHECK(share(unequal_covers) > 0.93 - slack);
}
