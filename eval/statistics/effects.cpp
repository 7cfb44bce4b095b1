#include "eval/statistics/effects.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/no_number.h"
#include "base/thread_pool.h"
#include "eval/statistics/corrected.h"
#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

constexpr int64_t replicates_per_task = 64;

// Strata of the draws: units of a kind, and control sets.
enum Stratum : uint32_t { shared_units = 0, units_of_one = 1, units_of_two = 2, control_sets = 3 };

double total(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

double mean_of(const ClusteredValues& values) { return total(values.sums) / total(values.counts); }

void check_aligned(const ClusteredValues& one, const ClusteredValues& other) {
  const size_t n = one.sums.size();
  if (one.counts.size() != n || other.sums.size() != n || other.counts.size() != n)
    throw Error("effects", "expected the same units on both sides, found " + std::to_string(n) + " and " +
                               std::to_string(other.sums.size()));
}

bool has_values(const ClusteredValues& values) {
  return total(values.counts) > 0 &&
         std::all_of(values.sums.begin(), values.sums.end(), [](double sum) { return std::isfinite(sum); });
}

// Calls f(replicate, thread) for all replicates.
void for_replicates(ThreadPool& pool, int64_t resamples, const std::function<void(int64_t, size_t)>& f) {
  pool.parallel_for((resamples + replicates_per_task - 1) / replicates_per_task, [&](int64_t task, int thread) {
    for (int64_t r = task * replicates_per_task; r < std::min(resamples, (task + 1) * replicates_per_task); ++r)
      f(r, static_cast<size_t>(thread));
  });
}

// Adds to times[units[i]] how often unit i of a stratum is drawn.
void draw(const ResamplingDraws& draws, int64_t replicate, const std::vector<size_t>& units,
          std::vector<uint32_t>& bits, std::vector<double>& times) {
  bits.resize(units.size());
  draws.fill(replicate, bits);
  for (uint32_t word : bits) times[units[ResamplingDraws::below(word, units.size())]] += 1;
}

double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

std::vector<size_t> all_units(size_t n) {
  std::vector<size_t> out(n);
  std::iota(out.begin(), out.end(), size_t{0});
  return out;
}

// Variance of a mean of values: n / (n - 1) sum (x - mean)^2 / n^2.
double variance_of_mean(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double mean = total(values) / n;
  double sum = 0;
  for (double value : values) sum += (value - mean) * (value - mean);
  return sum / n / (n - 1);
}

struct Scratch {
  std::vector<uint32_t> bits;
  std::vector<double> times, set_times;
  std::vector<size_t> order;
};

// Units of the two sides of a difference.
class TwoSides {
 public:
  TwoSides(const ClusteredValues& one, const ClusteredValues& two) : one_(one), two_(two) {
    for (size_t i = 0; i < one.sums.size(); ++i) {
      if (one.counts[i] > 0 && two.counts[i] > 0) {
        shared.push_back(i);
      } else if (one.counts[i] > 0) {
        only_one.push_back(i);
      } else if (two.counts[i] > 0) {
        only_two.push_back(i);
      }
    }
  }

  // Of each unit on the difference of the means, and by kind the variance that follows, for Satterthwaite.
  void influences(std::vector<double>& all, std::vector<double>& variances, std::vector<double>& freedoms) const {
    const double n1 = total(one_.counts), n2 = total(two_.counts), mean1 = mean_of(one_), mean2 = mean_of(two_);
    for (const std::vector<size_t>* kind : {&shared, &only_one, &only_two}) {
      std::vector<double> own;
      for (size_t i : *kind)
        own.push_back((one_.sums[i] - mean1 * one_.counts[i]) / n1 - (two_.sums[i] - mean2 * two_.counts[i]) / n2);
      all.insert(all.end(), own.begin(), own.end());
      if (own.size() < 2) continue;
      const auto n = static_cast<double>(own.size());
      variances.push_back(variance_of_mean(own) * n * n);
      freedoms.push_back(n - 1);
    }
  }

  // Each side has two units of a kind.
  bool has_spread() const {
    return std::max(shared.size(), only_one.size()) > 1 && std::max(shared.size(), only_two.size()) > 1;
  }

  // The squared difference of means over its variance under the labels that `label` says: of shared units whether the
  // sides are swapped, else whether the i-th of both sides' units stands on side one.
  double squared_t(const std::function<bool(size_t)>& label) const {
    double sums[2] = {0, 0}, counts[2] = {0, 0}, n[2] = {0, 0};
    const auto visit = [&](auto&& f) {
      for (size_t i = 0; i < shared.size(); ++i) f(i, shared[i]);
      if (!shared.empty()) return;
      for (size_t i = 0; i < only_one.size(); ++i) f(i, only_one[i]);
      for (size_t i = 0; i < only_two.size(); ++i) f(only_one.size() + i, only_two[i]);
    };
    const bool paired = !shared.empty();
    double scale = 0;
    visit([&](size_t place, size_t i) {
      if (paired) {
        const bool swapped = label(place);
        for (const int side : {0, 1}) {
          const ClusteredValues& values = (side == 1) != swapped ? two_ : one_;
          sums[side] += values.sums[i];
          counts[side] += values.counts[i];
          scale += std::abs(values.sums[i]);
        }
      } else {
        const int side = label(place) ? 0 : 1;
        const ClusteredValues& values = place < only_one.size() ? one_ : two_;
        sums[side] += values.sums[i];
        counts[side] += values.counts[i];
        n[side] += 1;
        scale += std::abs(values.sums[i]);
      }
    });
    const double means[2] = {sums[0] / counts[0], sums[1] / counts[1]};
    double squares[2] = {0, 0};  // paired: of the difference, in the first
    visit([&](size_t place, size_t i) {
      if (paired) {
        const bool swapped = label(place);
        double residual = 0;
        for (const int side : {0, 1}) {
          const ClusteredValues& values = (side == 1) != swapped ? two_ : one_;
          residual += (side == 0 ? 1 : -1) * (values.sums[i] - means[side] * values.counts[i]) / counts[side];
        }
        squares[0] += residual * residual;
      } else {
        const int side = label(place) ? 0 : 1;
        const ClusteredValues& values = place < only_one.size() ? one_ : two_;
        const double residual = (values.sums[i] - means[side] * values.counts[i]) / counts[side];
        squares[side] += residual * residual;
      }
    });
    const auto few = [](double units) { return units > 1 ? units / (units - 1) : 1; };
    double variance =
        paired ? few(static_cast<double>(shared.size())) * squares[0] : few(n[0]) * squares[0] + few(n[1]) * squares[1];
    const double difference = means[0] - means[1];
    const double rounding = 1e-13 * scale / std::min(counts[0], counts[1]);
    if (std::abs(difference) <= rounding) return 0;
    if (variance <= rounding * rounding) return INFINITY;
    return difference * difference / variance;
  }

  std::vector<size_t> shared, only_one, only_two;

 private:
  const ClusteredValues &one_, &two_;
};

}  // namespace

