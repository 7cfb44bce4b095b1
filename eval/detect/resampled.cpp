#include "eval/detect/resampled.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

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
  Resampler(const ContrastCounts& counts, const ContrastOptions& options)
      : counts_(counts),
        units_(contrast_units(counts)),
        n_rows_(static_cast<int64_t>(counts.n_rows())),
        n_pairs_(static_cast<int64_t>(units_.pairs.size())),
        n_a_(static_cast<int64_t>(units_.only_a.size())),
        n_b_(static_cast<int64_t>(units_.only_b.size())),
        a_(n_pairs_ + n_a_, n_rows_ + 1, n_pairs_ + n_a_,
           [&](int64_t unit, int64_t column) {
             return unit < n_pairs_ ? sum(units_.pairs[unit].a, column) : one(units_.only_a[unit - n_pairs_], column);
           }),
        b_(n_pairs_ + n_b_, n_rows_ + 1, n_pairs_ + n_b_,
           [&](int64_t unit, int64_t column) {
             return unit < n_pairs_ ? sum(units_.pairs[unit].b, column) : one(units_.only_b[unit - n_pairs_], column);
           }),
        moved_(n_pairs_ + n_a_ + n_b_, n_rows_ + 1, n_pairs_ + n_a_ + n_b_,
               [&](int64_t unit, int64_t column) { return moved(unit, column); }),
        pair_draws_(options.seed, Resampling::bootstrap, paired),
        a_draws_(options.seed, Resampling::bootstrap, unpaired_a),
        b_draws_(options.seed, Resampling::bootstrap, unpaired_b),
        sign_draws_(options.seed, Resampling::signs),
        permutation_draws_(options.seed, Resampling::permutation),
        totals_(static_cast<size_t>(n_rows_ + 1), 0.0),
        fixed_(static_cast<size_t>(n_rows_ + 1), 0.0) {
    for (int64_t column = 0; column <= n_rows_; ++column) {
      for (size_t r = 0; r < counts.records.size(); ++r) totals_[column] += static_cast<double>(one(r, column));
      for (const auto& pair : units_.pairs) fixed_[column] += static_cast<double>(sum(pair.a, column));
    }
  }

  struct Scratch {
    std::vector<uint32_t> multiplicities;
    std::vector<uint32_t> bits, order;
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

  // The same under the null.
  void permute(int64_t first, Scratch& scratch, double* out) const {
    const size_t n_units = static_cast<size_t>(moved_.n_units());
    scratch.a.resize(static_cast<size_t>(replicate_block * (n_rows_ + 1)));
    scratch.multiplicities.assign(replicate_block * n_units, 0);
    for (int64_t r = 0; r < replicate_block; ++r) {
      uint32_t* taken = scratch.multiplicities.data() + static_cast<size_t>(r) * n_units;
      scratch.bits.resize(static_cast<size_t>(n_pairs_));
      sign_draws_.fill(first + r, scratch.bits);
      for (int64_t i = 0; i < n_pairs_; ++i) taken[i] = ResamplingDraws::sign(scratch.bits[i]) < 0;
      scratch.order.resize(static_cast<size_t>(n_a_ + n_b_));
      std::iota(scratch.order.begin(), scratch.order.end(), static_cast<uint32_t>(n_pairs_));
      scratch.bits.resize(static_cast<size_t>(n_a_));
      permutation_draws_.fill(first + r, scratch.bits);
      ResamplingDraws::draw_subset(std::span(scratch.order), static_cast<size_t>(n_a_), std::span(scratch.bits));
      for (int64_t i = 0; i < n_a_; ++i) taken[scratch.order[i]] = 1;
    }
    moved_.multiply(scratch.multiplicities, scratch.a, scratch.product);
    for (int64_t r = 0; r < replicate_block; ++r) {
      const double* a = scratch.a.data() + r * (n_rows_ + 1);
      const double tokens_a = fixed_[n_rows_] + a[n_rows_], tokens_b = totals_[n_rows_] - tokens_a;
      for (int64_t i = 0; i < n_rows_; ++i) {
        const double selected = fixed_[i] + a[i];
        out[r * n_rows_ + i] = rate(selected, tokens_a) - rate(totals_[i] - selected, tokens_b);
      }
    }
  }

 private:
  // Tokens of a record that selected the row's expert; the last column: tokens.
  int64_t one(size_t record, int64_t column) const {
    if (column == n_rows_) return counts_.records[record].tokens;
    return counts_.selected[record * static_cast<size_t>(n_rows_) + static_cast<size_t>(column)];
  }
  int64_t sum(const std::vector<size_t>& records, int64_t column) const {
    int64_t total = 0;
    for (size_t record : records) total += one(record, column);
    return total;
  }
  // What condition A gains when a pair is flipped, or when an unpaired record stands under A.
  int64_t moved(int64_t unit, int64_t column) const {
    if (unit < n_pairs_) return sum(units_.pairs[unit].b, column) - sum(units_.pairs[unit].a, column);
    unit -= n_pairs_;
    return unit < n_a_ ? one(units_.only_a[unit], column) : one(units_.only_b[unit - n_a_], column);
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

  const ContrastCounts& counts_;
  const ContrastUnits units_;
  const int64_t n_rows_, n_pairs_, n_a_, n_b_;
  const CountTable a_, b_, moved_;
  const ResamplingDraws pair_draws_, a_draws_, b_draws_, sign_draws_, permutation_draws_;
  std::vector<double> totals_;  // of all records
  std::vector<double> fixed_;   // of the pairs' A sides, as they stand
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

Resampled resample_contrast(const ContrastCounts& counts, const std::vector<double>& observed,
                            const ContrastOptions& options) {
  const Resampler resampler(counts, options);
  const int64_t n_rows = static_cast<int64_t>(counts.n_rows()), n = options.resamples;
  const int hardware = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool(options.threads > 0 ? options.threads : hardware);
  const size_t n_threads = static_cast<size_t>(pool.n_threads());

  Resampled out;
  out.ci.resize(counts.n_rows());
  out.stable.assign(counts.n_rows(), 0);
  out.hits.assign(counts.n_rows(), 0);

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

  // Calls make(first replicate, thread, out) for all blocks, and after each bufferful `use` for what it holds.
  const auto run = [&](auto make, auto count, auto use, int64_t done_before) {
    for (int64_t first = 0; first < n; first += blocks * replicate_block) {
      const int64_t here = std::min(blocks * replicate_block, n - first);
      pool.parallel_for((here + replicate_block - 1) / replicate_block, [&](int64_t block, int thread) {
        double* rows = buffer.data() + block * replicate_block * n_rows;
        make(first + block * replicate_block, scratch[thread], rows);
        for (int64_t r = 0; r < std::min(replicate_block, here - block * replicate_block); ++r)
          count(rows + r * n_rows, static_cast<size_t>(thread));
      });
      use(here);
      if (options.on_progress) options.on_progress(done_before + first + here);
    }
  };
  const auto gather = [&] {
    std::vector<int64_t> sum(counts.n_rows(), 0);
    for (std::vector<int64_t>& tally : tallies) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += tally[i];
      std::fill(tally.begin(), tally.end(), 0);
    }
    return sum;
  };

  run([&](int64_t first, Resampler::Scratch& own, double* rows) { resampler.bootstrap(first, own, rows); },
      [&](const double* rd, size_t thread) {
        count_top(rd, n_rows, options.stable_top, magnitudes[thread], orders[thread], tallies[thread].data());
      },
      [&](int64_t here) {
        pool.parallel_for((n_rows + rows_per_task - 1) / rows_per_task, [&](int64_t task, int) {
          const int64_t end = std::min(n_rows, (task + 1) * rows_per_task);
          for (int64_t r = 0; r < here; ++r)
            for (int64_t i = task * rows_per_task; i < end; ++i) {
              low[i].add(buffer[r * n_rows + i]);
              high[i].add(buffer[r * n_rows + i]);
            }
        });
      },
      0);
  const std::vector<int64_t> in_top = gather();
  for (int64_t i = 0; i < n_rows; ++i) {
    out.stable[i] = static_cast<double>(in_top[i]) / static_cast<double>(n);
    // The highest values, turned around, are a sample's lowest: the same percentile from the other end.
    const std::vector<double> lowest = low[i].take(), highest = high[i].take();
    const size_t place = static_cast<size_t>(std::floor(at));
    const double part = at - std::floor(at);
    const auto between = [&](const std::vector<double>& ends) {
      const double next = place + 1 < ends.size() ? ends[place + 1] : ends[place];
      return ends[place] + part * (next - ends[place]);
    };
    out.ci[i] = {between(lowest), between(highest)};
  }

  run([&](int64_t first, Resampler::Scratch& own, double* rows) { resampler.permute(first, own, rows); },
      [&](const double* rd, size_t thread) {
        for (int64_t i = 0; i < n_rows; ++i) tallies[thread][i] += std::abs(rd[i]) >= std::abs(observed[i]) - 1e-12;
      },
      [](int64_t) {}, n);
  out.hits = gather();
  return out;
}

}  // namespace signalbox::eval
