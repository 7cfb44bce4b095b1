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
// values taken) and n, the number of values. No unit: NaN. A value that is not finite: the interval is NaN.
std::vector<MeanEstimate> bootstrap_means(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                          int n_threads);

// For each column of differences the two-sided p of mean = 0: the sign of every unit's sum is flipped at random, p =
// (1 + hits) / (1 + resamples), a hit being a mean at least as far from 0 as the observed one. NaN where there is no
// unit or a value is not finite.
std::vector<double> sign_flip_ps(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                 int n_threads);

}  // namespace signalbox::eval
