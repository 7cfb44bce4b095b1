#include "train/refit.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace signalbox::train {

namespace {

constexpr int64_t tile = 4;           // of sums that stay in registers
constexpr int64_t panel = 64;         // columns of the factor that are made at once
constexpr int64_t rows_at_once = 32;  // of a task
constexpr int64_t rows_of_line = 8;   // that pass a line of a large matrix while it is in the cache

// Sums of their own for every fourth product, so that none waits for the one before it; in a fixed order.
template <class A, class B>
double dot(const A* a, const B* b, int64_t n) {
  double sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int64_t k = 0; k < 4; ++k) sums[k] += static_cast<double>(a[i + k]) * static_cast<double>(b[i + k]);
  for (; i < n; ++i) sums[i % 4] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

int64_t tasks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// sums[i, j] += sum over tokens, in order, of x[token, i] y[token, j] for i in [i0, i1), j in [0, j1). Strides in
// elements.
template <class X, class Y>
void add_products(double* sums, int64_t stride, const X* x, int64_t x_stride, const Y* y, int64_t y_stride,
                  int64_t n_tokens, int64_t i0, int64_t i1, int64_t j1) {
  for (int64_t i = i0; i < i1; i += tile)
    for (int64_t j = 0; j < j1; j += tile) {
      const int64_t ni = std::min(tile, i1 - i), nj = std::min(tile, j1 - j);
      double acc[tile][tile] = {};
      for (int64_t a = 0; a < ni; ++a)
        for (int64_t b = 0; b < nj; ++b) acc[a][b] = sums[(i + a) * stride + j + b];
      if (ni == tile && nj == tile) {
        for (int64_t t = 0; t < n_tokens; ++t)
          for (int64_t a = 0; a < tile; ++a) {
            const auto left = static_cast<double>(x[t * x_stride + i + a]);
            for (int64_t b = 0; b < tile; ++b) acc[a][b] += left * static_cast<double>(y[t * y_stride + j + b]);
          }
      } else {
        for (int64_t t = 0; t < n_tokens; ++t)
          for (int64_t a = 0; a < ni; ++a)
            for (int64_t b = 0; b < nj; ++b)
              acc[a][b] += static_cast<double>(x[t * x_stride + i + a]) * static_cast<double>(y[t * y_stride + j + b]);
      }
      for (int64_t a = 0; a < ni; ++a)
        for (int64_t b = 0; b < nj; ++b) sums[(i + a) * stride + j + b] = acc[a][b];
    }
}

}  // namespace

int64_t cholesky(std::span<double> m, int64_t n, ThreadPool& pool) {
  double* const at = m.data();
  for (int64_t p0 = 0; p0 < n; p0 += panel) {
    const int64_t p1 = std::min(n, p0 + panel);
    // The panel's own rows, then those below, each from what stands left of it: all earlier panels have been taken off.
    for (int64_t j = p0; j < p1; ++j) {
      for (int64_t k = p0; k < j; ++k) {
        double sum = at[j * n + k];
        for (int64_t c = p0; c < k; ++c) sum -= at[j * n + c] * at[k * n + c];
        at[j * n + k] = sum / at[k * n + k];
      }
      double pivot = at[j * n + j];
      for (int64_t c = p0; c < j; ++c) pivot -= at[j * n + c] * at[j * n + c];
      if (!(pivot > 0)) return j;
      at[j * n + j] = std::sqrt(pivot);
    }
    const int64_t below = n - p1, n_tasks = tasks_of(below, rows_at_once);
    pool.parallel_for(n_tasks, [&](int64_t task, int) {
      const int64_t last = std::min(n, p1 + (task + 1) * rows_at_once);
      for (int64_t i = p1 + task * rows_at_once; i < last; ++i)
        for (int64_t j = p0; j < p1; ++j) {
          double sum = at[i * n + j];
          for (int64_t c = p0; c < j; ++c) sum -= at[i * n + c] * at[j * n + c];
          at[i * n + j] = sum / at[j * n + j];
        }
    });
    // The rest, less the panel's products: tiles of the lower half.
    pool.parallel_for(n_tasks, [&](int64_t task, int) {
      const int64_t first = p1 + task * rows_at_once, last = std::min(n, first + rows_at_once);
      for (int64_t i = first; i < last; i += tile)
        for (int64_t j = p1; j <= std::min(last, i + tile) - 1; j += tile) {
          const int64_t ni = std::min(tile, last - i), nj = std::min(tile, n - j);
          double acc[tile][tile] = {};
          for (int64_t c = p0; c < p1; ++c)
            for (int64_t a = 0; a < ni; ++a)
              for (int64_t b = 0; b < nj; ++b) acc[a][b] += at[(i + a) * n + c] * at[(j + b) * n + c];
          for (int64_t a = 0; a < ni; ++a)
            for (int64_t b = 0; b < nj; ++b)
              if (j + b <= i + a) at[(i + a) * n + j + b] -= acc[a][b];
        }
    });
  }
  return -1;
}

