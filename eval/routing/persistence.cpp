#include "eval/routing/persistence.h"

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "eval/routing/shuffled.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

// Of n pairs of 0 or 1: how many have the first, the second, both.
double correlation(double n, double first, double second, double both) {
  const double spread = (n * first - first * first) * (n * second - second * second);
  return spread > 0 ? (n * both - first * second) / std::sqrt(spread) : no_number;
}

// (1 + those at least as far from the common mean) / (1 + their number); `null` and `observed` are exchangeable under
// the null. An undefined replicate counts as a hit.
double two_sided_p(double observed, const std::vector<double>& null) {
  if (std::isnan(observed)) return no_number;
  double sum = observed;
  int64_t n = 1;
  for (const double value : null)
    if (!std::isnan(value)) {
      sum += value;
      ++n;
    }
  const double mean = sum / static_cast<double>(n), distance = std::abs(observed - mean) * (1 - 1e-12);
  const auto hits = std::count_if(
      null.begin(), null.end(), [&](double value) { return std::isnan(value) || std::abs(value - mean) >= distance; });
  return static_cast<double>(1 + hits) / static_cast<double>(1 + null.size());
}

// Counts over neighbours, by row = layer x expert; the last two blocks by layer.
struct NeighbourCounts {
  size_t n_rows = 0, n_layers = 0;
  size_t first(size_t row) const { return row; }
  size_t second(size_t row) const { return n_rows + row; }
  size_t both(size_t row) const { return 2 * n_rows + row; }
  size_t common(size_t layer) const { return 3 * n_rows + layer; }
  size_t widest(size_t layer) const { return 3 * n_rows + n_layers + layer; }
  size_t cells() const { return 3 * n_rows + 2 * n_layers; }
};

// Adds the neighbours of one sample, whose places hold the tokens of `order` (null: themselves).
template <class Count>
void count_neighbours(const SampleRoutes& routes, const NeighbourCounts& at, int64_t n_experts,
                      const std::vector<int64_t>* order, Count* counts) {
  for (int64_t place = 1; place < routes.n(); ++place) {
    if (!routes.follows(place)) continue;
    const int64_t before = order ? (*order)[static_cast<size_t>(place - 1)] : place - 1,
                  after = order ? (*order)[static_cast<size_t>(place)] : place;
    for (int64_t layer = 0; layer < routes.n_layers; ++layer) {
      const int32_t *a = routes.route(before, layer), *b = routes.route(after, layer);
      const size_t base = static_cast<size_t>(layer * n_experts);
      int32_t size_a = 0, size_b = 0, common = 0;
      for (int64_t slot = 0; slot < routes.n_slots; ++slot) {
        if (b[slot] >= 0) {
          ++size_b;
          ++counts[at.second(base + static_cast<size_t>(b[slot]))];
        }
        if (a[slot] < 0) continue;
        ++size_a;
        ++counts[at.first(base + static_cast<size_t>(a[slot]))];
        if (std::find(b, b + routes.n_slots, a[slot]) == b + routes.n_slots) continue;
        ++common;
        ++counts[at.both(base + static_cast<size_t>(a[slot]))];
      }
      counts[at.common(static_cast<size_t>(layer))] += common;
      counts[at.widest(static_cast<size_t>(layer))] += std::max(size_a, size_b);
    }
  }
}

struct PersistenceTally {
  std::vector<int64_t> neighbours;  // as NeighbourCounts lays them out
  std::vector<int64_t> selected, runs;
  int64_t tokens = 0, pairs = 0;
  PersistenceTally& operator+=(const PersistenceTally& other) {
    const auto add = [](std::vector<int64_t>& to, const std::vector<int64_t>& from) {
      for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
    };
    add(neighbours, other.neighbours);
    add(selected, other.selected);
    add(runs, other.runs);
    tokens += other.tokens;
    pairs += other.pairs;
    return *this;
  }
};

