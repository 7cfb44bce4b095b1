#include "eval/causal/estimates.h"

#include <cmath>
#include <numeric>
#include <thread>

#include "base/no_number.h"
#include "eval/statistics/corrected.h"
#include "eval/statistics/draws.h"
#include "eval/statistics/power.h"

namespace signalbox::eval {

std::vector<PairedEstimate> estimate_family(std::span<const UnitValues> columns, const Resamples& resamples) {
  std::vector<ClusteredValues> clustered;
  for (const UnitValues& column : columns) clustered.push_back(column.clustered());
  return estimate_family(clustered, resamples);
}

std::vector<PairedEstimate> estimate_family(std::span<const ClusteredValues> clustered, const Resamples& resamples) {
  const int threads =
      resamples.threads > 0 ? resamples.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const std::vector<MeanEstimate> means = corrected_means(clustered, resamples.seed, resamples.n, threads);
  const std::vector<double> ps = sign_flip_ps(clustered, resamples.seed, resamples.n, threads),
                            qs = benjamini_hochberg(ps);
  std::vector<PairedEstimate> out;
  for (size_t i = 0; i < clustered.size(); ++i)
    out.push_back({means[i].mean, means[i].ci, ps[i], qs[i], static_cast<int64_t>(clustered[i].sums.size())});
  return out;
}

MeanEstimate ratio_of_means(std::span<const double> numerators, std::span<const double> denominators,
                            const Resamples& resamples) {
  const size_t n = numerators.size();
  MeanEstimate out{no_number, {no_number, no_number}, static_cast<int64_t>(n)};
  if (n < 2) return out;
  const MeanError of = mean_error({{denominators.begin(), denominators.end()}, std::vector<double>(n, 1.0)});
  if (!(std::fabs(of.mean) >= 2 * of.error)) return out;
  const auto ratio = [&](auto index_of) {
    double above = 0, below = 0;
    for (size_t i = 0; i < n; ++i) {
      above += numerators[index_of(i)];
      below += denominators[index_of(i)];
    }
    return above / below;
  };
  out.mean = ratio([](size_t i) { return i; });
  const ResamplingDraws draws(resamples.seed, Resampling::bootstrap);
  std::vector<uint32_t> bits(n);
  std::vector<double> replicates;
  for (int64_t r = 0; r < resamples.n; ++r) {
    draws.fill(r, bits);
    const double one = ratio([&](size_t i) { return ResamplingDraws::below(bits[i], n); });
    if (std::isfinite(one)) replicates.push_back(one);
  }
  out.ci = widened_interval(std::move(replicates), static_cast<double>(n - 1));
  return out;
}

void append_estimate(CsvWriter& table, const PairedEstimate& estimate) {
  table.cell(estimate.mean).cell(estimate.ci.lo).cell(estimate.ci.hi).cell(estimate.p).cell(estimate.q);
}

}  // namespace signalbox::eval
