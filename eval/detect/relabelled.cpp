#include "eval/detect/relabelled.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/thread_pool.h"
#include "eval/detect/studentised.h"
#include "eval/detect/subset_sums.h"
#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

constexpr int64_t width = SubsetSums::panel_columns;  // rows of a block
constexpr int64_t most_replicates = 1024;             // that a task holds at once
constexpr double tie = 1 - 1e-9;                      // of t squared: equal on paper, rounded apart

// One side of a unit in one row.
struct Cell {
  int64_t selected = 0, tokens = 0;
};

// Where units stand, what a relabelling changes, and the statistic that follows.
class Relabeller {
 public:
  Relabeller(const ContrastCounts& counts, const RatioTable& table, uint64_t seed)
      : table_(table),
        units_(contrast_units(counts)),
        paired_(!units_.pairs.empty()),
        n_a_(static_cast<int64_t>(units_.only_a.size())),
        n_b_(static_cast<int64_t>(units_.only_b.size())),
        n_units_(paired_ ? static_cast<int64_t>(units_.pairs.size()) : n_a_ + n_b_),
        n_quantities_(paired_ ? 4 : 3),
        n_rows_(table.n_rows),
        signs_(seed, Resampling::signs),
        permutation_(seed, Resampling::permutation) {
    check_tokens();
    for (int64_t unit = 0; unit < n_units_; ++unit) {
      const auto u = static_cast<size_t>(unit);
      if (paired_) {
        gather(units_.pairs[u].a, unit, sides_[0]);
        gather(units_.pairs[u].b, unit, sides_[1]);
      } else {
        gather(unit < n_a_ ? units_.only_a[u] : units_.only_b[u - static_cast<size_t>(n_a_)], unit, sides_[0]);
      }
    }
    for (int64_t row = 0; row < n_rows_; ++row) totals_.push_back(totals_of(row));
    for (int64_t row = 0; row < n_rows_; ++row) squared_t_.push_back(observed(row));
    // Ascending: what the family's running maximum needs. Ties: the later row first.
    order_.resize(static_cast<size_t>(n_rows_));
    std::iota(order_.begin(), order_.end(), int64_t{0});
    std::sort(order_.begin(), order_.end(), [&](int64_t x, int64_t y) {
      return squared_t_[x] != squared_t_[y] ? squared_t_[x] < squared_t_[y] : x > y;
    });
    // Blocks of `width` rows in that order; of each as many panels as there are quantities.
    n_blocks_ = (n_rows_ + width - 1) / width;
    sums_.emplace(n_units_, n_blocks_ * n_quantities_ * width, [&](int64_t unit, int64_t column) {
      const int64_t place = column / (n_quantities_ * width) * width + column % width;
      if (place >= n_rows_) return int64_t{0};
      return moved(unit, order_[static_cast<size_t>(place)], column / width % n_quantities_);
    });
  }

  const std::vector<double>& squared_t() const { return squared_t_; }

  struct Scratch {
    std::vector<uint32_t> bits, order;
    std::vector<uint8_t> subsets;
    std::vector<int64_t> sums;    // [quantity][replicate][width]
    std::vector<SideSums> a, b;   // tokens of each replicate
    std::vector<double> running;  // the largest squared t of the rows so far
    SubsetSums::Scratch product;
    std::vector<int64_t> hits, family_hits;  // by row
  };

  // Adds up what the replicates first ... first + n - 1 hit.
  void count(int64_t first, int64_t n, Scratch& scratch) const {
    scratch.hits.resize(static_cast<size_t>(n_rows_));
    scratch.family_hits.resize(static_cast<size_t>(n_rows_));
    scratch.sums.resize(static_cast<size_t>(n_quantities_ * n * width));
    scratch.running.assign(static_cast<size_t>(n), 0);
    draw(first, n, scratch);
    for (int64_t block = 0; block < n_blocks_; ++block) {
      for (int64_t q = 0; q < n_quantities_; ++q)
        sums_->sum(block * n_quantities_ + q, scratch.subsets, n, scratch.sums.data() + q * n * width, scratch.product);
      const int64_t n_here = std::min(width, n_rows_ - block * width);
      for (int64_t lane = 0; lane < n_here; ++lane)
        count_row(order_[static_cast<size_t>(block * width + lane)], lane, n, scratch);
    }
  }

 private:
  // Sums of a row that no relabelling changes.
  struct Totals {
    SideSums both;  // tokens left out
    CrossSums cross;
    // Pairs: of the A sides as they stand.
    int64_t selected_a = 0, squares_a = 0, products_a = 0;
  };

  void check_tokens() const {
    int64_t tokens = 0;
    for (const int64_t of_record : table_.tokens) tokens += of_record;
    if (tokens >= int64_t{1} << 31)
      throw Error("contrast", "expected fewer than 2^31 tokens, found " + std::to_string(tokens));
  }

  // One side of all units.
  struct Side {
    std::vector<int32_t> selected;  // [row][unit], as everything here reads it
    std::vector<int64_t> tokens;    // [unit]
  };

