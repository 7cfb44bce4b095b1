// Bootstrap and sign flips of many means at once, with the draws of bootstrap_mean and sign_flip_p. All columns (an
// intervention and metric each) of one number of clusters see the same draws, made once, and a block of columns is one
// matrix product; so a run of hundreds of interventions costs seconds. Draws are functions of (seed, replicate, unit):
// results depend neither on the number of threads nor on which other columns are there.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// Values summed by the unit that is resampled (a pair of records, or a record): sums[i] of counts[i] values, all
// counts > 0. The mean is the sum of sums over the sum of counts.
struct ClusteredValues {
  std::vector<double> sums;
  std::vector<double> counts;
};

// Sums values by cluster; `cluster_of[i]` is any label >= 0 of value i's cluster. Units stand in order of first
// appearance.
ClusteredValues cluster_values(std::span<const double> values, std::span<const int64_t> cluster_of);

// Values with the unit of each, on their way to ClusteredValues.
struct UnitValues {
  std::vector<double> values;
  std::vector<int64_t> units;  // labels >= 0
  void add(double value, int64_t unit) {
    values.push_back(value);
    units.push_back(unit);
  }
  ClusteredValues clustered() const { return cluster_values(values, units); }
};

// For each column the mean, its 95 % percentile bootstrap interval (units drawn with replacement, the mean of their
// values taken) and n, the number of values. No unit: NaN. One unit, or a value that is not finite: the interval is
// NaN.
std::vector<MeanEstimate> bootstrap_means(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                          int n_threads);

// The same with BCa intervals whose levels are widened for few units (corrected_interval): of 20 units of normal,
// exponential or half-zero values 93 to 96 % cover, where percentiles come to 90 to 92 %; of few values that differ
// from 0 neither does (eval/statistics/changes.h for yes and no).
std::vector<MeanEstimate> corrected_means(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                          int n_threads);

// For each column of differences the two-sided p of mean = 0: the sign of every unit's sum is flipped at random, p =
// (1 + hits) / (1 + resamples), a hit being a mean at least as far from 0 as the observed one. NaN where there is no
// unit or a value is not finite. The null is symmetry around 0. Dividing by a standard error would change nothing:
// flips leave the sum of squares as it is, so that t grows with the mean.
std::vector<double> sign_flip_ps(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                 int n_threads);

}  // namespace signalbox::eval
