// Resampling: against numpy and scipy, against enumeration by hand, and calibrated in simulation.
#include "eval/statistics/resampling.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "base/error.h"
#include "eval/statistics/draws.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

bool near(double a, double b, double relative = 1e-12) {
  return std::abs(a - b) <= relative * std::max(1.0, std::abs(b));
}

// Largest distance between the values' distribution function and the uniform one.
double kolmogorov_smirnov(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  double largest = 0;
  const double n = static_cast<double>(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    largest = std::max({largest, static_cast<double>(i + 1) / n - values[i], values[i] - static_cast<double>(i) / n});
  return largest;
}

}  // namespace

TEST_CASE("quantiles are numpy's") {
  // np.quantile(np.sort([3.1, -2, 7.25, 0.5, 0.5, 9, 1]), q)
  const std::vector<double> sorted = {-2.0, 0.5, 0.5, 1.0, 3.1, 7.25, 9.0};
  const std::pair<double, double> cases[] = {{0, -2},       {0.025, -1.625}, {0.1, -0.5}, {0.5, 1},
                                             {0.75, 5.175}, {0.975, 8.7375}, {1, 9}};
  for (const auto& [q, expected] : cases) CHECK(near(quantile(sorted, q), expected));
  CHECK(quantile(std::vector<double>{4.0}, 0.3) == 4.0);
  CHECK(std::isnan(quantile({}, 0.5)));
}

TEST_CASE("q-values are Benjamini and Hochberg's") {
  // scipy.stats.false_discovery_control([0.01, 0.04, 0.03, 0.005, 0.8, 0.2, 0.04])
  const std::vector<double> p = {0.01, 0.04, 0.03, 0.005, 0.8, 0.2, 0.04};
  const std::vector<double> expected = {0.035, 0.056, 0.056, 0.035, 0.8, 0.7 / 3, 0.056};
  const std::vector<double> q = benjamini_hochberg(p);
  REQUIRE(q.size() == p.size());
  for (size_t i = 0; i < q.size(); ++i) CHECK(near(q[i], expected[i]));
  // NaN is outside the family.
  const std::vector<double> with_gap = benjamini_hochberg(std::vector<double>{0.02, NAN, 0.5});
  CHECK(near(with_gap[0], 0.04));
  CHECK(std::isnan(with_gap[1]));
  CHECK(near(with_gap[2], 0.5));
  CHECK(benjamini_hochberg(std::vector<double>{1, 1}) == std::vector<double>{1, 1});
  CHECK(benjamini_hochberg({}).empty());
}

TEST_CASE("rank correlation is scipy's") {
  // scipy.stats.spearmanr
  const std::vector<double> x = {1, 2, 2, 4, 7, 7, 7, 9}, y = {3, 1, 4, 4, 6, 5, 9, 2};
  CHECK(near(*spearman(x, y), 0.36430860056207226));
  CHECK(near(*spearman(x, x), 1));
  std::vector<double> turned = x;
  for (double& value : turned) value = -value;
  CHECK(near(*spearman(x, turned), -1));
  CHECK(!spearman(std::vector<double>{1, 2}, std::vector<double>{2, 1}));
  CHECK(!spearman(std::vector<double>{1, 2, 3}, std::vector<double>{5, 5, 5}));
  CHECK_THROWS_AS(spearman(std::vector<double>{1}, std::vector<double>{1, 2}), Error);
}

TEST_CASE("p of Student's t is scipy's") {
  // 2 * scipy.stats.t.sf(abs(t), df)
  CHECK(near(student_t_p(2.0, 10), 0.07338803477074037));
  CHECK(near(student_t_p(0.3, 1), 0.8144528418445154));
  CHECK(std::abs(student_t_p(-4.5, 29.5) / 9.827422005035675e-05 - 1) < 1e-10);
  CHECK(std::abs(student_t_p(12, 200) / 2.422136005246625e-25 - 1) < 1e-9);
  CHECK(student_t_p(0, 5) == 1);
  CHECK(student_t_p(INFINITY, 5) == 0);
  CHECK(std::isnan(student_t_p(NAN, 5)));
  CHECK(std::isnan(student_t_p(1, 0)));
}

