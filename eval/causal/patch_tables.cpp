#include "eval/causal/patch_tables.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/csv.h"
#include "base/files.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

using namespace probes;

namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

// Numbers in a unit's name, then the name: "5:12@3" stands behind "5:2@3".
std::pair<std::vector<int64_t>, std::string> unit_order(const std::string& name) {
  std::vector<int64_t> numbers;
  for (size_t i = 0; i < name.size();) {
    if (name[i] < '0' || name[i] > '9') {
      ++i;
      continue;
    }
    int64_t value = 0;
    while (i < name.size() && name[i] >= '0' && name[i] <= '9') value = value * 10 + (name[i++] - '0');
    numbers.push_back(value);
  }
  return {numbers, name};
}

struct PatchedPlace {
  size_t point = 0;
  std::pair<std::vector<int64_t>, std::string> unit;
  bool operator<(const PatchedPlace& other) const { return std::tie(point, unit) < std::tie(other.point, other.unit); }
};

std::string position_of(const std::string& unit) {
  const size_t at = unit.find('@');
  return at == std::string::npos ? "" : unit.substr(at);
}

// M(clean) - M(patched), or M(patched) - M(corrupt).
double numerator(bool denoising, double effect) { return denoising ? effect : -effect; }

bool refuses(const std::vector<double>& denominators) {
  const auto n = static_cast<double>(denominators.size());
  if (denominators.size() < 2) return false;
  double mean = 0, squares = 0;
  for (const double d : denominators) mean += d / n;
  for (const double d : denominators) squares += (d - mean) * (d - mean);
  return std::abs(mean) < 2 * std::sqrt(squares / (n - 1) / n);
}

}  // namespace

AbsentIsZero absent_contributions(const std::vector<PatchedPair>& results, const PatchRequest& request) {
  std::vector<std::set<std::pair<size_t, std::string>>> places(results.size());
  for (size_t i = 0; i < results.size(); ++i)
    for (const PatchRow& row : results[i].rows) places[i].insert({row.point, position_of(row.unit)});
  return [places = std::move(places), points = request.points](size_t pair, size_t point, const std::string& unit) {
    return points[point].point == Point::expert_contribution && places[pair].count({point, position_of(unit)}) > 0;
  };
}

std::vector<PatchEstimate> estimate_patches(const SelectedPairs& selected, const std::vector<PatchedPair>& results,
                                            bool denoising, const AbsentIsZero& absent_is_zero, uint64_t seed,
                                            int n_threads) {
  struct Found {
    double effect = undefined;
    int64_t routes = 0, flipped = 0;
  };
  std::map<PatchedPlace, std::vector<Found>> units;
  std::vector<PatchEstimate> of_pairs;
  for (size_t i = 0; i < results.size(); ++i) {
    const double denominator = selected.values[i].clean - selected.values[i].corrupt;
    for (const PatchRow& row : results[i].rows) {
      std::vector<Found>& found = units[{row.point, unit_order(row.unit)}];
      found.resize(results.size());
      found[i] = {row.effect, row.routes, row.flipped};
      PatchEstimate& to = of_pairs.emplace_back();
      to.pair = selected.pairs[i].name;
      to.point = row.point;
      to.unit = row.unit;
      to.effect = row.effect;
      if (denominator != 0) to.normalised = numerator(denoising, row.effect) / denominator;
      to.routes = row.routes;
      to.flipped = row.flipped;
    }
  }
  std::vector<PatchEstimate> rows;
  std::vector<ClusteredValues> columns;
  for (auto& [key, found] : units) {
    PatchEstimate& to = rows.emplace_back();
    to.point = key.point;
    to.unit = key.unit.second;
    ClusteredValues& column = columns.emplace_back();
    double sum = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      if (std::isnan(found[i].effect)) {
        if (!absent_is_zero(i, key.point, to.unit)) continue;
        found[i].effect = 0;
      }
      sum += found[i].effect;
      column.sums.push_back(numerator(denoising, found[i].effect));
      column.counts.push_back(selected.values[i].clean - selected.values[i].corrupt);
      to.routes += found[i].routes;
      to.flipped += found[i].flipped;
    }
    to.effect = sum / static_cast<double>(column.sums.size());
    to.refused = refuses(column.counts);
  }
  // The ratio of means is a mean over units whose "counts" are the denominators.
  const std::vector<MeanEstimate> ratios = bootstrap_means(columns, seed, default_resamples, n_threads);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].refused) continue;
    rows[i].normalised = ratios[i].mean;
    rows[i].ci_lo = ratios[i].ci.lo;
    rows[i].ci_hi = ratios[i].ci.hi;
  }
  rows.insert(rows.end(), of_pairs.begin(), of_pairs.end());
  return rows;
}

json::Value refused_ratios(int64_t rows) {
  return json::Value::object()
      .set("rows", rows)
      .set("because",
           "the mean of M(clean) - M(corrupt) is less than twice its standard error from 0, so that no ratio to it "
           "means "
           "anything");
}

void write_patch_tables(const std::filesystem::path& dir, const std::vector<PatchEstimate>& rows,
                        const PatchRequest& request, json::Value summary) {
  CsvWriter table({"pair", "point", "layer", "unit", "effect", "normalised", "ci_lo", "ci_hi"});
  CsvWriter flips({"pair", "point", "layer", "unit", "routes", "flipped", "share"});
  int64_t refused = 0;
  for (const PatchEstimate& row : rows) {
    const PointAt& at = request.points[row.point];
    for (CsvWriter* to : {&table, &flips}) {
      to->cell(row.pair).cell(point_info(at.point).name);
      if (at.layer < 0)
        to->cell("");
      else
        to->cell(int64_t{at.layer});
      to->cell(row.unit);
    }
    table.cell(row.effect).cell(row.normalised).cell(row.ci_lo).cell(row.ci_hi);
    flips.cell(row.routes).cell(row.flipped);
    flips.cell(row.routes > 0 ? static_cast<double>(row.flipped) / static_cast<double>(row.routes) : undefined);
    table.end_row();
    flips.end_row();
    refused += row.refused;
  }
  if (refused > 0) summary.set("refused", refused_ratios(refused));
  write_file_atomically(dir / "patch.csv", table.text());
  write_file_atomically(dir / "flips.csv", flips.text());
  write_file_atomically(dir / "summary.json", json::dump(summary) + "\n");
}

}  // namespace signalbox::eval
