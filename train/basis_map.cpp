#include "train/basis_map.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "base/error.h"
#include "train/refit.h"

namespace signalbox::train {

namespace {

// Of the eigenvalues' mean: what is added to them before their root is divided by. Directions that hardly vary are
// noise.
constexpr double whitening_share = 1e-4;

// States of root mean square 1, and the logarithm of what they were.
struct UnitStates {
  std::vector<float> rows;  // [n, d]
  std::vector<double> log_rms;
};

UnitStates unit_states(const std::vector<float>& mid, int64_t n, int64_t d, float eps) {
  UnitStates out;
  out.rows.resize(mid.size());
  for (int64_t t = 0; t < n; ++t) {
    double square = 0;
    for (int64_t c = 0; c < d; ++c) square += static_cast<double>(mid[t * d + c]) * mid[t * d + c];
    const double rms = std::sqrt(square / static_cast<double>(d) + static_cast<double>(eps));
    out.log_rms.push_back(std::log(rms));
    for (int64_t c = 0; c < d; ++c) out.rows[t * d + c] = static_cast<float>(mid[t * d + c] / rms);
  }
  return out;
}

// The rows of those tokens.
std::vector<float> chosen(const std::vector<float>& rows, int64_t d, const std::vector<uint8_t>& held_out, bool held) {
  std::vector<float> out;
  for (size_t t = 0; t < held_out.size(); ++t)
    if ((held_out[t] != 0) == held)
      out.insert(out.end(), rows.begin() + static_cast<int64_t>(t) * d,
                 rows.begin() + (static_cast<int64_t>(t) + 1) * d);
  return out;
}

// sum over tokens of y x': [d_y, d_x], in order of tokens.
DenseMatrix outer_sum(const std::vector<float>& y, int64_t d_y, const std::vector<float>& x, int64_t d_x,
                      ThreadPool& pool) {
  DenseMatrix out(d_y, d_x);
  const int64_t n = static_cast<int64_t>(x.size()) / d_x;
  pool.parallel_for(d_y, [&](int64_t r, int) {
    double* row = &out.at(r, 0);
    for (int64_t t = 0; t < n; ++t) {
      const double factor = y[t * d_y + r];
      const float* from = x.data() + t * d_x;
      for (int64_t c = 0; c < d_x; ++c) row[c] += factor * from[c];
    }
  });
  return out;
}

DenseMatrix of_floats(const std::vector<float>& values, int64_t rows, int64_t cols) {
  DenseMatrix out(rows, cols);
  std::copy(values.begin(), values.end(), out.values.begin());
  return out;
}

DenseMatrix transposed(const DenseMatrix& m) {
  DenseMatrix out(m.cols, m.rows);
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < m.cols; ++c) out.at(c, r) = m.at(r, c);
  return out;
}

// One model's tokens apart: those that make the map, those that judge it.
struct Side {
  std::vector<float> fit, judge;
  int64_t d = 0;
};

// map x for each row.
std::vector<double> mapped(const DenseMatrix& map, const std::vector<float>& rows, ThreadPool& pool) {
  const int64_t n = static_cast<int64_t>(rows.size()) / map.cols;
  std::vector<double> out(static_cast<size_t>(n * map.rows));
  pool.parallel_for(n, [&](int64_t t, int) {
    for (int64_t r = 0; r < map.rows; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < map.cols; ++c) sum += map.at(r, c) * static_cast<double>(rows[t * map.cols + c]);
      out[t * map.rows + r] = sum;
    }
  });
  return out;
}

std::vector<double> weighted(const std::vector<float>& rows, const std::vector<float>& weight) {
  std::vector<double> out(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) out[i] = static_cast<double>(rows[i]) * weight[i % weight.size()];
  return out;
}

// Each dimension's error over its size, squared; the root of the mean over dimensions that are not 0 throughout.
double scaled_error(const std::vector<double>& found, const std::vector<double>& wanted, int64_t d) {
  double sum = 0;
  int64_t counted = 0;
  for (int64_t c = 0; c < d; ++c) {
    double error = 0, size = 0;
    for (size_t i = static_cast<size_t>(c); i < wanted.size(); i += static_cast<size_t>(d)) {
      error += (found[i] - wanted[i]) * (found[i] - wanted[i]);
      size += wanted[i] * wanted[i];
    }
    if (size == 0) continue;
    sum += error / size;
    ++counted;
  }
  return counted > 0 ? std::sqrt(sum / static_cast<double>(counted)) : no_number;
}

class Fit {
 public:
  Fit(const StatePairs& pairs, ThreadPool& pool) : pairs_(pairs), pool_(pool) {
    const UnitStates a = unit_states(*pairs.a, pairs.n(), pairs.d_a, pairs.eps_a),
                     b = unit_states(*pairs.b, pairs.n(), pairs.d_b, pairs.eps_b);
    for (auto [side, states, d] : {std::tuple(&a_, &a, pairs.d_a), std::tuple(&b_, &b, pairs.d_b)}) {
      side->d = d;
      side->fit = chosen(states->rows, d, pairs.held_out, false);
      side->judge = chosen(states->rows, d, pairs.held_out, true);
    }
    double sum = 0;
    int64_t n = 0;
    for (size_t t = 0; t < pairs.held_out.size(); ++t)
      if (pairs.held_out[t] == 0) {
        sum += b.log_rms[t] - a.log_rms[t];
        ++n;
      }
    scale_ = n > 0 ? std::exp(sum / static_cast<double>(n)) : 1;
    wanted_ = weighted(a_.judge, pairs.weight_a);
  }

