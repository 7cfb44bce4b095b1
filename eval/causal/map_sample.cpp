#include <xxhash.h>

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>

#include "base/no_number.h"
#include "eval/causal/map_table.h"

namespace signalbox::eval {

namespace {

// Where a cell stands.
struct CellPlace {
  size_t record, layer;  // layer: index
  int64_t position;
};

// f(index, place) for every cell, in the order of the arrays.
template <class F>
void for_each_cell(const MapTable& table, F f) {
  size_t index = 0;
  for (size_t record = 0; record < table.ids.size(); ++record)
    for (int64_t t = table.offsets[record]; t < table.offsets[record + 1]; ++t)
      for (size_t layer = 0; layer < table.layers.size(); ++layer)
        for (int64_t slot = 0; slot < table.n_active; ++slot)
          f(index++, CellPlace{record, layer, t - table.offsets[record]});
}

uint64_t lot(const MapTable& table, const MapSample& sample, size_t index, const CellPlace& place) {
  const std::string of = "map " + std::to_string(place.position) + " " + std::to_string(table.layers[place.layer]) +
                         " " + std::to_string(table.experts[index]) + " " + table.ids[place.record];
  return XXH3_64bits_withSeed(of.data(), of.size(), sample.seed);
}

bool estimated(const MapTable& table, size_t index) { return !std::isnan(table.estimate[index]); }

// 0.975 quantile.
double student_t_quantile(double degrees_of_freedom) {
  if (!(degrees_of_freedom > 0)) return no_number;
  return boost::math::quantile(boost::math::students_t(degrees_of_freedom), 0.975);
}

// Running sums of one expert's cells.
struct CellSums {
  int64_t cells = 0, exact = 0, top = 0, sampled = 0;
  double estimates = 0, of_top = 0, of_rest = 0;  // sums of estimate; exact over the top; estimate over the rest
  double gap = 0, gap_squares = 0;                // of exact - estimate over the sampled: mean, and of squares about it
  double effects = 0;                             // of a whole map

