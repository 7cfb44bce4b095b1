#include "eval/statistics/binary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "base/no_number.h"

namespace signalbox::eval {

namespace {

// Probabilities of 0 ... n heads of n coins.
std::vector<double> coin_tosses(int64_t n) {
  std::vector<double> out;
  for (int64_t k = 0; k <= n; ++k)
    out.push_back(std::exp(std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0) -
                           static_cast<double>(n) * std::log(2.0)));
  return out;
}

// Variance of the ratio of sums over clusters by `plain`, that of as many single records.
double design_effect(const ClusteredValues& values, double mean, double total, double plain) {
  const double size = total / static_cast<double>(values.sums.size());
  if (!(plain > 0)) return std::max(1.0, size);
  double squares = 0;
  for (size_t i = 0; i < values.sums.size(); ++i) {
    const double residual = values.sums[i] - mean * values.counts[i];
    squares += residual * residual;
  }
  return std::max(1.0, squares / (total * total) / plain);
}

double sum_of(std::span<const double> values) { return std::accumulate(values.begin(), values.end(), 0.0); }

}  // namespace

double exact_sign_flip_p(std::span<const double> sums) {
  if (sums.empty()) return no_number;
  std::map<int64_t, int64_t> sizes;  // |sum| -> units
  int64_t observed = 0, most = 0;
  for (const double sum : sums) {
    const auto whole = static_cast<int64_t>(std::llround(sum));
    observed += whole;
    most += std::abs(whole);
    if (whole != 0) ++sizes[std::abs(whole)];
  }
  // [total + most] the probability of that total.
  std::vector<double> chance(static_cast<size_t>(2 * most + 1), 0.0), next(chance.size());
  chance[static_cast<size_t>(most)] = 1;
  int64_t reach = 0;
  for (const auto& [size, n] : sizes) {
    const std::vector<double> heads = coin_tosses(n);
    std::fill(next.begin(), next.end(), 0.0);
    for (int64_t at = most - reach; at <= most + reach; ++at) {
      if (chance[static_cast<size_t>(at)] == 0) continue;
      for (int64_t k = 0; k <= n; ++k)
        next[static_cast<size_t>(at + size * (2 * k - n))] +=
            chance[static_cast<size_t>(at)] * heads[static_cast<size_t>(k)];
    }
    chance.swap(next);
    reach += size * n;
  }
  double p = 0;
  for (int64_t total = std::abs(observed); total <= most; ++total)
    p += chance[static_cast<size_t>(most + total)] + (total > 0 ? chance[static_cast<size_t>(most - total)] : 0.0);
  return observed == 0 ? 1 : std::min(1.0, p);
}

ClusteredChanges clustered_changes(std::span<const double> values, const ClusteredValues& differences) {
  ClusteredChanges out;
  out.n = static_cast<double>(values.size());
  for (const double value : values) {
    out.up += value > 0;
    out.down += value < 0;
  }
  const double mean = (out.up - out.down) / out.n;
  const double effect = design_effect(differences, mean, out.n, ((out.up + out.down) / out.n - mean * mean) / out.n);
  return {out.up / effect, out.down / effect, out.n / effect};
}

double paired_standard_error(const ClusteredChanges& changes) {
  const double n = changes.n + 2, up = (changes.up + 1) / n, down = (changes.down + 1) / n;
  return std::sqrt((up + down - (up - down) * (up - down)) / n);
}

Interval rate_interval(const ClusteredValues& values, double z) {
  const double total = sum_of(values.counts), rate = sum_of(values.sums) / total;
  const double n = total / design_effect(values, rate, total, rate * (1 - rate) / total);
  const double middle = (rate + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(rate * (1 - rate) / n + z * z / (4 * n * n));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

}  // namespace signalbox::eval
