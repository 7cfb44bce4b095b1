#include "eval/detect/bootstrapped.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "base/no_number.h"
#include "base/thread_pool.h"
#include "eval/detect/products.h"
#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

// Bootstrap strata, each resampled among its own.
enum Stratum : uint32_t { paired = 0, unpaired_a = 1, unpaired_b = 2 };

constexpr size_t buffer_bytes = size_t{32} << 20;  // of replicates that wait for their rows' extremes
constexpr int64_t rows_per_task = 64;

// The lowest (or, sign -1, the highest) values of a stream: enough of them for a percentile.
class Extremes {
 public:
  Extremes(size_t keep, double sign) : keep_(keep), sign_(sign) {}
  void add(double value) {
    const double signed_value = sign_ * value;
    if (values_.size() >= keep_ && signed_value >= bar_) return;
    values_.push_back(signed_value);
    if (values_.size() >= 2 * keep_) shrink();
  }
  // In order of the stream's values: ascending for the lowest, descending for the highest.
  std::vector<double> take() {
    std::sort(values_.begin(), values_.end());
    values_.resize(std::min(values_.size(), keep_));
    for (double& value : values_) value *= sign_;
    return std::move(values_);
  }

 private:
  void shrink() {
    std::nth_element(values_.begin(), values_.begin() + static_cast<int64_t>(keep_) - 1, values_.end());
    values_.resize(keep_);
    bar_ = values_.back();
  }
  size_t keep_;
  double sign_, bar_ = INFINITY;
  std::vector<double> values_;
};

double rate(double selected, double tokens) { return tokens == 0 ? 0.0 : selected / tokens; }

// Everything about a contrast that replicates are made from. Each table has one column for every row of the contrast,
// and a last one that counts tokens.
class Resampler {
 public:
  Resampler(const ContrastUnits& units, const RatioTable& table, const ContrastOptions& options)
      : units_(units),
        table_(table),
        n_rows_(table.n_rows),
        n_pairs_(static_cast<int64_t>(units_.pairs.size())),
        n_a_(static_cast<int64_t>(units_.only_a.size())),
        n_b_(static_cast<int64_t>(units_.only_b.size())),
        a_(n_pairs_ + n_a_, n_rows_ + 1, n_pairs_ + n_a_,
           [&](int64_t unit, int64_t column) {
             return unit < n_pairs_ ? sum(units_.pairs[unit].a, column) : sum(units_.only_a[unit - n_pairs_], column);
           }),
        b_(n_pairs_ + n_b_, n_rows_ + 1, n_pairs_ + n_b_,
           [&](int64_t unit, int64_t column) {
             return unit < n_pairs_ ? sum(units_.pairs[unit].b, column) : sum(units_.only_b[unit - n_pairs_], column);
           }),
        pair_draws_(options.seed, Resampling::bootstrap, paired),
        a_draws_(options.seed, Resampling::bootstrap, unpaired_a),
        b_draws_(options.seed, Resampling::bootstrap, unpaired_b) {}

  struct Scratch {
    std::vector<uint32_t> multiplicities;
    std::vector<uint32_t> bits;
    std::vector<double> a, b;
    CountTable::Scratch product;
  };

  // Replicates first ... first + replicate_block - 1 of every row's risk difference.
  void bootstrap(int64_t first, Scratch& scratch, double* out) const {
    scratch.a.resize(static_cast<size_t>(replicate_block * (n_rows_ + 1)));
    scratch.b.resize(scratch.a.size());
    draw_side(first, a_draws_, n_a_, scratch);
    a_.multiply(scratch.multiplicities, scratch.a, scratch.product);
    draw_side(first, b_draws_, n_b_, scratch);
    b_.multiply(scratch.multiplicities, scratch.b, scratch.product);
    for (int64_t r = 0; r < replicate_block; ++r) {
      const double *a = scratch.a.data() + r * (n_rows_ + 1), *b = scratch.b.data() + r * (n_rows_ + 1);
      for (int64_t i = 0; i < n_rows_; ++i) out[r * n_rows_ + i] = rate(a[i], a[n_rows_]) - rate(b[i], b[n_rows_]);
    }
  }

 private:
  // A record's number of the row; the last column: tokens.
  int64_t one(size_t record, int64_t column) const {
    if (column == n_rows_) return table_.tokens[record];
    return table_.numerators[record * static_cast<size_t>(n_rows_) + static_cast<size_t>(column)];
  }
  int64_t sum(const std::vector<size_t>& records, int64_t column) const {
    int64_t total = 0;
    for (size_t record : records) total += one(record, column);
    return total;
  }
  // Multiplicities of pairs, the same for both sides, and then of one side's unpaired records.
  void draw_side(int64_t first, const ResamplingDraws& side_draws, int64_t n_side, Scratch& scratch) const {
    const size_t n_units = static_cast<size_t>(n_pairs_ + n_side);
    scratch.multiplicities.assign(replicate_block * n_units, 0);
    for (int64_t r = 0; r < replicate_block; ++r) {
      uint32_t* multiplicities = scratch.multiplicities.data() + static_cast<size_t>(r) * n_units;
      draw(pair_draws_, first + r, n_pairs_, scratch.bits, multiplicities);
      draw(side_draws, first + r, n_side, scratch.bits, multiplicities + n_pairs_);
    }
  }
  static void draw(const ResamplingDraws& draws, int64_t replicate, int64_t n, std::vector<uint32_t>& bits,
                   uint32_t* multiplicities) {
    bits.resize(static_cast<size_t>(n));
    draws.fill(replicate, bits);
    for (uint32_t word : bits) ++multiplicities[ResamplingDraws::below(word, static_cast<size_t>(n))];
  }

