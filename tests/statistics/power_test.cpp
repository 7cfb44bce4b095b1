// Standard errors, minimal detectable effects and equivalence: against statsmodels. Numbers by
// tests/statistics/make_numbers.py.
#include "eval/statistics/power.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace signalbox::eval;

namespace {

ClusteredValues singles(const std::vector<double>& values) { return {values, std::vector<double>(values.size(), 1.0)}; }

const std::vector<double> x = {0.3, -1.2, 2.5, 0.7, 1.9, -0.4, 3.1, 0.05, 1.4, 2.2, -0.9, 0.6};

}  // namespace

TEST_CASE("power: the error of a mean, and of a ratio") {
  const MeanError plain = mean_error(singles(x));
  CHECK(plain.mean == doctest::Approx(0.8541666666666666).epsilon(1e-13));
  CHECK(plain.error == doctest::Approx(0.3975997270236651).epsilon(1e-13));
  CHECK(plain.n_units == 12);
  const MeanError ratio = mean_error({{2, 1.3, 4.2, -0.4, 3.3}, {1, 2, 3, 1, 5}});
  CHECK(ratio.mean == doctest::Approx(0.8666666666666666).epsilon(1e-13));
  CHECK(ratio.error == doctest::Approx(0.24124324336473305).epsilon(1e-13));
  CHECK(std::isnan(mean_error(singles({2})).error));
  CHECK(std::isnan(mean_error({}).mean));
  CHECK(mean_error(singles({0.1, 0.1, 0.1})).error == 0);
}

TEST_CASE("power: the smallest effect found with 80 % power is scipy's") {
  // Solved with scipy.stats.nct; TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) * sqrt(n) to its five digits.
  const std::pair<int64_t, double> cases[] = {
      {2, 16.3340088699}, {5, 3.76105955383}, {20, 2.95358486982}, {100, 2.82912632781}, {1000, 2.80427859676}};
  for (const auto& one : cases) {
    const auto n = one.first;
    const double expected = one.second;
    CAPTURE(n);
    CHECK(minimal_detectable_effect({0, 1, n}) == doctest::Approx(expected).epsilon(1e-9));
    CHECK(minimal_detectable_effect({5, 0.25, n}) == doctest::Approx(expected / 4).epsilon(1e-9));
  }
  CHECK(minimal_detectable_effect({0, 1, 20}, 0.9) > minimal_detectable_effect({0, 1, 20}));
  CHECK(std::isnan(minimal_detectable_effect({0, 0, 20})));
  CHECK(std::isnan(minimal_detectable_effect(mean_error(singles({3})))));
}

TEST_CASE("power: equivalence is statsmodels' two one-sided tests") {
  const MeanError mean = mean_error(singles(x));
  const std::pair<double, double> cases[] = {
      {1.0, 0.3603689013647804}, {1.5, 0.06629402399951688}, {3.0, 0.00010883031216704002}};
  for (const auto& [margin, p] : cases) {
    CHECK(equivalence_p(mean, margin) == doctest::Approx(p).epsilon(1e-9));
    CHECK(equivalence_p({-mean.mean, mean.error, mean.n_units}, margin) == equivalence_p(mean, margin));
  }
  CHECK(equivalence_p(mean, 0.5) > 0.5);  // the mean itself lies outside
  CHECK(std::isnan(equivalence_p({0, 0, 20}, 0.1)));
}