  void gather(const std::vector<size_t>& records, int64_t unit, Side& side) const {
    side.selected.resize(static_cast<size_t>(n_rows_ * n_units_));
    side.tokens.resize(static_cast<size_t>(n_units_));
    for (size_t record : records) {
      side.tokens[static_cast<size_t>(unit)] += table_.tokens[record];
      const int32_t* selected = table_.numerators.data() + record * static_cast<size_t>(n_rows_);
      for (int64_t row = 0; row < n_rows_; ++row)
        side.selected[static_cast<size_t>(row * n_units_ + unit)] += selected[row];
    }
  }

  // A unit's side: its only one (0), or of a pair A (0) or B (1).
  Cell cell(int64_t unit, int which, int64_t row) const {
    return {int64_t{sides_[which].selected[static_cast<size_t>(row * n_units_ + unit)]},
            sides_[which].tokens[static_cast<size_t>(unit)]};
  }

  Totals totals_of(int64_t row) const {
    Totals out;
    const auto add = [](SideSums& sums, const Cell& cell) {
      sums.selected += cell.selected;
      sums.squares += cell.selected * cell.selected;
      sums.products += cell.selected * cell.tokens;
    };
    for (int64_t unit = 0; unit < n_units_; ++unit) {
      const Cell a = cell(unit, 0, row);
      add(out.both, a);
      if (!paired_) continue;
      const Cell b = cell(unit, 1, row);
      add(out.both, b);
      out.selected_a += a.selected;
      out.squares_a += a.selected * a.selected;
      out.products_a += a.selected * a.tokens;
      out.cross.selected += a.selected * b.selected;
      out.cross.selected_1_tokens += a.selected * b.tokens;
      out.cross.selected_2_tokens += b.selected * a.tokens;
      out.cross.tokens += a.tokens * b.tokens;
    }
    return out;
  }

  // What the A side's sums gain when the unit is in the subset: swapped, or under A.
  int64_t moved(int64_t unit, int64_t row, int64_t quantity) const {
    const Cell a = cell(unit, 0, row);
    if (!paired_) return quantity == 0 ? a.selected : quantity == 1 ? a.selected * a.selected : a.selected * a.tokens;
    const Cell b = cell(unit, 1, row);
    switch (quantity) {
      case 0: return b.selected - a.selected;
      case 1: return b.selected * b.selected - a.selected * a.selected;
      case 2: return b.selected * b.tokens - a.selected * a.tokens;
      default: return b.selected * a.tokens - a.selected * b.tokens;
    }
  }

  // The squared statistic of a row; `a` and `b` come with tokens and tokens_squared filled in, and gained[q] is what
  // side A gained over the labels as they stand (pairs) or over nothing.
  double statistic(const Totals& totals, SideSums a, SideSums b, const int64_t* gained) const {
    a.selected = totals.selected_a + gained[0];
    a.squares = totals.squares_a + gained[1];
    a.products = totals.products_a + gained[2];
    b.selected = totals.both.selected - a.selected;
    b.squares = totals.both.squares - a.squares;
    b.products = totals.both.products - a.products;
    if (!paired_) return eval::squared_t(a, b, n_a_, n_b_);
    CrossSums cross = totals.cross;
    cross.selected_1_tokens += gained[3];
    cross.selected_2_tokens -= gained[3];
    return eval::squared_t(a, b, cross, n_units_);
  }

  double observed(int64_t row) const {
    SideSums a, b;
    int64_t gained[4] = {};
    for (int64_t unit = 0; unit < n_units_; ++unit) {
      if (paired_) {
        add_tokens(a, sides_[0].tokens[static_cast<size_t>(unit)]);
        add_tokens(b, sides_[1].tokens[static_cast<size_t>(unit)]);
      } else {
        add_tokens(unit < n_a_ ? a : b, sides_[0].tokens[static_cast<size_t>(unit)]);
        for (int64_t q = 0; q < n_quantities_ && unit < n_a_; ++q) gained[q] += moved(unit, row, q);
      }
    }
    return statistic(totals_[static_cast<size_t>(row)], a, b, gained);
  }

  static void add_tokens(SideSums& sums, int64_t tokens) {
    sums.tokens += tokens;
    sums.tokens_squared += tokens * tokens;
  }

