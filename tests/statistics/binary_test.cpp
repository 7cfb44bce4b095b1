// Values of 0 and 1 in clusters: against scipy, statsmodels and enumeration (binary_numbers.py).
#include "eval/statistics/binary.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace signalbox;
using namespace signalbox::eval;

namespace {

ClusteredValues singles(const std::vector<double>& values) { return {values, std::vector<double>(values.size(), 1.0)}; }

doctest::Approx near_to(double value, double relative = 1e-9) { return doctest::Approx(value).epsilon(relative); }

}  // namespace

TEST_CASE("binary: Wilson's interval of a rate") {
  const double z = 1.959963984540054;
  std::vector<double> rates(30, 1.0);
  rates[3] = rates[7] = rates[9] = 0;
  CHECK(rate_interval(singles(rates), z).lo == near_to(0.7437891742081592));
  CHECK(rate_interval(singles(rates), z).hi == near_to(0.9654001112526659));
  CHECK(rate_interval(singles(std::vector<double>(30, 1.0)), z).hi == near_to(1.0));
  CHECK(rate_interval(singles(std::vector<double>(30, 1.0)), z).lo < 0.9);
}

TEST_CASE("binary: pairs of records that agree count as half as many") {
  std::vector<double> values, doubled;
  std::vector<int64_t> units;
  for (int i = 0; i < 40; ++i) {
    values.push_back(i < 6 ? 1 : i < 8 ? -1 : 0);
    for (int k = 0; k < 2; ++k) {
      doubled.push_back(values.back());
      units.push_back(i);
    }
  }
  const ClusteredChanges one = clustered_changes(values, singles(values)),
                         two = clustered_changes(doubled, cluster_values(doubled, units));
  CHECK(one.n == 40);
  CHECK(one.up == 6);
  CHECK(two.n == near_to(40));
  CHECK(two.up == near_to(6));
  CHECK(two.down == near_to(2));
  // Records of a pair that have nothing in common count by themselves; so do none less than that.
  const ClusteredChanges spread =
      clustered_changes(std::vector<double>{1, -1, 0, 0},
                        cluster_values(std::vector<double>{1, -1, 0, 0}, std::vector<int64_t>{0, 0, 1, 1}));
  CHECK(spread.n == 4);
  // Without any change: as many as there are pairs.
  const std::vector<double> none(80, 0.0);
  CHECK(clustered_changes(none, cluster_values(none, units)).n == near_to(40));
}

TEST_CASE("binary: the exact test counts sign patterns") {
  CHECK(exact_sign_flip_p(std::vector<double>{1, 1, 1, 1}) == near_to(0.125, 1e-12));
  CHECK(exact_sign_flip_p(std::vector<double>{2, 1, -1, 0, 1, 2, 1}) == near_to(0.15625, 1e-12));
  CHECK(exact_sign_flip_p(std::vector<double>{3, -2, 1, 1, 2, 2, 0, 1, 1, 1}) == near_to(0.07421875, 1e-12));
  std::vector<double> changes(400, 0.0);
  for (int i = 0; i < 11; ++i) changes[static_cast<size_t>(i)] = i < 9 ? 1 : -1;
  CHECK(exact_sign_flip_p(changes) == near_to(0.0654296875, 1e-12));  // McNemar's
  CHECK(exact_sign_flip_p(std::vector<double>{0, 0}) == 1);
  CHECK(exact_sign_flip_p(std::vector<double>{1, -1}) == 1);
  CHECK(std::isnan(exact_sign_flip_p({})));
  CHECK(exact_sign_flip_p(std::vector<double>(3000, 1.0)) < 1e-300);
}
