#include "eval/direction/estimate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "base/error.h"
#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

constexpr std::array<std::pair<Estimator, std::string_view>, 4> estimators = {{{Estimator::means, "means"},
                                                                               {Estimator::paired, "paired"},
                                                                               {Estimator::lda, "lda"},
                                                                               {Estimator::logistic, "logistic"}}};
constexpr double shrinkage = 0.1;

using Rows = std::vector<std::vector<double>>;

// Solves m x = y for a symmetric positive definite m [n, n], by Cholesky; m and y are written over.
void solve(std::vector<double>& m, std::vector<double>& y) {
  const size_t n = y.size();
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < j; ++k) m[j * n + j] -= m[j * n + k] * m[j * n + k];
    m[j * n + j] = std::sqrt(std::max(m[j * n + j], 1e-300));
    for (size_t i = j + 1; i < n; ++i) {
      for (size_t k = 0; k < j; ++k) m[i * n + j] -= m[i * n + k] * m[j * n + k];
      m[i * n + j] /= m[j * n + j];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) y[i] -= m[i * n + k] * y[k];
    y[i] /= m[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) y[i] -= m[k * n + i] * y[k];
    y[i] /= m[i * n + i];
  }
}

std::vector<double> gram(const Rows& rows) {
  const size_t n = rows.size();
  std::vector<double> k(n * n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j <= i; ++j) k[i * n + j] = k[j * n + i] = dot(rows[i], std::span<const double>(rows[j]));
  return k;
}

std::vector<double> combination(const Rows& rows, const std::vector<double>& a, size_t d) {
  std::vector<double> out(d);
  for (size_t i = 0; i < rows.size(); ++i)
    for (size_t c = 0; c < d; ++c) out[c] += a[i] * rows[i][c];
  return out;
}

// By the Woodbury identity, in as many dimensions as there are records.
std::vector<double> lda(const Rows& within, const std::vector<double>& difference) {
  const size_t n = within.size(), d = difference.size();
  const double freedom = std::max<double>(1, static_cast<double>(n) - 2);
  std::vector<double> k = gram(within);
  double trace = 0;
  for (size_t i = 0; i < n; ++i) trace += k[i * n + i] / freedom;
  const double ridge = std::max(shrinkage * trace / static_cast<double>(d), 1e-300), scale = (1 - shrinkage) / freedom;
  std::vector<double> y(n);
  for (size_t i = 0; i < n; ++i) {
    y[i] = dot(within[i], std::span<const double>(difference));
    k[i * n + i] += ridge / scale;
  }
  solve(k, y);
  std::vector<double> out = combination(within, y, d);
  for (size_t c = 0; c < d; ++c) out[c] = (difference[c] - out[c]) / ridge;
  return out;
}

// Newton's steps on w = sum a_i x_i, halved where they lead upwards.
std::vector<double> logistic(const Rows& rows, std::span<const int> labels, size_t d) {
  const size_t n = rows.size();
  const std::vector<double> k = gram(rows);
  std::vector<double> a(n), f(n);
  double b = 0;
  const auto scores = [&](const std::vector<double>& of, double bias, std::vector<double>& to) {
    for (size_t i = 0; i < n; ++i) {
      to[i] = bias;
      for (size_t j = 0; j < n; ++j) to[i] += k[i * n + j] * of[j];
    }
  };
  const auto objective = [&](const std::vector<double>& of, double bias, const std::vector<double>& at) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      const double z = -labels[i] * at[i];
      sum += (z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z))) + 0.5 * of[i] * (at[i] - bias);
    }
    return sum;
  };
  double now = objective(a, b, f);
  for (int step = 0; step < 100; ++step) {
    std::vector<double> root(n), target(n), m(n * n), ones(n), right(n);
    for (size_t i = 0; i < n; ++i) {
      const double p = 1 / (1 + std::exp(-f[i])), w = std::max(p * (1 - p), 1e-12);
      root[i] = std::sqrt(w);
      target[i] = f[i] + ((labels[i] > 0 ? 1 : 0) - p) / w;
    }
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) m[i * n + j] = root[i] * k[i * n + j] * root[j] + (i == j ? 1 : 0);
      ones[i] = root[i];
      right[i] = root[i] * target[i];
    }
    std::vector<double> again = m;
    solve(m, ones);
    solve(again, right);
    double above = 0, below = 0;
    for (size_t i = 0; i < n; ++i) {
      above += root[i] * right[i];
      below += root[i] * ones[i];
    }
    const double bias = above / below;
    std::vector<double> next(n), at(n);
    for (size_t i = 0; i < n; ++i) next[i] = root[i] * (right[i] - bias * ones[i]);
    double share = 1, value = now;
    for (; share > 1e-6; share /= 2) {
      std::vector<double> tried(n);
      for (size_t i = 0; i < n; ++i) tried[i] = a[i] + share * (next[i] - a[i]);
      const double tried_bias = b + share * (bias - b);
      scores(tried, tried_bias, at);
      value = objective(tried, tried_bias, at);
      if (value <= now) {
        a = tried;
        b = tried_bias;
        f = at;
        break;
      }
    }
    if (share <= 1e-6 || now - value <= 1e-13 * std::max(1.0, std::fabs(now))) break;
    now = value;
  }
  return combination(rows, a, d);
}

}  // namespace

double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double dot(std::span<const double> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * double{b[i]};
  return sum;
}