  // The subsets of n replicates, and the tokens that stand on either side.
  void draw(int64_t first, int64_t n, Scratch& scratch) const {
    scratch.subsets.assign(static_cast<size_t>(sums_->n_bytes() * n), 0);
    scratch.a.assign(static_cast<size_t>(n), {});
    scratch.b.assign(static_cast<size_t>(n), {});
    for (int64_t r = 0; r < n; ++r) {
      SideSums &a = scratch.a[static_cast<size_t>(r)], &b = scratch.b[static_cast<size_t>(r)];
      const auto put = [&](int64_t unit) {
        scratch.subsets[static_cast<size_t>(unit / 8 * n + r)] |= static_cast<uint8_t>(1 << unit % 8);
      };
      if (paired_) {
        scratch.bits.resize(static_cast<size_t>(n_units_));
        signs_.fill(first + r, scratch.bits);
        for (int64_t unit = 0; unit < n_units_; ++unit) {
          const auto u = static_cast<size_t>(unit);
          const bool swapped = ResamplingDraws::sign(scratch.bits[u]) < 0;
          if (swapped) put(unit);
          add_tokens(swapped ? b : a, sides_[0].tokens[u]);
          add_tokens(swapped ? a : b, sides_[1].tokens[u]);
        }
        continue;
      }
      scratch.order.resize(static_cast<size_t>(n_units_));
      std::iota(scratch.order.begin(), scratch.order.end(), 0u);
      scratch.bits.resize(static_cast<size_t>(n_a_));
      permutation_.fill(first + r, scratch.bits);
      ResamplingDraws::draw_subset(std::span(scratch.order), static_cast<size_t>(n_a_),
                                   std::span<const uint32_t>(scratch.bits));
      for (int64_t i = 0; i < n_units_; ++i) {
        const uint32_t unit = scratch.order[static_cast<size_t>(i)];
        if (i < n_a_) put(unit);
        add_tokens(i < n_a_ ? a : b, sides_[0].tokens[unit]);
      }
    }
  }

  void count_row(int64_t row, int64_t lane, int64_t n, Scratch& scratch) const {
    const auto at = static_cast<size_t>(row);
    const Totals& totals = totals_[at];
    const double bar = squared_t_[at] * tie;
    int64_t hits = 0, family_hits = 0;
    for (int64_t r = 0; r < n; ++r) {
      int64_t gained[4];
      for (int64_t q = 0; q < n_quantities_; ++q)
        gained[q] = scratch.sums[static_cast<size_t>((q * n + r) * width + lane)];
      const auto replicate = static_cast<size_t>(r);
      const double t = statistic(totals, scratch.a[replicate], scratch.b[replicate], gained);
      double& running = scratch.running[replicate];
      running = std::max(running, t);
      hits += t >= bar;
      family_hits += running >= bar;
    }
    scratch.hits[at] += hits;
    scratch.family_hits[at] += family_hits;
  }

  const RatioTable& table_;
  const ContrastUnits units_;
  const bool paired_;
  const int64_t n_a_, n_b_;  // records without a pair; the units where there is no pair
  const int64_t n_units_, n_quantities_, n_rows_;
  int64_t n_blocks_ = 0;
  const ResamplingDraws signs_, permutation_;
  Side sides_[2];                  // the second: of pairs
  std::vector<Totals> totals_;     // by row
  std::vector<double> squared_t_;  // by row, observed
  std::vector<int64_t> order_;     // of rows, as blocks hold them
  std::optional<SubsetSums> sums_;
};

}  // namespace

Relabelled relabel_contrast(const ContrastCounts& counts, const ContrastOptions& options,
                            const std::function<void(int64_t)>& on_progress) {
  return relabel_contrast(counts, selection_table(counts), options, on_progress);
}

Relabelled relabel_contrast(const ContrastCounts& counts, const RatioTable& table, const ContrastOptions& options,
                            const std::function<void(int64_t)>& on_progress) {
  const Relabeller relabeller(counts, table, options.seed);
  const int hardware = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool(options.threads > 0 ? options.threads : hardware);
  const int64_t n = options.resamples, n_threads = pool.n_threads();
  const int64_t at_once = std::clamp<int64_t>((n + n_threads - 1) / n_threads, 64, most_replicates);
  std::vector<Relabeller::Scratch> scratch(static_cast<size_t>(n_threads));
  for (int64_t first = 0; first < n; first += n_threads * at_once) {
    const int64_t here = std::min(n - first, n_threads * at_once);
    pool.parallel_for((here + at_once - 1) / at_once, [&](int64_t task, int thread) {
      relabeller.count(first + task * at_once, std::min(at_once, here - task * at_once),
                       scratch[static_cast<size_t>(thread)]);
    });
    if (on_progress) on_progress(first + here);
  }
  Relabelled out;
  out.squared_t = relabeller.squared_t();
  out.hits.assign(counts.n_rows(), 0);
  out.family_hits.assign(counts.n_rows(), 0);
  for (const Relabeller::Scratch& own : scratch)
    for (size_t i = 0; i < own.hits.size(); ++i) {
      out.hits[i] += own.hits[i];
      out.family_hits[i] += own.family_hits[i];
    }
  return out;
}

double smallest_relabelling_p(const ContrastUnits& units) {
  if (!units.pairs.empty()) return std::exp2(1 - static_cast<double>(units.pairs.size()));
  const auto a = static_cast<double>(units.only_a.size()), b = static_cast<double>(units.only_b.size());
  double ways = 1;
  for (double i = 1; i <= std::min(a, b); ++i) ways = ways * (std::max(a, b) + i) / i;
  return std::min(1.0, (a == b ? 2 : 1) / ways);
}

}  // namespace signalbox::eval
