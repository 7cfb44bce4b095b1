#include "eval/routing/persistence.h"

#include <algorithm>
#include <bit>
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

// Counts neighbours. Which expert the token before has selected is kept by expert, not searched for.
class NeighbourCounter {
 public:
  NeighbourCounter(const NeighbourCounts& at, int64_t n_experts)
      : at_(at), n_experts_(n_experts), placed_(at.n_rows), sizes_(at.n_layers) {}

  // Adds the pairs of neighbours whose later one stands at `from` or behind, where places hold the tokens of `order`
  // (null: themselves). `taken`(row, stays) is called for what these tokens select.
  template <class Count, class Taken>
  void count(const SampleRoutes& routes, int64_t from, const std::vector<int64_t>* order, Count* counts, Taken taken) {
    if (now_ + static_cast<uint64_t>(routes.n()) + 2 > UINT32_MAX) {
      std::fill(placed_.begin(), placed_.end(), 0);
      now_ = 0;
    }
    now_ += 2;  // so that nothing is at the place before the first
    for (int64_t place = 0; place < routes.n(); ++place, ++now_) {
      const bool counts_here = place >= from, follows = counts_here && routes.follows(place),
                 is_followed = place + 1 < routes.n() && place + 1 >= from && routes.follows(place + 1);
      const int32_t* expert = routes.route(order ? (*order)[static_cast<size_t>(place)] : place, 0);
      for (size_t layer = 0; layer < at_.n_layers; ++layer) {
        const size_t base = layer * static_cast<size_t>(n_experts_);
        int32_t size = 0, common = 0;
        for (int64_t slot = 0; slot < routes.n_slots; ++slot, ++expert) {
          if (*expert < 0) continue;
          const size_t row = base + static_cast<size_t>(*expert);
          const bool stays = follows && placed_[row] + 1 == now_;
          placed_[row] = static_cast<uint32_t>(now_);
          ++size;
          common += stays;
          counts[at_.second(row)] += follows;
          counts[at_.both(row)] += stays;
          counts[at_.first(row)] += is_followed;
          if (counts_here) taken(row, stays);
        }
        if (follows) {
          counts[at_.common(layer)] += common;
          counts[at_.widest(layer)] += std::max(size, sizes_[layer]);
        }
        sizes_[layer] = size;
      }
    }
  }

 private:
  NeighbourCounts at_;
  int64_t n_experts_;
  uint64_t now_ = 0;
  std::vector<uint32_t> placed_;  // [rows] when the expert was last selected
  std::vector<int32_t> sizes_;    // [layers] of the route before
};

struct PersistenceTally {
  std::vector<int64_t> neighbours;  // as NeighbourCounts lays them out
  std::vector<int64_t> selected, runs;
  NeighbourCounter counter;
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

void take_block(PersistenceTally& tally, const SampleRoutes& routes, int64_t first) {
  tally.tokens += routes.n() - first;
  for (int64_t token = first; token < routes.n(); ++token) tally.pairs += routes.follows(token);
  tally.counter.count(routes, first, nullptr, tally.neighbours.data(), [&](size_t row, bool stays) {
    ++tally.selected[row];
    tally.runs[row] += !stays;
  });
}

double ratio(double part, double whole) { return whole > 0 ? part / whole : no_number; }

}  // namespace