void take_sample(PersistenceTally& tally, const SampleRoutes& routes, const NeighbourCounts& at, int64_t n_experts) {
  tally.tokens += routes.n();
  count_neighbours(routes, at, n_experts, nullptr, tally.neighbours.data());
  for (int64_t token = 0; token < routes.n(); ++token) {
    const bool follows = routes.follows(token);
    tally.pairs += follows;
    for (int64_t layer = 0; layer < routes.n_layers; ++layer) {
      const int32_t* now = routes.route(token, layer);
      const int32_t* before = follows ? routes.route(token - 1, layer) : nullptr;
      for (int64_t slot = 0; slot < routes.n_slots; ++slot) {
        if (now[slot] < 0) continue;
        const size_t row = static_cast<size_t>(layer * n_experts + now[slot]);
        ++tally.selected[row];
        tally.runs[row] += !before || std::find(before, before + routes.n_slots, now[slot]) == before + routes.n_slots;
      }
    }
  }
}

double ratio(double part, double whole) { return whole > 0 ? part / whole : no_number; }

}  // namespace

PersistenceTables persistence_tables(const TraceSet& set, const RouteOptions& options) {
  const size_t n_rows = set.n_rows(), n_layers = set.layers().size();
  const int64_t n_experts = set.n_experts();
  const NeighbourCounts at{n_rows, n_layers};
  const PersistenceTally tally = tally_routes(
      set, options,
      PersistenceTally{std::vector<int64_t>(at.cells()), std::vector<int64_t>(n_rows), std::vector<int64_t>(n_rows)},
      [&](PersistenceTally& mine, const SampleRoutes& routes) { take_sample(mine, routes, at, n_experts); });
  if (tally.tokens == 0) throw Error(set.directory(0).string(), "expected tokens that count, found none");

  const double pairs = static_cast<double>(tally.pairs);
  const auto lag1_of = [&](const auto* counts, size_t row) {
    return correlation(pairs, static_cast<double>(counts[at.first(row)]), static_cast<double>(counts[at.second(row)]),
                       static_cast<double>(counts[at.both(row)]));
  };
  const auto consistency_of = [&](const auto* counts, size_t layer) {
    return ratio(static_cast<double>(counts[at.common(layer)]), static_cast<double>(counts[at.widest(layer)]));
  };
  std::vector<std::vector<double>> null(n_rows), null_of_layer(n_layers);
  if (tally.pairs > 0)
    run_null(
        set, options, "persistence", at.cells(),
        [&](int64_t first, int64_t n, int32_t* counts, const SampleRoutes& routes) {
          Shuffles shuffles(options.seed, routes.sample, routes.n());
          for (int64_t i = 0; i < n; ++i)
            count_neighbours(routes, at, n_experts, &shuffles.order(first + i),
                             counts + static_cast<size_t>(i) * at.cells());
        },
        [&](int64_t, int64_t n, const int32_t* counts) {
          for (int64_t i = 0; i < n; ++i, counts += at.cells()) {
            for (size_t row = 0; row < n_rows; ++row) null[row].push_back(lag1_of(counts, row));
            for (size_t layer = 0; layer < n_layers; ++layer)
              null_of_layer[layer].push_back(consistency_of(counts, layer));
          }
        });

  PersistenceTables out;
  std::vector<double> p, layer_p;
  for (size_t row = 0; row < n_rows; ++row) {
    Persistence one;
    one.layer = set.layers()[row / static_cast<size_t>(n_experts)];
    one.expert = static_cast<int32_t>(row % static_cast<size_t>(n_experts));
    const auto count = [&](size_t cell) { return static_cast<double>(tally.neighbours[cell]); };
    one.rate = static_cast<double>(tally.selected[row]) / static_cast<double>(tally.tokens);
    one.p_stay = ratio(count(at.both(row)), count(at.first(row)));
    one.lag1 = lag1_of(tally.neighbours.data(), row);
    one.lag1_p = two_sided_p(one.lag1, null[row]);
    one.dwell_mean = ratio(static_cast<double>(tally.selected[row]), static_cast<double>(tally.runs[row]));
    p.push_back(one.lag1_p);
    out.experts.push_back(one);
  }
  for (size_t layer = 0; layer < n_layers; ++layer) {
    Consistency one;
    one.layer = set.layers()[layer];
    one.neighbours = tally.pairs;
    one.consistency = consistency_of(tally.neighbours.data(), layer);
    double sum = 0;
    for (const double value : null_of_layer[layer]) sum += value;
    one.expected = ratio(sum, static_cast<double>(null_of_layer[layer].size()));
    one.p = two_sided_p(one.consistency, null_of_layer[layer]);
    layer_p.push_back(one.p);
    out.layers.push_back(one);
  }
  const std::vector<double> q = benjamini_hochberg(p), layer_q = benjamini_hochberg(layer_p);
  for (size_t row = 0; row < n_rows; ++row) out.experts[row].lag1_q = q[row];
  for (size_t layer = 0; layer < n_layers; ++layer) out.layers[layer].q = layer_q[layer];
  return out;
}