TEST_CASE("draws depend on seed, purpose, stratum, replicate and unit, and on nothing else") {
  const auto draw = [](uint64_t seed, Resampling purpose, uint32_t stratum, int64_t replicate, size_t n) {
    std::vector<uint32_t> bits(n);
    ResamplingDraws(seed, purpose, stratum).fill(replicate, bits);
    return bits;
  };
  const auto base = draw(7, Resampling::bootstrap, 0, 3, 11);
  auto longer = draw(7, Resampling::bootstrap, 0, 3, 40);
  longer.resize(11);
  CHECK(base == longer);
  CHECK(base != draw(8, Resampling::bootstrap, 0, 3, 11));
  CHECK(base != draw(7 + (uint64_t{1} << 40), Resampling::bootstrap, 0, 3, 11));
  CHECK(base != draw(7, Resampling::signs, 0, 3, 11));
  CHECK(base != draw(7, Resampling::bootstrap, 1, 3, 11));
  CHECK(base != draw(7, Resampling::bootstrap, 0, 4, 11));

  // Every unit is drawn equally often: chi-square with 9 degrees of freedom, 99.9 % point 27.9. Subsets: as well.
  std::vector<double> drawn(10, 0), chosen(10, 0);
  std::vector<uint32_t> bits(10), items(10);
  for (int64_t b = 0; b < 5000; ++b) {
    ResamplingDraws(1, Resampling::bootstrap).fill(b, bits);
    for (uint32_t word : bits) ++drawn[ResamplingDraws::below(word, 10)];
    ResamplingDraws(1, Resampling::permutation).fill(b, bits);
    std::iota(items.begin(), items.end(), 0u);
    ResamplingDraws::draw_subset(std::span(items), 3, std::span<const uint32_t>(bits));
    for (size_t i = 0; i < 3; ++i) ++chosen[items[i]];
  }
  double drawn_chi = 0, chosen_chi = 0;
  for (size_t i = 0; i < 10; ++i) {
    drawn_chi += (drawn[i] - 5000) * (drawn[i] - 5000) / 5000;
    chosen_chi += (chosen[i] - 1500) * (chosen[i] - 1500) / 1500;
  }
  CHECK(drawn_chi < 27.9);
  CHECK(chosen_chi < 27.9);
}

TEST_CASE("bootstrap of a mean") {
  // 40 values 0 .. 39 under numpy's generator, B = 200000: np.quantile(means, [.025, .975]) = [15.925, 23.075]; the
  // error of an end at B = 10000 is about 0.05.
  std::vector<double> values(40);
  std::iota(values.begin(), values.end(), 0.0);
  const MeanEstimate estimate = bootstrap_mean(values, {}, 0);
  CHECK(estimate.mean == 19.5);
  CHECK(estimate.n == 40);
  CHECK(std::abs(estimate.ci.lo - 15.925) < 0.2);
  CHECK(std::abs(estimate.ci.hi - 23.075) < 0.2);
  const MeanEstimate again = bootstrap_mean(values, {}, 0), other = bootstrap_mean(values, {}, 1);
  CHECK(again.ci.lo == estimate.ci.lo);
  CHECK((other.ci.lo != estimate.ci.lo || other.ci.hi != estimate.ci.hi));

  // Each value twice, in one cluster: the same information. Without clusters the interval would shrink by sqrt(2).
  std::vector<double> twice;
  std::vector<int64_t> clusters;
  for (size_t i = 0; i < values.size(); ++i)
    for (int k = 0; k < 2; ++k) {
      twice.push_back(values[i]);
      clusters.push_back(static_cast<int64_t>(i));
    }
  const MeanEstimate together = bootstrap_mean(twice, clusters, 0);
  CHECK(together.ci.lo == estimate.ci.lo);
  CHECK(together.ci.hi == estimate.ci.hi);
  CHECK(together.n == 80);
  const MeanEstimate apart = bootstrap_mean(twice, {}, 0);
  CHECK(apart.ci.hi - apart.ci.lo < 0.8 * (together.ci.hi - together.ci.lo));

  // Clusters of different sizes: the mean is over values. {0, 0, 0} and {4}: 0, 1 or 4.
  const MeanEstimate uneven =
      bootstrap_mean(std::vector<double>{0, 0, 0, 4}, std::vector<int64_t>{0, 0, 0, 1}, 0, 2000);
  CHECK(uneven.mean == 1);
  CHECK(uneven.ci.lo == 0);
  CHECK(uneven.ci.hi == 4);

  const MeanEstimate one = bootstrap_mean(std::vector<double>{1, 3}, std::vector<int64_t>{0, 0}, 0);
  CHECK(one.mean == 2);
  CHECK(std::isnan(one.ci.lo));
  CHECK(std::isnan(one.ci.hi));
  const MeanEstimate none = bootstrap_mean({}, {}, 0);
  CHECK(std::isnan(none.mean));
  CHECK(std::isnan(none.ci.lo));
  CHECK(none.n == 0);
  CHECK_THROWS_AS(bootstrap_mean(values, std::vector<int64_t>{0}, 0), Error);
  CHECK_THROWS_AS(bootstrap_mean(std::vector<double>{1}, std::vector<int64_t>{1}, 0), Error);
  CHECK_THROWS_AS(bootstrap_mean(values, {}, 0, 0), Error);
}

