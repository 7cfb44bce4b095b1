// Paired changes of a yes or no: against scipy, the interval against the exact test for all counts, and its coverage
// summed over all outcomes. Numbers by tests/statistics/make_numbers.py.
#include "eval/statistics/changes.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

using namespace signalbox;
using namespace signalbox::eval;

TEST_CASE("changes: the exact test and its interval are scipy's") {
  struct Expected {
    int64_t plus, minus, n;
    double p;
    Interval at_95, at_90;
  };
  const Expected cases[] = {
      {4, 0, 40, 0.125, {-0.034665072548, 0.236637399876}, {-0.008244208494, 0.214397638516}},
      {6, 0, 40, 0.03125, {0.007410622321, 0.298352666840}, {0.021509150163, 0.274744505014}},
      {0, 0, 100, 1, {-0.036216692645, 0.036216692645}, {-0.029513049607, 0.029513049607}},
      {40, 20, 200, 0.0134892937311919, {0.018909111154, 0.175248397536}, {0.030878033148, 0.164241966657}},
      {3, 12, 60, 0.03515625, {-0.267111572054, -0.007893336810}, {-0.251636698544, -0.025874565708}},
      {5, 5, 30, 1, {-0.241615768108, 0.241615768108}, {-0.206741029559, 0.206741029559}},
      {30, 0, 30, 1.86264514923096e-09, {0.742668689770, 1}, {0.788266916140, 1}}};
  for (const Expected& one : cases) {
    const Changes changes{one.plus, one.minus, one.n};
    CAPTURE(one.plus);
    CAPTURE(one.minus);
    CHECK(exact_change_p(changes) == doctest::Approx(one.p).epsilon(1e-12));
    for (const bool wide : {true, false}) {
      const Interval found = change_interval(changes, wide ? 0.95 : 0.9), expected = wide ? one.at_95 : one.at_90;
      CHECK(std::abs(found.lo - expected.lo) < 1e-10);
      CHECK(std::abs(found.hi - expected.hi) < 1e-10);
    }
    // The other way round.
    const Interval turned = change_interval({one.minus, one.plus, one.n}), straight = change_interval(changes);
    CHECK(turned.lo == -straight.hi);
    CHECK(turned.hi == -straight.lo);
  }
  // scipy.stats.binomtest(k, n).proportion_ci(0.95, "exact")
  CHECK(proportion_interval(3, 20).lo == doctest::Approx(0.0320709372).epsilon(1e-8));
  CHECK(proportion_interval(3, 20).hi == doctest::Approx(0.3789268265).epsilon(1e-8));
  CHECK(proportion_interval(0, 20).lo == 0);
  CHECK(proportion_interval(20, 20).hi == 1);
  CHECK(std::isnan(proportion_interval(0, 0).lo));
  CHECK(std::isnan(change_interval({1, 0, 1}).lo));
  CHECK_THROWS_AS(change_interval({3, 2, 4}), Error);
}

TEST_CASE("changes: an interval excludes 0 exactly where the test rejects") {
  int differ = 0, wide = 0;
  for (const int64_t n : {2, 7, 20, 45})
    for (int64_t plus = 0; plus <= n; ++plus)
      for (int64_t minus = 0; minus + plus <= n; ++minus) {
        const Changes changes{plus, minus, n};
        const Interval interval = change_interval(changes);
        differ += (interval.lo > 0 || interval.hi < 0) != (exact_change_p(changes) <= 0.05);
        wide += interval.lo > changes.mean() + 1e-12 || interval.hi < changes.mean() - 1e-12 || interval.lo < -1 ||
                interval.hi > 1;
      }
  CHECK(differ == 0);
  CHECK(wide == 0);  // every interval holds the mean and lies within -1 to 1
}

TEST_CASE("changes: intervals cover at their level") {
  double least = 1;
  for (const int64_t n : {20, 50}) {
    std::vector<Interval> intervals(static_cast<size_t>((n + 1) * (n + 1)));
    for (int64_t plus = 0; plus <= n; ++plus)
      for (int64_t minus = 0; minus + plus <= n; ++minus)
        intervals[static_cast<size_t>(plus * (n + 1) + minus)] = change_interval({plus, minus, n});
    const double rates[][2] = {{0.01, 0},  {0.02, 0.01}, {0.05, 0},  {0.1, 0.02}, {0.2, 0.2}, {0.3, 0},
                               {0.3, 0.1}, {0.4, 0.4},   {0.6, 0.1}, {0.9, 0},    {0.5, 0.02}};
    for (const auto& design : rates) {
      const double plus_rate = design[0], minus_rate = design[1];
      double covered = 0;
      for (int64_t plus = 0; plus <= n; ++plus)
        for (int64_t minus = 0; minus + plus <= n; ++minus) {
          const Interval& interval = intervals[static_cast<size_t>(plus * (n + 1) + minus)];
          const double truth = plus_rate - minus_rate;
          if (interval.lo > truth + 1e-12 || interval.hi < truth - 1e-12) continue;
          const auto term = [](int64_t k, double rate) {
            return k == 0 ? 0 : static_cast<double>(k) * std::log(rate) - std::lgamma(static_cast<double>(k) + 1);
          };
          if (minus > 0 && minus_rate == 0) continue;
          covered += std::exp(std::lgamma(static_cast<double>(n) + 1) + term(plus, plus_rate) +
                              term(minus, minus_rate) + term(n - plus - minus, 1 - plus_rate - minus_rate));
        }
      CAPTURE(n);
      CAPTURE(plus_rate);
      CAPTURE(minus_rate);
      CHECK(covered > 0.955);
      least = std::min(least, covered);
    }
  }
  MESSAGE("least coverage " << least);
}

TEST_CASE("changes: equivalence") {
  // Nothing changed in n: (1 - margin)^n.
  CHECK(change_equivalence_p({0, 0, 100}, 0.05) == doctest::Approx(std::pow(0.95, 100)).epsilon(1e-9));
  // p is where the interval at 1 - 2 p touches the margin.
  const Changes some{3, 1, 80};
  const double p = change_equivalence_p(some, 0.1);
  CHECK(change_interval(some, 1 - 2 * p).hi == doctest::Approx(0.1).epsilon(1e-9));
  CHECK(change_equivalence_p({20, 0, 40}, 0.1) == 1);
  CHECK(std::isnan(change_equivalence_p({0, 0, 1}, 0.1)));
}