  const ContrastUnits& units_;
  const RatioTable& table_;
  const int64_t n_rows_, n_pairs_, n_a_, n_b_;
  const CountTable a_, b_;
  const ResamplingDraws pair_draws_, a_draws_, b_draws_;
};

// Adds 1 to each row that is among the top n of a replicate by |rd|.
void count_top(const double* rd, int64_t n_rows, int64_t n, std::vector<double>& magnitudes,
               std::vector<int32_t>& order, int64_t* counts) {
  magnitudes.resize(static_cast<size_t>(n_rows));
  for (int64_t i = 0; i < n_rows; ++i) magnitudes[i] = std::abs(rd[i]);
  order.resize(static_cast<size_t>(n_rows));
  std::iota(order.begin(), order.end(), 0);
  if (n < n_rows)
    std::nth_element(order.begin(), order.begin() + n, order.end(), [&](int32_t x, int32_t y) {
      return magnitudes[x] != magnitudes[y] ? magnitudes[x] > magnitudes[y] : x < y;
    });
  for (int64_t i = 0; i < std::min(n, n_rows); ++i) ++counts[order[i]];
}

}  // namespace

Bootstrapped bootstrap_contrast(const ContrastCounts& counts, const ContrastOptions& options,
                                const std::function<void(int64_t)>& on_progress) {
  return bootstrap_contrast(counts, selection_table(counts), options, on_progress);
}

Bootstrapped bootstrap_contrast(const ContrastCounts& counts, const RatioTable& table, const ContrastOptions& options,
                                const std::function<void(int64_t)>& on_progress) {
  const int64_t n_rows = static_cast<int64_t>(counts.n_rows()), n = options.resamples;
  Bootstrapped out;
  const ContrastUnits units = contrast_units(counts);
  if (std::max(units.pairs.size(), units.only_a.size()) < 2 || std::max(units.pairs.size(), units.only_b.size()) < 2) {
    out.ci.assign(counts.n_rows(), {no_number, no_number});
    out.stable.assign(counts.n_rows(), no_number);
    if (on_progress) on_progress(n);
    return out;
  }
  out.ci.resize(counts.n_rows());
  out.stable.assign(counts.n_rows(), 0);
  const Resampler resampler(units, table, options);
  const int hardware = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool(options.threads > 0 ? options.threads : hardware);
  const size_t n_threads = static_cast<size_t>(pool.n_threads());

  // As many values from either end as the percentiles need.
  const double at = 0.025 * static_cast<double>(n - 1);
  const size_t keep = static_cast<size_t>(std::floor(at)) + 2;
  std::vector<Extremes> low(counts.n_rows(), Extremes(keep, 1)), high(counts.n_rows(), Extremes(keep, -1));

  const int64_t most = static_cast<int64_t>(buffer_bytes / sizeof(double)) / std::max<int64_t>(n_rows, 1);
  const int64_t blocks = std::clamp<int64_t>(most / replicate_block, pool.n_threads(), 1 << 16);
  std::vector<double> buffer(
      static_cast<size_t>(std::min(blocks, (n + replicate_block - 1) / replicate_block) * replicate_block * n_rows));
  std::vector<Resampler::Scratch> scratch(n_threads);
  std::vector<std::vector<int64_t>> tallies(n_threads, std::vector<int64_t>(counts.n_rows(), 0));
  std::vector<std::vector<double>> magnitudes(n_threads);
  std::vector<std::vector<int32_t>> orders(n_threads);

  for (int64_t first = 0; first < n; first += blocks * replicate_block) {
    const int64_t here = std::min(blocks * replicate_block, n - first);
    pool.parallel_for((here + replicate_block - 1) / replicate_block, [&](int64_t block, int thread) {
      double* rows = buffer.data() + block * replicate_block * n_rows;
      resampler.bootstrap(first + block * replicate_block, scratch[thread], rows);
      for (int64_t r = 0; r < std::min(replicate_block, here - block * replicate_block); ++r)
        count_top(rows + r * n_rows, n_rows, options.stable_top, magnitudes[thread], orders[thread],
                  tallies[thread].data());
    });
    pool.parallel_for((n_rows + rows_per_task - 1) / rows_per_task, [&](int64_t task, int) {
      const int64_t end = std::min(n_rows, (task + 1) * rows_per_task);
      for (int64_t r = 0; r < here; ++r)
        for (int64_t i = task * rows_per_task; i < end; ++i) {
          low[i].add(buffer[r * n_rows + i]);
          high[i].add(buffer[r * n_rows + i]);
        }
    });
    if (on_progress) on_progress(first + here);
  }
  for (int64_t i = 0; i < n_rows; ++i) {
    int64_t in_top = 0;
    for (const std::vector<int64_t>& tally : tallies) in_top += tally[i];
    out.stable[i] = static_cast<double>(in_top) / static_cast<double>(n);
    // The highest values, turned around, are a sample's lowest: the same percentile from the other end.
    const std::vector<double> lowest = low[i].take(), highest = high[i].take();
    const size_t place = static_cast<size_t>(std::floor(at));
    const double part = at - std::floor(at);
    const auto between = [&](const std::vector<double>& ends) {
      const double next = place + 1 < ends.size() ? ends[place + 1] : ends[place];
      return ends[place] + part * (next - ends[place]);
    };
    out.ci[i] = {between(lowest) * table.scale(i), between(highest) * table.scale(i)};
  }
  return out;
}

}  // namespace signalbox::eval
