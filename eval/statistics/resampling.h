// Resampling over examples: percentile bootstrap intervals, sign-flip and permutation p-values. Every draw is a
// function of (seed, replicate, unit), so results depend on neither threads nor order.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

inline constexpr int64_t default_resamples = 10000;

struct Interval {
  double lo = 0, hi = 0;
};

// The q-quantile (0 .. 1) of sorted values, linear between neighbours (numpy's default). NaN when there are none.
double quantile(std::span<const double> sorted, double q);

// A mean over units with its 95 % percentile bootstrap interval.
struct MeanEstimate {
  double mean = 0;
  Interval ci;
  int64_t n = 0;  // values
};

// `clusters[i]` is the example that value i belongs to (0, 1, ... in order of first appearance; empty: each its own):
// clusters are resampled whole. One cluster: the interval is NaN. No value: mean and interval are NaN, n 0.
MeanEstimate bootstrap_mean(std::span<const double> values, std::span<const int64_t> clusters, uint64_t seed,
                            int64_t resamples = default_resamples);

// Two-sided p of mean(differences) = 0: signs flipped cluster by cluster, (1 + hits) / (1 + resamples).
double sign_flip_p(std::span<const double> differences, std::span<const int64_t> clusters, uint64_t seed,
                   int64_t resamples = default_resamples);

// Benjamini-Hochberg q-values, in the order of p. NaN p's are left out of the family and stay NaN.
std::vector<double> benjamini_hochberg(std::span<const double> p);

// Spearman's rank correlation, ties with their mean rank; nullopt for fewer than 3 pairs or a constant side.
std::optional<double> spearman(std::span<const double> x, std::span<const double> y);

// Two-sided p of Student's t.
double student_t_p(double t, double degrees_of_freedom);

}  // namespace signalbox::eval