EffectDifference effect_over_controls(const ClusteredValues& effect, std::span<const ClusteredValues> controls,
                                      uint64_t seed, int64_t resamples, int n_threads) {
  EffectDifference out{no_number, {no_number, no_number}, no_number, static_cast<int64_t>(effect.sums.size())};
  for (const ClusteredValues& set : controls) {
    check_aligned(effect, set);
    if (!has_values(set)) return out;
  }
  if (controls.empty() || !has_values(effect)) return out;
  const size_t n = effect.sums.size(), n_sets = controls.size();
  std::vector<double> means;
  for (const ClusteredValues& set : controls) means.push_back(mean_of(set));
  out.diff = mean_of(effect) - total(means) / static_cast<double>(n_sets);
  if (n < 2 || n_sets < 2) return out;

  // Variances of the two kinds of draw: units (influences on the difference, sets as they are) and sets.
  std::vector<double> influences(n, 0);
  const auto add_influences = [&](const ClusteredValues& values, double weight) {
    const double mean = mean_of(values), count = total(values.counts);
    for (size_t i = 0; i < n; ++i) influences[i] += weight * (values.sums[i] - mean * values.counts[i]) / count;
  };
  add_influences(effect, 1);
  for (const ClusteredValues& set : controls) add_influences(set, -1 / static_cast<double>(n_sets));
  const auto units = static_cast<double>(n), sets = static_cast<double>(n_sets);
  const double of_units = variance_of_mean(influences) * units * units, of_sets = variance_of_mean(means);
  if (of_units + of_sets <= 0) return out;
  const double freedom = (of_units + of_sets) * (of_units + of_sets) /
                         (of_units * of_units / (units - 1) + of_sets * of_sets / (sets - 1));

  ThreadPool pool(std::max(n_threads, 1));
  std::vector<Scratch> scratch(static_cast<size_t>(pool.n_threads()));
  const ResamplingDraws unit_draws(seed, Resampling::bootstrap, shared_units),
      set_draws(seed, Resampling::bootstrap, control_sets);
  const std::vector<size_t> every_unit = all_units(n), every_set = all_units(n_sets);
  std::vector<double> replicates(static_cast<size_t>(resamples));
  for_replicates(pool, resamples, [&](int64_t r, size_t thread) {
    auto& [bits, times, set_times, order] = scratch[thread];
    times.assign(n, 0);
    set_times.assign(n_sets, 0);
    draw(unit_draws, r, every_unit, bits, times);
    draw(set_draws, r, every_set, bits, set_times);
    const auto mean = [&times = times](const ClusteredValues& values) {
      return dot(values.sums, times) / dot(values.counts, times);
    };
    double of_controls = 0;
    for (size_t s = 0; s < n_sets; ++s)
      if (set_times[s] > 0) of_controls += set_times[s] * mean(controls[s]);
    replicates[static_cast<size_t>(r)] = mean(effect) - of_controls / sets;
  });
  // A draw of units none of which has values says nothing.
  std::erase_if(replicates, [](double value) { return !std::isfinite(value); });
  out.ci = widened_interval(replicates, freedom);
  out.p = widened_p(replicates, freedom);
  return out;
}