void cholesky_solve(std::span<const double> factor, int64_t n, std::span<double> rows, ThreadPool& pool) {
  const double* const at = factor.data();
  const int64_t count = static_cast<int64_t>(rows.size()) / std::max<int64_t>(1, n);
  pool.parallel_for(tasks_of(count, rows_of_line), [&](int64_t task, int) {
    double* const first = rows.data() + task * rows_of_line * n;
    double* const last = rows.data() + std::min(count, (task + 1) * rows_of_line) * n;
    for (int64_t i = 0; i < n; ++i)
      for (double* x = first; x < last; x += n) x[i] = (x[i] - dot(at + i * n, x, i)) / at[i * n + i];
    for (int64_t i = n; i-- > 0;)
      for (double* x = first; x < last; x += n) {
        x[i] /= at[i * n + i];
        for (int64_t k = 0; k < i; ++k) x[k] -= at[i * n + k] * x[i];
      }
  });
}

Refit::Refit(int64_t n, int64_t d, ThreadPool& pool)
    : n_(n), d_(d), pool_(pool), aa_(static_cast<size_t>(n * n)), ya_(static_cast<size_t>(n * d)) {}

void Refit::add(std::span<const float> a, std::span<const float> y) {
  const auto n_tokens = static_cast<int64_t>(a.size()) / n_;
  if (static_cast<int64_t>(a.size()) != n_tokens * n_ || static_cast<int64_t>(y.size()) != n_tokens * d_)
    throw Error("refit", "expected " + std::to_string(n_) + " activations and " + std::to_string(d_) +
                             " outputs of each token, found " + std::to_string(a.size()) + " and " +
                             std::to_string(y.size()) + " values");
  pool_.parallel_for(tasks_of(n_, rows_at_once), [&](int64_t task, int) {
    const int64_t first = task * rows_at_once, last = std::min(n_, first + rows_at_once);
    add_products(aa_.data(), n_, a.data(), n_, a.data(), n_, n_tokens, first, last, last);
  });
  pool_.parallel_for(tasks_of(d_, rows_at_once), [&](int64_t task, int) {
    const int64_t first = task * rows_at_once, last = std::min(d_, first + rows_at_once);
    add_products(ya_.data(), n_, y.data(), d_, a.data(), n_, n_tokens, first, last, n_);
  });
  for (const float value : y) yy_ += static_cast<double>(value) * static_cast<double>(value);
  tokens_ += n_tokens;
}

void Refit::add_sums(std::span<const float> aa, std::span<const float> ya, double yy, int64_t tokens) {
  if (aa.size() != aa_.size() || ya.size() != ya_.size())
    throw Error("refit", "expected " + std::to_string(aa_.size()) + " and " + std::to_string(ya_.size()) +
                             " sums, found " + std::to_string(aa.size()) + " and " + std::to_string(ya.size()));
  for (size_t i = 0; i < aa.size(); ++i) aa_[i] += static_cast<double>(aa[i]);
  for (size_t i = 0; i < ya.size(); ++i) ya_[i] += static_cast<double>(ya[i]);
  yy_ += yy;
  tokens_ += tokens;
}

std::vector<float> Refit::solve(double share, std::span<const float> w0) const {
  double trace = 0;
  for (int64_t i = 0; i < n_; ++i) trace += aa_[static_cast<size_t>(i * n_ + i)];
  const double lambda = share * trace / static_cast<double>(n_);
  std::vector<float> out(w0.begin(), w0.end());
  if (trace == 0) return out;  // nothing moved: the minimum is w0
  // W - W0 = (Y'A - W0 A'A) (A'A + lambda I)^-1: the smaller the change, the smaller its rounding.
  std::vector<double> rows = ya_;
  pool_.parallel_for(tasks_of(d_, rows_of_line), [&](int64_t task, int) {
    const int64_t first = task * rows_of_line, last = std::min(d_, first + rows_of_line);
    for (int64_t i = 0; i < n_; ++i) {
      const double* line = aa_.data() + i * n_;
      for (int64_t r = first; r < last; ++r) {
        double* row = rows.data() + r * n_;
        const float* w = w0.data() + r * n_;
        row[i] -= dot(line, w, i + 1);
        const auto own = static_cast<double>(w[i]);
        for (int64_t j = 0; j < i; ++j) row[j] -= line[j] * own;
      }
    }
  });
  std::vector<double> factor = aa_;
  for (int64_t i = 0; i < n_; ++i) factor[static_cast<size_t>(i * n_ + i)] += lambda;
  if (const int64_t bad = cholesky(factor, n_, pool_); bad >= 0)
    throw Error("refit", "expected neurons that do not depend on each other on these tokens, or a ridge above " +
                             std::to_string(share) + ", found that neuron " + std::to_string(bad) +
                             " follows from those before it");
  cholesky_solve(factor, n_, rows, pool_);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(static_cast<double>(w0[i]) + rows[i]);
  return out;
}

double Refit::error(std::span<const float> w) const {
  if (yy_ == 0) return 0;
  std::vector<double> parts(static_cast<size_t>(d_));
  pool_.parallel_for(tasks_of(d_, rows_of_line), [&](int64_t task, int) {
    const int64_t first = task * rows_of_line, last = std::min(d_, first + rows_of_line);
    for (int64_t i = 0; i < n_; ++i) {
      const double* line = aa_.data() + i * n_;
      for (int64_t r = first; r < last; ++r) {
        const float* row = w.data() + r * n_;
        const double own = static_cast<double>(row[i]), with = 0.5 * line[i] * own + dot(line, row, i);
        parts[static_cast<size_t>(r)] += 2 * own * (with - ya_[static_cast<size_t>(r * n_ + i)]);
      }
    }
  });
  double sum = yy_;
  for (const double part : parts) sum += part;
  return std::max(0.0, sum) / yy_;
}

}  // namespace signalbox::train
