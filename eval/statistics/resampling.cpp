#include "eval/statistics/resampling.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/no_number.h"
#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

// Sums of values by cluster, in order of the values.
struct Clustered {
  std::vector<double> sums;
  std::vector<double> counts;
};

Clustered by_cluster(std::span<const double> values, std::span<const int64_t> clusters) {
  if (!clusters.empty() && clusters.size() != values.size())
    throw Error("resampling", "expected a cluster for each of " + std::to_string(values.size()) + " values, found " +
                                  std::to_string(clusters.size()));
  Clustered out;
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t cluster = clusters.empty() ? i : static_cast<size_t>(clusters[i]);
    if (cluster > out.sums.size())
      throw Error("resampling", "expected clusters 0, 1, ... in order of first appearance, found " +
                                    std::to_string(clusters[i]) + " at " + std::to_string(i));
    if (cluster == out.sums.size()) {
      out.sums.push_back(0);
      out.counts.push_back(0);
    }
    out.sums[cluster] += values[i];
    out.counts[cluster] += 1;
  }
  return out;
}

void check_resamples(int64_t resamples) {
  if (resamples < 1) throw Error("resamples", "expected at least 1, found " + std::to_string(resamples));
}

// Ranks from 1; ties share their mean.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> out(values.size());
  for (size_t first = 0; first < order.size();) {
    size_t last = first + 1;
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    for (size_t i = first; i < last; ++i) out[order[i]] = 0.5 * static_cast<double>(first + 1 + last);
    first = last;
  }
  return out;
}

}  // namespace

double quantile(std::span<const double> sorted, double q) {
  if (sorted.empty()) return no_number;
  const double at = q * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(std::floor(at));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - std::floor(at)) * (sorted[above] - sorted[below]);
}

MeanEstimate bootstrap_mean(std::span<const double> values, std::span<const int64_t> clusters, uint64_t seed,
                            int64_t resamples) {
  check_resamples(resamples);
  const Clustered units = by_cluster(values, clusters);
  const size_t n = units.sums.size();
  MeanEstimate out;
  out.n = static_cast<int64_t>(values.size());
  if (n == 0) {
    out.mean = out.ci.lo = out.ci.hi = no_number;
    return out;
  }
  out.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  if (n == 1) {
    out.ci = {no_number, no_number};
    return out;
  }
  const ResamplingDraws draws(seed, Resampling::bootstrap);
  std::vector<uint32_t> bits(n);
  std::vector<double> means(static_cast<size_t>(resamples));
  for (int64_t b = 0; b < resamples; ++b) {
    draws.fill(b, bits);
    double sum = 0, count = 0;
    for (uint32_t word : bits) {
      const uint32_t unit = ResamplingDraws::below(word, n);
      sum += units.sums[unit];
      count += units.counts[unit];
    }
    means[static_cast<size_t>(b)] = sum / count;
  }
  std::sort(means.begin(), means.end());
  out.ci = {quantile(means, 0.025), quantile(means, 0.975)};
  return out;
}

double sign_flip_p(std::span<const double> differences, std::span<const int64_t> clusters, uint64_t seed,
                   int64_t resamples) {
  check_resamples(resamples);
  const std::vector<double> sums = by_cluster(differences, clusters).sums;
  if (sums.empty()) return no_number;
  // The number of values is the same under every flip, so sums are compared for means. Sums of the same terms in
  // other signs that are equal on paper may differ by rounding: that much below still counts as a tie.
  double observed = 0, scale = 0;
  for (double sum : sums) {
    observed += sum;
    scale += std::abs(sum);
  }
  const double bar = std::abs(observed) - 1e-12 * scale;
  const ResamplingDraws draws(seed, Resampling::signs);
  std::vector<uint32_t> bits(sums.size());
  int64_t hits = 0;
  for (int64_t b = 0; b < resamples; ++b) {
    draws.fill(b, bits);
    double flipped = 0;
    for (size_t i = 0; i < sums.size(); ++i) flipped += ResamplingDraws::sign(bits[i]) * sums[i];
    hits += std::abs(flipped) >= bar;
  }
  return static_cast<double>(1 + hits) / static_cast<double>(1 + resamples);
}

std::vector<double> benjamini_hochberg(std::span<const double> p) {
  std::vector<size_t> order;
  for (size_t i = 0; i < p.size(); ++i)
    if (!std::isnan(p[i])) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  std::vector<double> q(p.size(), no_number);
  double least = 1;
  for (size_t rank = order.size(); rank > 0; --rank) {
    const size_t i = order[rank - 1];
    least = std::min(least, p[i] * static_cast<double>(order.size()) / static_cast<double>(rank));
    q[i] = least;
  }
  return q;
}

std::optional<double> spearman(std::span<const double> x, std::span<const double> y) {
  if (x.size() != y.size())
    throw Error("spearman", "expected as many values on both sides, found " + std::to_string(x.size()) + " and " +
                                std::to_string(y.size()));
  if (x.size() < 3) return std::nullopt;
  const std::vector<double> rx = ranks(x), ry = ranks(y);
  const double mean = 0.5 * static_cast<double>(x.size() + 1);
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < rx.size(); ++i) {
    xy += (rx[i] - mean) * (ry[i] - mean);
    xx += (rx[i] - mean) * (rx[i] - mean);
    yy += (ry[i] - mean) * (ry[i] - mean);
  }
  if (xx == 0 || yy == 0) return std::nullopt;
  return std::clamp(xy / std::sqrt(xx * yy), -1.0, 1.0);
}

double student_t_p(double t, double degrees_of_freedom) {
  if (std::isnan(t) || !(degrees_of_freedom > 0)) return no_number;
  if (std::isinf(t)) return 0;
  const boost::math::students_t distribution(degrees_of_freedom);
  return std::min(1.0, 2 * boost::math::cdf(boost::math::complement(distribution, std::abs(t))));
}

}  // namespace signalbox::eval
