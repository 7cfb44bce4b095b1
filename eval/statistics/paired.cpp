#include "eval/statistics/paired.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <unordered_map>

#include "base/no_number.h"
#include "base/thread_pool.h"
#include "eval/statistics/corrected.h"
#include "eval/statistics/draws.h"

// One body compiled for several instruction sets. Multiplication and addition stay separate (-ffp-contract=off) and
// every lane sums in the order of the units, so all clones give the same bits. Sanitizers cannot run the resolver.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define SIGNALBOX_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SIGNALBOX_CLONES
#endif

namespace signalbox::eval {

namespace {

constexpr int64_t n_lanes = 8;          // replicates of a block
constexpr int64_t n_side = 4;           // columns that share a load of the draws
constexpr int64_t group_columns = 512;  // columns whose replicates are held at once: 41 MB for 10,000 replicates

typedef double Lanes __attribute__((vector_size(n_lanes * sizeof(double))));

// draws [n, n_lanes]: how often each unit was drawn in the replicates begin, begin + 1, ...; `bits` is scratch.
void draw_multiplicities(double* draws, std::vector<uint32_t>& bits, uint64_t seed, int64_t begin) {
  std::fill(draws, draws + static_cast<int64_t>(bits.size()) * n_lanes, 0.0);
  const ResamplingDraws source(seed, Resampling::bootstrap);
  for (int64_t lane = 0; lane < n_lanes; ++lane) {
    source.fill(begin + lane, bits);
    for (uint32_t bit : bits) draws[int64_t{ResamplingDraws::below(bit, bits.size())} * n_lanes + lane] += 1;
  }
}

// draws [n, n_lanes]: +1 or -1 for each unit.
void draw_signs(double* draws, std::vector<uint32_t>& bits, uint64_t seed, int64_t begin) {
  const ResamplingDraws source(seed, Resampling::signs);
  for (int64_t lane = 0; lane < n_lanes; ++lane) {
    source.fill(begin + lane, bits);
    for (size_t i = 0; i < bits.size(); ++i)
      draws[static_cast<int64_t>(i) * n_lanes + lane] = ResamplingDraws::sign(bits[i]);
  }
}

// out [n_side, n_lanes] = sum over i of units[i, side] * draws[i, lane].
SIGNALBOX_CLONES void multiply(double* out, const double* units, const double* draws, int64_t n) {
  Lanes sums[n_side] = {};
  for (int64_t i = 0; i < n; ++i) {
    Lanes draw;
    __builtin_memcpy(&draw, draws + i * n_lanes, sizeof draw);
    for (int64_t s = 0; s < n_side; ++s) sums[s] += draw * units[i * n_side + s];
  }
  __builtin_memcpy(out, sums, sizeof sums);
}

// Interleaves n_side vectors of n numbers; absent ones are 0.
std::vector<double> interleave(const std::vector<const std::vector<double>*>& vectors, int64_t n) {
  const auto n_blocks = static_cast<int64_t>((vectors.size() + n_side - 1) / n_side);
  std::vector<double> out(static_cast<size_t>(n_blocks * n * n_side), 0.0);
  for (size_t v = 0; v < vectors.size(); ++v)
    for (int64_t i = 0; i < n; ++i)
      out[((static_cast<int64_t>(v) / n_side) * n + i) * n_side + static_cast<int64_t>(v) % n_side] = (*vectors[v])[i];
  return out;
}

bool all_finite(const ClusteredValues& column) {
  return std::all_of(column.sums.begin(), column.sums.end(), [](double x) { return std::isfinite(x); });
}

bool counts_are_one(const ClusteredValues& column) {
  return std::all_of(column.counts.begin(), column.counts.end(), [](double count) { return count == 1; });
}

double sum_of(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum;
}

// Indices of the columns that can be resampled, by number of units, at most group_columns together.
std::vector<std::vector<size_t>> groups_of(std::span<const ClusteredValues> columns, size_t least_units) {
  std::map<size_t, std::vector<std::vector<size_t>>> by_units;
  for (size_t c = 0; c < columns.size(); ++c) {
    if (columns[c].sums.size() < least_units || !all_finite(columns[c])) continue;
    auto& groups = by_units[columns[c].sums.size()];
    if (groups.empty() || groups.back().size() == group_columns) groups.emplace_back();
    groups.back().push_back(c);
  }
  std::vector<std::vector<size_t>> out;
  for (auto& [n, groups] : by_units) std::move(groups.begin(), groups.end(), std::back_inserter(out));
  return out;
}

// Products of vectors [any][n] with all draws: row v of the result has the replicates of vector v.
template <class MakeDraws>
std::vector<std::vector<double>> replicate_sums(const std::vector<const std::vector<double>*>& vectors, int64_t n,
                                                int64_t resamples, ThreadPool& pool, MakeDraws make_draws) {
  std::vector<std::vector<double>> out(vectors.size(), std::vector<double>(static_cast<size_t>(resamples)));
  const std::vector<double> units = interleave(vectors, n);
  const auto n_blocks = static_cast<int64_t>((vectors.size() + n_side - 1) / n_side);
  struct Scratch {
    std::vector<double> draws;
    std::vector<uint32_t> bits;
  };
  std::vector<Scratch> scratch(static_cast<size_t>(pool.n_threads()));
  pool.parallel_for((resamples + n_lanes - 1) / n_lanes, [&](int64_t task, int thread) {
    auto& [draws, bits] = scratch[thread];
    draws.resize(static_cast<size_t>(n * n_lanes));
    bits.resize(static_cast<size_t>(n));
    const int64_t begin = task * n_lanes;
    make_draws(draws.data(), bits, begin);
    double sums[n_side * n_lanes];
    for (int64_t block = 0; block < n_blocks; ++block) {
      multiply(sums, units.data() + block * n * n_side, draws.data(), n);
      for (int64_t s = 0; s < n_side; ++s) {
        const auto v = static_cast<size_t>(block * n_side + s);
        if (v >= vectors.size()) break;
        for (int64_t lane = 0; lane < std::min(n_lanes, resamples - begin); ++lane)
          out[v][static_cast<size_t>(begin + lane)] = sums[s * n_lanes + lane];
      }
    }
  });
  return out;
}

// Makes the interval of column c from its replicates, which it may change.
using MakeInterval = std::function<Interval(size_t c, std::vector<double>& replicates)>;

std::vector<MeanEstimate> resampled_means(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                          int n_threads, const MakeInterval& make_interval) {
  std::vector<MeanEstimate> out(columns.size());
  for (size_t c = 0; c < columns.size(); ++c) {
    const double count = sum_of(columns[c].counts);
    out[c] = {
        count == 0 ? no_number : sum_of(columns[c].sums) / count, {no_number, no_number}, static_cast<int64_t>(count)};
  }
  ThreadPool pool(std::max(n_threads, 1));
  for (const std::vector<size_t>& group : groups_of(columns, 2)) {
    const auto n = static_cast<int64_t>(columns[group[0]].sums.size());
    // The counts of a column are resampled as its sums are, unless every unit has one value: then n are drawn.
    std::vector<const std::vector<double>*> vectors;
    std::vector<int64_t> counts_at(group.size(), -1);
    for (size_t c : group) vectors.push_back(&columns[c].sums);
    for (size_t g = 0; g < group.size(); ++g) {
      const ClusteredValues& column = columns[group[g]];
      if (counts_are_one(column)) continue;
      if (g > 0 && counts_at[g - 1] >= 0 && column.counts == columns[group[g - 1]].counts) {
        counts_at[g] = counts_at[g - 1];  // the same records, as a rule
        continue;
      }
      counts_at[g] = static_cast<int64_t>(vectors.size());
      vectors.push_back(&column.counts);
    }
    std::vector<std::vector<double>> sums =
        replicate_sums(vectors, n, resamples, pool, [&](double* draws, std::vector<uint32_t>& bits, int64_t begin) {
          draw_multiplicities(draws, bits, seed, begin);
        });
    pool.parallel_for(static_cast<int64_t>(group.size()), [&](int64_t g, int) {
      std::vector<double> means = sums[g];
      for (size_t r = 0; r < means.size(); ++r)
        means[r] /= counts_at[g] < 0 ? static_cast<double>(n) : sums[static_cast<size_t>(counts_at[g])][r];
      out[group[g]].ci = make_interval(group[g], means);
    });
  }
  return out;
}

}  // namespace

ClusteredValues cluster_values(std::span<const double> values, std::span<const int64_t> cluster_of) {
  ClusteredValues out;
  std::unordered_map<int64_t, size_t> unit_of;  // looked up only
  for (size_t i = 0; i < values.size(); ++i) {
    const auto [found, is_new] = unit_of.emplace(cluster_of[i], out.sums.size());
    if (is_new) {
      out.sums.push_back(0);
      out.counts.push_back(0);
    }
    out.sums[found->second] += values[i];
    out.counts[found->second] += 1;
  }
  return out;
}

std::vector<MeanEstimate> bootstrap_means(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                          int n_threads) {
  return resampled_means(columns, seed, resamples, n_threads, [](size_t, std::vector<double>& means) -> Interval {
    std::sort(means.begin(), means.end());
    return {quantile(means, 0.025), quantile(means, 0.975)};
  });
}

std::vector<MeanEstimate> corrected_means(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                          int n_threads) {
  return resampled_means(columns, seed, resamples, n_threads, [&](size_t c, std::vector<double>& means) {
    const ClusteredValues& column = columns[c];
    const double mean = sum_of(column.sums) / sum_of(column.counts);
    std::vector<double> influences(column.sums.size());
    for (size_t i = 0; i < influences.size(); ++i) influences[i] = column.sums[i] - mean * column.counts[i];
    return corrected_interval(std::move(means), mean, influences, static_cast<double>(influences.size() - 1));
  });
}

std::vector<double> sign_flip_ps(std::span<const ClusteredValues> columns, uint64_t seed, int64_t resamples,
                                 int n_threads) {
  std::vector<double> out(columns.size(), no_number);
  ThreadPool pool(std::max(n_threads, 1));
  for (const std::vector<size_t>& group : groups_of(columns, 1)) {
    const auto n = static_cast<int64_t>(columns[group[0]].sums.size());
    std::vector<const std::vector<double>*> vectors;
    for (size_t c : group) vectors.push_back(&columns[c].sums);
    const std::vector<std::vector<double>> sums = replicate_sums(
        vectors, n, resamples, pool,
        [&](double* draws, std::vector<uint32_t>& bits, int64_t begin) { draw_signs(draws, bits, seed, begin); });
    for (size_t g = 0; g < group.size(); ++g) {
      const ClusteredValues& column = columns[group[g]];
      double largest = 0;
      for (double sum : column.sums) largest += std::abs(sum);
      // Rounding must not turn a tie into a miss.
      const double bound = std::abs(sum_of(column.sums)) - 1e-12 * largest;
      const auto hits =
          std::count_if(sums[g].begin(), sums[g].end(), [&](double sum) { return std::abs(sum) >= bound; });
      out[group[g]] = static_cast<double>(1 + hits) / static_cast<double>(1 + resamples);
    }
  }
  return out;
}

}  // namespace signalbox::eval