Estimator parse_estimator(std::string_view name, const std::string& where) {
  for (const auto& [estimator, known] : estimators)
    if (known == name) return estimator;
  throw Error(where, "expected means, paired, lda or logistic, found \"" + std::string(name) + "\"");
}

std::string_view estimator_name(Estimator estimator) { return estimators[static_cast<size_t>(estimator)].second; }

bool paired_examples(std::span<const int> labels, std::span<const int64_t> examples) {
  std::map<int64_t, int> seen;
  for (size_t i = 0; i < labels.size(); ++i) seen[examples[i]] |= labels[i] > 0 ? 1 : 2;
  return std::all_of(seen.begin(), seen.end(), [](const auto& example) { return example.second == 3; });
}

std::vector<double> estimate_direction(Estimator estimator, const StreamMeans& means, int64_t layer,
                                       std::span<const size_t> records, std::span<const int> labels,
                                       std::span<const int64_t> examples) {
  const auto d = static_cast<size_t>(means.d);
  const size_t n = records.size();
  // Of each record its part in the difference: +-1 over the number of records of its condition.
  std::vector<double> shares(n);
  if (estimator == Estimator::paired) {
    std::map<int64_t, std::array<double, 2>> counts;
    for (size_t i = 0; i < n; ++i) ++counts[examples[i]][labels[i] > 0];
    for (size_t i = 0; i < n; ++i)
      shares[i] = labels[i] / counts[examples[i]][labels[i] > 0] / static_cast<double>(counts.size());
  } else {
    const auto positive = static_cast<double>(std::count(labels.begin(), labels.end(), 1));
    for (size_t i = 0; i < n; ++i) shares[i] = labels[i] > 0 ? 1 / positive : -1 / (static_cast<double>(n) - positive);
  }
  std::vector<double> difference(d);
  for (size_t i = 0; i < n; ++i) {
    const std::span<const float> row = means.row(records[i], layer);
    for (size_t c = 0; c < d; ++c) difference[c] += shares[i] * double{row[c]};
  }
  if (estimator == Estimator::means || estimator == Estimator::paired) return difference;

  // The rows around the mean of their condition (lda) or of all (logistic).
  std::array<std::vector<double>, 2> centres = {std::vector<double>(d), std::vector<double>(d)};
  std::array<double, 2> sizes = {0, 0};
  for (size_t i = 0; i < n; ++i) {
    const size_t side = estimator == Estimator::lda && labels[i] > 0;
    const std::span<const float> row = means.row(records[i], layer);
    for (size_t c = 0; c < d; ++c) centres[side][c] += double{row[c]};
    ++sizes[side];
  }
  Rows rows;
  double squares = 0;
  for (size_t i = 0; i < n; ++i) {
    const size_t side = estimator == Estimator::lda && labels[i] > 0;
    const std::span<const float> row = means.row(records[i], layer);
    std::vector<double> x(d);
    for (size_t c = 0; c < d; ++c) x[c] = double{row[c]} - centres[side][c] / sizes[side];
    squares += dot(x, std::span<const double>(x));
    rows.push_back(std::move(x));
  }
  const double rms = std::sqrt(squares / static_cast<double>(n * d));
  if (rms == 0) return difference;
  if (estimator == Estimator::logistic)
    for (std::vector<double>& x : rows)
      for (double& value : x) value /= rms;
  std::vector<double> w = estimator == Estimator::lda ? lda(rows, difference) : logistic(rows, labels, d);
  const double length = dot(w, std::span<const double>(w));
  if (length == 0) return difference;
  const double factor = dot(w, std::span<const double>(difference)) / length;
  for (double& value : w) value *= factor;
  return w;
}

std::vector<int> relabelled(std::span<const int> labels, std::span<const int64_t> examples, uint64_t seed,
                            int64_t replicate) {
  std::map<int64_t, int> kinds;
  for (size_t i = 0; i < labels.size(); ++i) kinds[examples[i]] |= labels[i] > 0 ? 1 : 2;
  std::vector<int64_t> both, single;
  std::vector<int> single_labels;
  for (const auto& [example, kind] : kinds) {
    if (kind == 3) {
      both.push_back(example);
    } else {
      single.push_back(example);
      single_labels.push_back(kind == 1 ? 1 : -1);
    }
  }
  std::vector<uint32_t> bits(both.size());
  ResamplingDraws(seed, Resampling::signs).fill(replicate, bits);
  std::map<int64_t, int> sign, label;
  for (size_t i = 0; i < both.size(); ++i) sign[both[i]] = ResamplingDraws::sign(bits[i]);
  bits.resize(single.size());
  ResamplingDraws(seed, Resampling::permutation).fill(replicate, bits);
  ResamplingDraws::draw_subset(std::span(single_labels), single_labels.size(), bits);
  for (size_t i = 0; i < single.size(); ++i) label[single[i]] = single_labels[i];
  std::vector<int> out(labels.size());
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto found = sign.find(examples[i]);
    out[i] = found != sign.end() ? labels[i] * found->second : label[examples[i]];
  }
  return out;
}

double rank_auc(std::span<const double> scores, std::span<const int> labels) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  double won = 0, below = 0, positive = 0;
  for (size_t i = 0; i < order.size();) {
    double ups = 0, downs = 0;
    size_t end = i;
    for (; end < order.size() && scores[order[end]] == scores[order[i]]; ++end)
      (labels[order[end]] > 0 ? ups : downs) += 1;
    won += ups * (below + downs / 2);
    below += downs;
    positive += ups;
    i = end;
  }
  return won / (positive * below);
}

}  // namespace signalbox::eval
