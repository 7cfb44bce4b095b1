#include "eval/circuit/hypotheses.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <numeric>

#include "eval/data/dice.h"

namespace signalbox::eval {

namespace {

double at_least(int64_t k, int64_t n, double share) {
  if (k <= 0) return 1;
  const boost::math::binomial_distribution<> counts(static_cast<double>(n), share);
  return boost::math::cdf(boost::math::complement(counts, static_cast<double>(k - 1)));
}

double at_most(int64_t k, int64_t n, double share) {
  const boost::math::binomial_distribution<> counts(static_cast<double>(n), share);
  return boost::math::cdf(counts, static_cast<double>(k));
}

// exp(-d^2 / (2 s^2)), s the median of the distances between different records that are not 0; centred by rows and
// columns. Empty where all values are one.
std::vector<double> centred_kernel(std::span<const double> x) {
  const size_t n = x.size();
  std::vector<double> distances;
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < i; ++j)
      if (x[i] != x[j]) distances.push_back(std::fabs(x[i] - x[j]));
  if (distances.empty()) return {};
  const auto middle = distances.begin() + static_cast<int64_t>(distances.size() / 2);
  std::nth_element(distances.begin(), middle, distances.end());
  const double width = *middle;
  std::vector<double> kernel(n * n), means(n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      const double d = (x[i] - x[j]) / width;
      kernel[i * n + j] = std::exp(-d * d / 2);
      means[i] += kernel[i * n + j] / static_cast<double>(n);
    }
  const double mean = std::accumulate(means.begin(), means.end(), 0.0) / static_cast<double>(n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) kernel[i * n + j] += mean - means[i] - means[j];
  return kernel;
}

}  // namespace

EquivalenceTest test_equivalence(std::span<const double> circuit, std::span<const double> model, double epsilon) {
  EquivalenceTest test;
  for (size_t i = 0; i < circuit.size(); ++i)
    ++(circuit[i] > model[i] ? test.wins : circuit[i] < model[i] ? test.losses : test.ties);
  const int64_t n = test.wins + test.losses;
  test.share = static_cast<double>(test.wins) / static_cast<double>(n);
  if (n == 0) return test;
  // Counts at least as far from n/2, exactly: |2k - n| >= |wins - losses|.
  const int64_t more = std::max(test.wins, test.losses), less = n - more;
  test.p = more == less ? 1 : std::min(1.0, at_least(more, n, 0.5 + epsilon) + at_most(less, n, 0.5 + epsilon));
  return test;
}

IndependenceTest test_independence(std::span<const double> complement, std::span<const double> model, uint64_t seed,
                                   int64_t permutations) {
  IndependenceTest test;
  test.permutations = permutations;
  const size_t n = complement.size();
  const std::vector<double> one = centred_kernel(complement), two = centred_kernel(model);
  if (one.empty() || two.empty()) return test;
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto statistic = [&] {
    double sum = 0;
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) sum += one[i * n + j] * two[order[i] * n + order[j]];
    return sum / static_cast<double>(n * n);
  };
  test.hsic = statistic();
  Dice dice(seed, "circuit independence");
  int64_t hits = 0;
  for (int64_t b = 0; b < permutations; ++b) {
    dice.shuffle(order);
    // What differs by rounding alone is equal.
    hits += statistic() >= test.hsic * (1 - 1e-12);
  }
  test.p = static_cast<double>(1 + hits) / static_cast<double>(1 + permutations);
  return test;
}

std::vector<double> holm(std::span<const double> p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  std::vector<double> corrected(p.size());
  double largest = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(p.size() - i) * p[order[i]]));
    corrected[order[i]] = largest;
  }
  return corrected;
}

MinimalityTest test_minimality(std::span<const double> changes, std::span<const double> reference, double quantile) {
  MinimalityTest test;
  for (const double change : changes) {
    test.exceeded.push_back(std::count_if(reference.begin(), reference.end(), [&](double r) { return r < change; }));
    test.p.push_back(at_most(test.exceeded.back(), static_cast<int64_t>(reference.size()), quantile));
  }
  test.holm = holm(test.p);
  return test;
}

RandomCircuitTest test_against_random(double distance, std::span<const double> random_distances, double quantile) {
  RandomCircuitTest test;
  test.n = static_cast<int64_t>(random_distances.size());
  test.worse =
      std::count_if(random_distances.begin(), random_distances.end(), [&](double other) { return other > distance; });
  test.p = at_least(test.worse, test.n, quantile);
  return test;
}

}  // namespace signalbox::eval