TEST_CASE("sign flips") {
  // All 32 flips of 1 .. 5: two are as far from 0 as no flip. Of {1, 2, 3, 4, -5}: |sum| >= 5 in 20 of 32.
  const int64_t n = 20000;
  CHECK(std::abs(sign_flip_p(std::vector<double>{1, 2, 3, 4, 5}, {}, 0, n) - 2.0 / 32) < 0.006);
  CHECK(std::abs(sign_flip_p(std::vector<double>{1, 2, 3, 4, -5}, {}, 0, n) - 20.0 / 32) < 0.012);
  // The scale does not matter, nor does the direction.
  const double p = sign_flip_p(std::vector<double>{1, 2, 3, 4, -5}, {}, 0, n);
  CHECK(sign_flip_p(std::vector<double>{1e-13, 2e-13, 3e-13, 4e-13, -5e-13}, {}, 0, n) == p);
  CHECK(sign_flip_p(std::vector<double>{-1, -2, -3, -4, 5}, {}, 0, n) == p);
  // Ties count as hits: a mean of 0, and flips that leave the same magnitude.
  CHECK(sign_flip_p(std::vector<double>{0, 0, 0}, {}, 0, 100) == 1);
  CHECK(sign_flip_p(std::vector<double>{0.1, -0.1}, {}, 0, 100) == 1);
  CHECK(sign_flip_p(std::vector<double>{0.3}, {}, 0, 100) == 1);
  // Clusters flip whole: {1, 2} {3} {4, 5} has eight flips, two of them extreme.
  CHECK(std::abs(sign_flip_p(std::vector<double>{1, 2, 3, 4, 5}, std::vector<int64_t>{0, 0, 1, 2, 2}, 0, n) - 0.25) <
        0.012);
  CHECK(std::isnan(sign_flip_p({}, {}, 0)));
  // (1 + hits) / (1 + B) is never 0.
  CHECK(sign_flip_p(std::vector<double>(60, 1.0), {}, 0, 999) == 0.001);
}

TEST_CASE("bootstrap intervals cover at their rate" * doctest::test_suite("repeats: statistics at length")) {
  std::mt19937_64 generator(5);
  std::normal_distribution<double> normal;
  int covered = 0, covered_clusters = 0, covered_apart = 0;
  const int n_sets = 1000;
  for (int i = 0; i < n_sets; ++i) {
    std::vector<double> values(60);
    for (double& value : values) value = 2 + normal(generator);
    const MeanEstimate plain = bootstrap_mean(values, {}, static_cast<uint64_t>(i), 600);
    covered += plain.ci.lo <= 2 && 2 <= plain.ci.hi;
    // 60 clusters of three values that share half of their variance.
    std::vector<double> nested;
    std::vector<int64_t> clusters;
    for (int64_t c = 0; c < 60; ++c) {
      const double shared = normal(generator);
      for (int k = 0; k < 3; ++k) {
        nested.push_back(2 + shared + normal(generator));
        clusters.push_back(c);
      }
    }
    const MeanEstimate kept = bootstrap_mean(nested, clusters, static_cast<uint64_t>(i), 600);
    covered_clusters += kept.ci.lo <= 2 && 2 <= kept.ci.hi;
    const MeanEstimate torn = bootstrap_mean(nested, {}, static_cast<uint64_t>(i), 600);
    covered_apart += torn.ci.lo <= 2 && 2 <= torn.ci.hi;
  }
  CAPTURE(covered);
  CAPTURE(covered_clusters);
  CAPTURE(covered_apart);
  for (int count : {covered, covered_clusters}) {
    CHECK(count >= 920);
    CHECK(count <= 970);
  }
  CHECK(covered_apart < 900);  // what clusters are for
}

TEST_CASE("p-values are uniform under the null, and q-values hold their rate" *
          doctest::test_suite("repeats: statistics at length")) {
  std::mt19937_64 generator(6);
  std::normal_distribution<double> normal;
  std::vector<double> ps;
  for (int i = 0; i < 1000; ++i) {
    std::vector<double> values(30);
    for (double& value : values) value = normal(generator);
    ps.push_back(sign_flip_p(values, {}, static_cast<uint64_t>(i), 499));
  }
  CHECK(kolmogorov_smirnov(ps) < 1.63 / std::sqrt(1000.0));  // the 1 % point

  // 200 tests, 40 with an effect: at q < 0.05 the expected share of false discoveries is 0.05 * 160 / 200.
  double false_share = 0;
  int64_t found = 0;
  const int n_families = 60;
  for (int family = 0; family < n_families; ++family) {
    std::vector<double> family_p;
    for (int test = 0; test < 200; ++test) {
      std::vector<double> values(20);
      for (double& value : values) value = normal(generator) + (test < 40 ? 1.2 : 0.0);
      family_p.push_back(sign_flip_p(values, {}, static_cast<uint64_t>(family * 200 + test), 999));
    }
    const std::vector<double> q = benjamini_hochberg(family_p);
    int64_t right = 0, wrong = 0;
    for (int test = 0; test < 200; ++test) (test < 40 ? right : wrong) += q[static_cast<size_t>(test)] < 0.05;
    found += right;
    false_share += right + wrong == 0 ? 0 : static_cast<double>(wrong) / static_cast<double>(right + wrong);
  }
  false_share /= n_families;
  CAPTURE(false_share);
  CHECK(found > n_families * 38);
  CHECK(false_share < 0.04 + 0.012);
  CHECK(false_share > 0.02);
}
