#include "eval/score/confusion.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "eval/statistics/changes.h"
#include "eval/statistics/draws.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

// Counts of one cluster.
struct Cell {
  double tp = 0, fp = 0, fn = 0, tn = 0;
  double n() const { return tp + fp + fn + tn; }
  Cell& operator+=(const Cell& other) {
    tp += other.tp, fp += other.fp, fn += other.fn, tn += other.tn;
    return *this;
  }
};

double kappa_of(const Cell& cell) {
  const double n = cell.n(), agree = (cell.tp + cell.tn) / n;
  const double yes = (cell.tp + cell.fp) / n, is = (cell.tp + cell.fn) / n;
  const double chance = yes * is + (1 - yes) * (1 - is);
  return chance < 1 ? (agree - chance) / (1 - chance) : no_number;
}

Share kappa_share(const std::vector<Cell>& cells, const Cell& sum, uint64_t seed, int64_t resamples) {
  Share kappa{kappa_of(sum)};
  if (std::isnan(kappa.value) || sum.fp + sum.fn == 0 || cells.size() < 2) return kappa;
  const ResamplingDraws draws(seed, Resampling::bootstrap);
  std::vector<uint32_t> bits(cells.size());
  std::vector<double> values;
  for (int64_t b = 0; b < resamples; ++b) {
    draws.fill(b, bits);
    Cell drawn;
    for (const uint32_t one : bits) drawn += cells[ResamplingDraws::below(one, cells.size())];
    const double value = kappa_of(drawn);
    if (!std::isnan(value)) values.push_back(value);
  }
  std::sort(values.begin(), values.end());
  kappa.lo = quantile(values, 0.025);
  kappa.hi = quantile(values, 0.975);
  return kappa;
}

template <class Hits, class Of>
Share share_of(const std::vector<Cell>& cells, Hits hits, Of of) {
  std::vector<double> x, n;
  for (const Cell& cell : cells) {
    x.push_back(hits(cell));
    n.push_back(of(cell));
  }
  return clustered_share(x, n);
}

}  // namespace

Share exact_share(double x, double n) {
  if (!(n > 0)) return {};
  const Interval exact = effective_proportion_interval(x, n);
  return {x / n, exact.lo, exact.hi};
}

Share clustered_share(std::span<const double> hits, std::span<const double> of) {
  double x = 0, n = 0, clusters = 0;
  bool single = true;
  for (size_t i = 0; i < of.size(); ++i) {
    x += hits[i];
    n += of[i];
    clusters += of[i] > 0;
    single = single && of[i] <= 1;
  }
  if (single || n == 0) return exact_share(x, n);
  const double p = x / n;
  if (x == 0 || x == n) {
    Share share = exact_share(p * clusters, clusters);
    share.value = p;
    return share;
  }
  double between = 0;
  for (size_t i = 0; i < of.size(); ++i) between += (hits[i] - p * of[i]) * (hits[i] - p * of[i]);
  const double variance = clusters / (clusters - 1) * between / (n * n);
  if (clusters < 2) return {p};
  const double effective = variance > 0 ? std::min(n, p * (1 - p) / variance) : n;
  Share share = exact_share(p * effective, effective);
  share.value = p;
  return share;
}

Confusion confusion(std::span<const LabelledScore> lines, double threshold, uint64_t seed, int64_t resamples) {
  std::map<int64_t, size_t> place;
  std::vector<Cell> cells;
  Cell sum;
  for (const LabelledScore& line : lines) {
    const auto [entry, fresh] = place.emplace(line.cluster, cells.size());
    if (fresh) cells.emplace_back();
    const bool says = line.score >= threshold;
    Cell one;
    (line.label ? (says ? one.tp : one.fn) : (says ? one.fp : one.tn)) = 1;
    cells[entry->second] += one;
    sum += one;
  }
  Confusion out;
  out.true_positive = static_cast<int64_t>(sum.tp);
  out.false_positive = static_cast<int64_t>(sum.fp);
  out.false_negative = static_cast<int64_t>(sum.fn);
  out.true_negative = static_cast<int64_t>(sum.tn);
  out.n_clusters = static_cast<int64_t>(cells.size());
  if (cells.empty()) return out;
  const auto all = [](const Cell& c) { return c.n(); };
  const auto right = [](const Cell& c) { return c.tp; };
  const auto with_label = [](const Cell& c) { return c.tp + c.fn; };
  const auto says = [](const Cell& c) { return c.tp + c.fp; };
  out.label_rate = share_of(cells, with_label, all);
  out.rule_rate = share_of(cells, says, all);
  out.sensitivity = share_of(cells, right, with_label);
  out.specificity = share_of(
      cells, [](const Cell& c) { return c.tn; }, [](const Cell& c) { return c.tn + c.fp; });
  out.precision = share_of(cells, right, says);
  const Share overlap = share_of(cells, right, [](const Cell& c) { return c.tp + c.fp + c.fn; });
  const auto doubled = [](double share) { return 2 * share / (1 + share); };
  out.f1 = {doubled(overlap.value), doubled(overlap.lo), doubled(overlap.hi)};
  out.kappa = kappa_share(cells, sum, seed, resamples);
  return out;
}

}  // namespace signalbox::eval