EffectDifference difference_of_effects(const ClusteredValues& one, const ClusteredValues& two, uint64_t seed,
                                       int64_t resamples, int n_threads) {
  check_aligned(one, two);
  EffectDifference out{no_number, {no_number, no_number}, no_number, 0};
  const TwoSides sides(one, two);
  const size_t n = one.sums.size();
  out.n_units = static_cast<int64_t>(sides.shared.size() + sides.only_one.size() + sides.only_two.size());
  if (!has_values(one) || !has_values(two)) return out;
  out.diff = mean_of(one) - mean_of(two);

  ThreadPool pool(std::max(n_threads, 1));
  std::vector<Scratch> scratch(static_cast<size_t>(pool.n_threads()));
  if (sides.has_spread()) {
    std::vector<double> influences, variances, freedoms;
    sides.influences(influences, variances, freedoms);
    double sum = 0, parts = 0;
    for (size_t k = 0; k < variances.size(); ++k) {
      sum += variances[k];
      parts += variances[k] * variances[k] / freedoms[k];
    }
    const double freedom = parts > 0 ? sum * sum / parts : *std::max_element(freedoms.begin(), freedoms.end());
    const std::pair<const std::vector<size_t>*, ResamplingDraws> kinds[] = {
        {&sides.shared, ResamplingDraws(seed, Resampling::bootstrap, shared_units)},
        {&sides.only_one, ResamplingDraws(seed, Resampling::bootstrap, units_of_one)},
        {&sides.only_two, ResamplingDraws(seed, Resampling::bootstrap, units_of_two)}};
    std::vector<double> replicates(static_cast<size_t>(resamples));
    for_replicates(pool, resamples, [&](int64_t r, size_t thread) {
      auto& [bits, times, set_times, order] = scratch[thread];
      times.assign(n, 0);
      for (const auto& [units, draws] : kinds)
        if (!units->empty()) draw(draws, r, *units, bits, times);
      replicates[static_cast<size_t>(r)] =
          dot(one.sums, times) / dot(one.counts, times) - dot(two.sums, times) / dot(two.counts, times);
    });
    out.ci = corrected_interval(std::move(replicates), out.diff, influences, freedom);
  }

  const bool paired = !sides.shared.empty();
  const size_t n_one = sides.only_one.size(), n_labels = paired ? sides.shared.size() : n_one + sides.only_two.size();
  const double bar = sides.squared_t([&](size_t i) { return !paired && i < n_one; }) * (1 - 1e-9);
  const ResamplingDraws signs(seed, Resampling::signs), permutation(seed, Resampling::permutation);
  std::vector<int64_t> hits(scratch.size(), 0);
  for_replicates(pool, resamples, [&](int64_t r, size_t thread) {
    auto& [bits, times, set_times, order] = scratch[thread];
    times.assign(n_labels, 0);  // 1: swapped, or on side one
    if (paired) {
      bits.resize(n_labels);
      signs.fill(r, bits);
      for (size_t i = 0; i < n_labels; ++i) times[i] = ResamplingDraws::sign(bits[i]) < 0;
    } else {
      order = all_units(n_labels);
      bits.resize(n_one);
      permutation.fill(r, bits);
      ResamplingDraws::draw_subset(std::span(order), n_one, std::span<const uint32_t>(bits));
      for (size_t i = 0; i < n_one; ++i) times[order[i]] = 1;
    }
    hits[thread] += sides.squared_t([&times = times](size_t i) { return times[i] != 0; }) >= bar;
  });
  out.p = (1 + static_cast<double>(std::accumulate(hits.begin(), hits.end(), int64_t{0}))) /
          (1 + static_cast<double>(resamples));
  return out;
}

}  // namespace signalbox::eval