  void add_gap(double x) {
    ++sampled;
    const double from = x - gap;
    gap += from / static_cast<double>(sampled);
    gap_squares += from * (x - gap);
  }
};

ExpertEffect effect_of(const CellSums& sums, bool sampled) {
  ExpertEffect found;
  found.cells = sums.cells;
  found.exact = sums.exact;
  found.top = sums.top;
  found.sampled = sums.sampled;
  const auto n = static_cast<double>(sums.cells);
  if (!sampled) {
    found.mean_estimate = no_number;
    found.mean = found.ci_lo = found.ci_hi = sums.effects / n;
    return found;
  }
  const auto rest = static_cast<double>(sums.cells - sums.top), drawn = static_cast<double>(sums.sampled);
  found.mean_estimate = sums.estimates / n;
  found.mean = (sums.of_top + sums.of_rest + (drawn > 0 ? rest * sums.gap : 0)) / n;
  found.variance = drawn >= rest ? 0
                   : drawn < 2   ? no_number
                               : std::pow(rest / n, 2) * (sums.gap_squares / (drawn - 1)) / drawn * (1 - drawn / rest);
  const double half = found.variance == 0 ? 0 : student_t_quantile(drawn - 1) * std::sqrt(found.variance);
  found.ci_lo = found.mean - half;
  found.ci_hi = found.mean + half;
  return found;
}

}  // namespace

std::vector<uint8_t> choose_cells(const MapTable& table, const MapSample& sample) {
  std::vector<uint8_t> chosen(table.n_cells(), static_cast<uint8_t>(Chosen::no));
  std::vector<size_t> cells;  // of one record
  for (size_t record = 0; record < table.ids.size() && sample.top > 0; ++record) {
    const auto at = [&](size_t boundary) { return static_cast<size_t>(table.offsets[boundary]) * table.row(); };
    cells.clear();
    for (size_t i = at(record); i < at(record + 1); ++i)
      if (estimated(table, i)) cells.push_back(i);
    const auto n = std::min(cells.size(), static_cast<size_t>(sample.top));
    std::partial_sort(cells.begin(), cells.begin() + static_cast<int64_t>(n), cells.end(), [&](size_t a, size_t b) {
      const float x = std::fabs(table.estimate[a]), y = std::fabs(table.estimate[b]);
      return x != y ? x > y : a < b;
    });
    for (size_t i = 0; i < n; ++i) chosen[cells[i]] = static_cast<uint8_t>(Chosen::top);
  }
  using Lot = std::pair<uint64_t, size_t>;
  std::map<std::pair<size_t, int32_t>, std::vector<Lot>> of_expert;  // heaps: the largest of the lowest lots in front
  for_each_cell(table, [&](size_t i, const CellPlace& place) {
    if (!estimated(table, i) || chosen[i] != static_cast<uint8_t>(Chosen::no)) return;
    std::vector<Lot>& lowest = of_expert[{place.layer, table.experts[i]}];
    lowest.emplace_back(lot(table, sample, i, place), i);
    std::push_heap(lowest.begin(), lowest.end());
    if (static_cast<int64_t>(lowest.size()) <= sample.of_expert) return;
    std::pop_heap(lowest.begin(), lowest.end());
    lowest.pop_back();
  });
  for (const auto& [expert, lots] : of_expert)
    for (const Lot& drawn : lots) chosen[drawn.second] = static_cast<uint8_t>(Chosen::sampled);
  return chosen;
}

std::vector<ExpertEffect> expert_effects(const MapTable& table) {
  std::map<std::pair<size_t, int32_t>, CellSums> of_expert;
  const bool sampled = table.sample.has_value();
  for_each_cell(table, [&](size_t i, const CellPlace& place) {
    if (sampled ? !estimated(table, i) : std::isnan(table.effect[i])) return;
    CellSums& sums = of_expert[{place.layer, table.experts[i]}];
    ++sums.cells;
    sums.exact += !std::isnan(table.effect[i]);
    const double effect = static_cast<double>(table.effect[i]);
    if (!sampled) {
      sums.effects += effect;
      return;
    }
    const double estimate = static_cast<double>(table.estimate[i]);
    sums.estimates += estimate;
    if (table.chosen[i] == static_cast<uint8_t>(Chosen::top)) {
      ++sums.top;
      sums.of_top += effect;
      return;
    }
    sums.of_rest += estimate;
    if (table.chosen[i] == static_cast<uint8_t>(Chosen::sampled)) sums.add_gap(effect - estimate);
  });
  std::vector<ExpertEffect> found;
  for (const auto& [expert, sums] : of_expert) {
    found.push_back(effect_of(sums, sampled));
    found.back().layer = table.layers[expert.first];
    found.back().expert = expert.second;
  }
  return found;
}

ExpertEffect all_effects(std::span<const ExpertEffect> experts) {
  ExpertEffect all;
  all.layer = all.expert = -1;
  double below = 0;  // of Satterthwaite's ratio
  for (const ExpertEffect& one : experts) {
    all.cells += one.cells;
    all.exact += one.exact;
    all.top += one.top;
    all.sampled += one.sampled;
  }
  const auto n = static_cast<double>(all.cells);
  for (const ExpertEffect& one : experts) {
    const double share = static_cast<double>(one.cells) / n, variance = share * share * one.variance;
    all.mean += share * one.mean;
    all.mean_estimate += share * one.mean_estimate;
    all.variance += variance;
    if (one.sampled > 1) below += variance * variance / static_cast<double>(one.sampled - 1);
  }
  const double half =
      all.variance == 0 ? 0 : student_t_quantile(all.variance * all.variance / below) * std::sqrt(all.variance);
  all.ci_lo = all.mean - half;
  all.ci_hi = all.mean + half;
  return all;
}

MapCounts count_map(const MapTable& table) {
  MapCounts counts;
  for_each_cell(table, [&](size_t i, const CellPlace& place) {
    if (std::isnan(table.effect[i])) return;
    const int64_t n_tokens = table.offsets[place.record + 1] - table.offsets[place.record],
                  rows = n_tokens - place.position;
    const int32_t layer = table.layers[place.layer];
    const auto later =
        table.routed_layers.end() - std::upper_bound(table.routed_layers.begin(), table.routed_layers.end(), layer);
    ++counts.cells;
    // Its own token from its layer on, to know what it leaves there; then all from the next layer on.
    counts.layers_run += static_cast<double>(rows * (table.n_layers - 1 - layer) + table.n_layers - layer);
    counts.layers_of_brute_force += static_cast<double>(n_tokens * table.n_layers);
    counts.flipped += table.flips[i] > 0;
    counts.flips += table.flips[i];
    counts.places += rows * later;
  });
  return counts;
}

}  // namespace signalbox::eval