  int64_t n_fit() const { return static_cast<int64_t>(a_.fit.size()) / a_.d; }
  int64_t n_judge() const { return static_cast<int64_t>(a_.judge.size()) / a_.d; }
  double scale() const { return scale_; }

  // The expert reads b's input as it is.
  double error_none() const { return scaled_error(weighted(b_.judge, pairs_.weight_b), wanted_, a_.d); }
  double error_of(const DenseMatrix& in) const {
    std::vector<double> read = mapped(in, b_.judge, pool_);
    for (size_t i = 0; i < read.size(); ++i) read[i] *= pairs_.weight_a[i % pairs_.weight_a.size()];
    return scaled_error(read, wanted_, a_.d);
  }
  // |x_b - out x_a| / |x_b|; no map: the dimensions as they are.
  double residual(const DenseMatrix* out) const {
    const std::vector<double> found =
        out ? mapped(*out, a_.judge, pool_) : std::vector<double>(a_.judge.begin(), a_.judge.end());
    double error = 0, size = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double x = b_.judge[i];
      error += (found[i] - x) * (found[i] - x);
      size += x * x;
    }
    return size > 0 ? std::sqrt(error / size) : no_number;
  }

  // Of the two ways the one with the smaller error.
  BasisMap procrustes() const {
    const DenseMatrix cross = outer_sum(b_.fit, b_.d, a_.fit, a_.d, pool_);
    BasisMap plain, white;
    plain.out = orthogonal_factor(cross, &plain.rank);
    // Turning commutes with whitening where b is a turned, so the map stays exact; and no direction, an outlier
    // dimension's say, outweighs the others.
    const auto root = [&](const Side& side) {
      const DenseMatrix squares = outer_sum(side.fit, side.d, side.fit, side.d, pool_);
      double trace = 0;
      for (int64_t c = 0; c < side.d; ++c) trace += squares.at(c, c);
      return inverse_root(squares, whitening_share * trace / static_cast<double>(side.d));
    };
    white.out = orthogonal_factor(product(product(root(b_), cross), root(a_)));
    white.rank = plain.rank;
    white.whitened = true;
    for (BasisMap* map : {&plain, &white}) {
      map->kind = Basis::procrustes;
      map->in = transposed(map->out);
      map->error_procrustes = error_of(map->in);
    }
    return white.error_procrustes < plain.error_procrustes ? white : plain;
  }

  BasisMap ridge(double share) const {
    BasisMap map;
    map.kind = Basis::ridge;
    const auto fitted = [&](const Side& from, const Side& to) {
      Refit refit(from.d, to.d, pool_);
      refit.add(from.fit, to.fit);
      return of_floats(refit.solve(share, std::vector<float>(static_cast<size_t>(from.d * to.d))), to.d, from.d);
    };
    map.in = fitted(b_, a_);
    map.out = fitted(a_, b_);
    map.error_ridge = error_of(map.in);
    return map;
  }

 private:
  const StatePairs& pairs_;
  ThreadPool& pool_;
  Side a_, b_;
  std::vector<double> wanted_;  // [judged, d_a] what a's expert reads in a
  double scale_ = 1;
};

std::string widths(const StatePairs& pairs) {
  return "found " + std::to_string(pairs.d_a) + " and " + std::to_string(pairs.d_b);
}

}  // namespace

BasisMap fit_basis(const StatePairs& pairs, Basis wanted, double ridge, ThreadPool& pool) {
  const bool same = pairs.d_a == pairs.d_b;
  if (!same && (wanted == Basis::none || wanted == Basis::procrustes))
    throw Error(std::string("--align ") + basis_names[static_cast<size_t>(wanted)],
                "expected two models of one width (ridge maps between widths), " + widths(pairs));
  const Fit fit(pairs, pool);
  if (fit.n_fit() == 0 || fit.n_judge() == 0)
    throw Error("--data", "expected tokens to align by, and others to judge that by, found " +
                              std::to_string(fit.n_fit()) + " and " + std::to_string(fit.n_judge()));
  if (wanted == Basis::procrustes && fit.n_fit() < pairs.d_a)
    throw Error("--align procrustes", "expected at least as many tokens as the " + std::to_string(pairs.d_a) +
                                          " dimensions, found " + std::to_string(fit.n_fit()) + " to align by");
  const double error_none = same ? fit.error_none() : no_number;
  BasisMap map;
  if (wanted == Basis::ridge || !same) {
    map = fit.ridge(ridge);
  } else if (wanted == Basis::procrustes ||
             (wanted == Basis::automatic && fit.n_fit() >= pairs.d_a && error_none > 0)) {
    map = fit.procrustes();
    if (wanted == Basis::automatic && !(map.error_procrustes < error_none)) {
      BasisMap plain;
      plain.error_procrustes = map.error_procrustes;
      map = plain;
    }
  }
  map.error_none = error_none;
  map.fitted = fit.n_fit();
  map.judged = fit.n_judge();
  map.residual = fit.residual(map.kind == Basis::none ? nullptr : &map.out);
  if (map.kind != Basis::none) map.scale = fit.scale();
  return map;
}

std::vector<uint8_t> held_out_tokens(const std::vector<int64_t>& examples) {
  std::vector<uint8_t> out(examples.size());
  std::map<int64_t, int64_t> order;
  for (const int64_t example : examples) order.emplace(example, static_cast<int64_t>(order.size()));
  for (size_t t = 0; t < out.size(); ++t)
    out[t] = (order.size() >= 5 ? order.at(examples[t]) : static_cast<int64_t>(t)) % 5 == 4;
  return out;
}

}  // namespace signalbox::train