namespace {

// [lag - 1] pairs; [(lag - 1) x rows + row] first, second, both.
struct LagTally {
  std::vector<int64_t> pairs, first, second, both;
  LagTally& operator+=(const LagTally& other) {
    for (size_t i = 0; i < pairs.size(); ++i) pairs[i] += other.pairs[i];
    for (size_t i = 0; i < first.size(); ++i) {
      first[i] += other.first[i];
      second[i] += other.second[i];
      both[i] += other.both[i];
    }
    return *this;
  }
};

void take_lags(LagTally& tally, const SampleRoutes& routes, int64_t n_experts, size_t n_rows) {
  const int64_t n_lags = static_cast<int64_t>(tally.pairs.size());
  for (int64_t a = 0; a < routes.n(); ++a)
    for (int64_t b = a + 1; b < routes.n(); ++b) {
      const int64_t lag = routes.positions[static_cast<size_t>(b)] - routes.positions[static_cast<size_t>(a)];
      if (lag > n_lags) break;
      ++tally.pairs[static_cast<size_t>(lag - 1)];
      const size_t base = static_cast<size_t>(lag - 1) * n_rows;
      for (int64_t layer = 0; layer < routes.n_layers; ++layer) {
        const int32_t *x = routes.route(a, layer), *y = routes.route(b, layer);
        const size_t at = base + static_cast<size_t>(layer * n_experts);
        for (int64_t slot = 0; slot < routes.n_slots; ++slot) {
          if (y[slot] >= 0) ++tally.second[at + static_cast<size_t>(y[slot])];
          if (x[slot] < 0) continue;
          ++tally.first[at + static_cast<size_t>(x[slot])];
          tally.both[at + static_cast<size_t>(x[slot])] +=
              std::find(y, y + routes.n_slots, x[slot]) != y + routes.n_slots;
        }
      }
    }
}

}  // namespace

std::vector<Autocorrelation> autocorrelations(const TraceSet& set, const RouteOptions& options, int64_t n_lags) {
  const size_t n_rows = set.n_rows(), n_experts = static_cast<size_t>(set.n_experts()),
               lags = static_cast<size_t>(n_lags);
  const std::vector<int64_t> zeros(lags * n_rows);
  const LagTally tally = tally_routes(
      set, options, LagTally{std::vector<int64_t>(lags), zeros, zeros, zeros},
      [&](LagTally& mine, const SampleRoutes& routes) { take_lags(mine, routes, set.n_experts(), n_rows); });
  std::vector<Autocorrelation> out;
  for (size_t row = 0; row < n_rows; ++row)
    for (size_t lag = 0; lag < lags; ++lag) {
      const size_t at = lag * n_rows + row;
      out.push_back({set.layers()[row / n_experts], static_cast<int32_t>(row % n_experts),
                     static_cast<int64_t>(lag + 1),
                     correlation(static_cast<double>(tally.pairs[lag]), static_cast<double>(tally.first[at]),
                                 static_cast<double>(tally.second[at]), static_cast<double>(tally.both[at]))});
    }
  return out;
}

void write_persistence_csv(const std::filesystem::path& file, const std::vector<Persistence>& rows) {
  CsvWriter csv({"layer", "expert", "rate", "p_stay", "lag1", "lag1_p", "lag1_q", "dwell_mean"});
  for (const Persistence& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.rate).cell(row.p_stay).cell(row.lag1);
    csv.cell(row.lag1_p).cell(row.lag1_q).cell(row.dwell_mean).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_consistency_csv(const std::filesystem::path& file, const std::vector<Consistency>& rows) {
  CsvWriter csv({"layer", "neighbours", "consistency", "expected", "p", "q"});
  for (const Consistency& row : rows) {
    csv.cell(int64_t{row.layer}).cell(row.neighbours).cell(row.consistency).cell(row.expected).cell(row.p);
    csv.cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_autocorrelation_csv(const std::filesystem::path& file, const std::vector<Autocorrelation>& rows) {
  CsvWriter csv({"layer", "expert", "lag", "r"});
  for (const Autocorrelation& row : rows)
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.lag).cell(row.r).end_row();
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