PersistenceTables persistence_tables(const TraceSet& set, const RouteOptions& options) {
  const size_t n_rows = set.n_rows(), n_layers = set.layers().size();
  const int64_t n_experts = set.n_experts();
  const NeighbourCounts at{n_rows, n_layers};
  const PersistenceTally tally =
      tally_blocks(set, options, BlockWalk{"persistence", false, 1},
                   PersistenceTally{std::vector<int64_t>(at.cells()), std::vector<int64_t>(n_rows),
                                    std::vector<int64_t>(n_rows), NeighbourCounter(at, n_experts)},
                   take_block);
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
          NeighbourCounter counter(at, n_experts);
          for (int64_t i = 0; i < n; ++i)
            counter.count(routes, 0, &shuffles.order(first + i), counts + static_cast<size_t>(i) * at.cells(),
                          [](size_t, bool) {});
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

// [lag - 1] pairs; [(lag - 1) x rows + row] first, second, both. What a token selects that has all lags before it, or
// behind it, is counted once, in all_second or all_first, and stands for every lag.
struct LagTally {
  std::vector<int64_t> pairs, first, second, both, all_first, all_second;
  // Scratch: [rows] where the expert was last selected, and at which lags before that.
  std::vector<int64_t> placed;
  std::vector<uint64_t> before;
  int64_t clock = 0;
  LagTally& operator+=(const LagTally& other) {
    const auto add = [](std::vector<int64_t>& to, const std::vector<int64_t>& from) {
      for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
    };
    add(pairs, other.pairs);
    add(first, other.first);
    add(second, other.second);
    add(both, other.both);
    add(all_first, other.all_first);
    add(all_second, other.all_second);
    return *this;
  }
};

constexpr int64_t most_bits = 63;  // of lags that are kept as bits

// Bit lag - 1 of each token: whether a token of the list stands so far before it (behind it), in pairs whose later
// token is `from` or behind.
void lag_bits(const SampleRoutes& routes, int64_t from, int64_t n_lags, std::vector<uint64_t>& before,
              std::vector<uint64_t>& behind) {
  before.assign(static_cast<size_t>(routes.n()), 0);
  behind.assign(static_cast<size_t>(routes.n()), 0);
  for (int64_t b = from; b < routes.n(); ++b)
    for (int64_t a = b - 1; a >= 0; --a) {
      const int64_t lag = routes.positions[static_cast<size_t>(b)] - routes.positions[static_cast<size_t>(a)];
      if (lag > n_lags) break;
      before[static_cast<size_t>(b)] |= uint64_t{1} << (lag - 1);
      behind[static_cast<size_t>(a)] |= uint64_t{1} << (lag - 1);
    }
}

void take_lags_as_bits(LagTally& tally, const SampleRoutes& routes, int64_t from, int64_t n_experts, size_t n_rows) {
  const int64_t n_lags = static_cast<int64_t>(tally.pairs.size());
  const uint64_t all = (uint64_t{1} << n_lags) - 1;
  std::vector<uint64_t> before, behind;
  lag_bits(routes, from, n_lags, before, behind);
  const auto each_lag = [](uint64_t bits, auto take) {
    for (; bits != 0; bits &= bits - 1) take(static_cast<size_t>(std::countr_zero(bits)));
  };
  tally.clock += n_lags + 1;  // nothing of the block before is within reach
  const int64_t start = tally.clock - (routes.n() > 0 ? routes.positions[0] : 0);
  for (int64_t token = 0; token < routes.n(); ++token) {
    const size_t t = static_cast<size_t>(token);
    const int64_t now = start + routes.positions[t];
    each_lag(before[t], [&](size_t lag) { ++tally.pairs[lag]; });
    const int32_t* expert = routes.route(token, 0);
    for (size_t layer = 0; layer < static_cast<size_t>(routes.n_layers); ++layer)
      for (int64_t slot = 0; slot < routes.n_slots; ++slot, ++expert) {
        if (*expert < 0) continue;
        const size_t row = layer * static_cast<size_t>(n_experts) + static_cast<size_t>(*expert);
        if (before[t] == all)
          ++tally.all_second[row];
        else
          each_lag(before[t], [&](size_t lag) { ++tally.second[lag * n_rows + row]; });
        if (behind[t] == all)
          ++tally.all_first[row];
        else
          each_lag(behind[t], [&](size_t lag) { ++tally.first[lag * n_rows + row]; });
        // Lags at which the expert was selected: those before its last time, from here, and that time.
        const int64_t gap = now - tally.placed[row];
        const uint64_t lags = gap > n_lags ? 0 : (tally.before[row] << gap | uint64_t{1} << (gap - 1)) & all;
        tally.placed[row] = now;
        tally.before[row] = lags;
        if (token >= from) each_lag(lags, [&](size_t lag) { ++tally.both[lag * n_rows + row]; });
      }
    tally.clock = std::max(tally.clock, now);
  }
}

void take_lags(LagTally& tally, const SampleRoutes& routes, int64_t from, int64_t n_experts, size_t n_rows) {
  const int64_t n_lags = static_cast<int64_t>(tally.pairs.size());
  if (n_lags <= most_bits) return take_lags_as_bits(tally, routes, from, n_experts, n_rows);
  for (int64_t b = from; b < routes.n(); ++b)
    for (int64_t a = b - 1; a >= 0; --a) {
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
  const std::vector<int64_t> none(n_rows), never(n_rows, -n_lags - 1);
  LagTally tally = tally_blocks(
      set, options, BlockWalk{"autocorrelation", false, n_lags},
      LagTally{std::vector<int64_t>(lags), zeros, zeros, zeros, none, none, never, std::vector<uint64_t>(n_rows), 0},
      [&](LagTally& mine, const SampleRoutes& routes, int64_t from) {
        take_lags(mine, routes, from, set.n_experts(), n_rows);
      });
  for (size_t at = 0; at < zeros.size(); ++at) {
    tally.first[at] += tally.all_first[at % n_rows];
    tally.second[at] += tally.all_second[at % n_rows];
  }
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
