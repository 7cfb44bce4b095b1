// A linear map fitted in closed form: which down-projection W [d, n] gives, from activations a [n] of a feed-forward
// block, what another block answers y [d] to the same tokens?
//
//   W = (Y'A + lambda W0) (A'A + lambda I)^-1,   A [tokens, n], Y [tokens, d]
//
// the minimum of |Y - A W'|^2 + lambda |W - W0|^2: ridge regression around W0, the map that there was before. So a
// neuron that no token has moved keeps its column, and a W0 that already fits comes back.
//
// Only A'A, Y'A and the sum of squares of Y are kept, in double, added up token by token in the order in which they
// come: neither chunks nor threads change a bit.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "train/namespaces.h"

namespace signalbox::train {

class Refit {
 public:
  // n activations, d outputs. Memory: 8 (n^2 + n d) bytes, and 8 (n^2 + n d) more in solve(). `pool` outlives it.
  Refit(int64_t n, int64_t d, ThreadPool& pool);

  // a [tokens, n], y [tokens, d], rows without gaps.
  void add(std::span<const float> a, std::span<const float> y);
  // The same from sums that somebody else has made of these tokens: aa [n, n] (its lower half is read), ya [d, n], and
  // the sum of squares of y.
  void add_sums(std::span<const float> aa, std::span<const float> ya, double yy, int64_t tokens);
  int64_t tokens() const { return tokens_; }
  double squares() const { return yy_; }  // |Y|^2

  // W [d, n] around w0 [d, n], with lambda = `share` of the mean of A'A's diagonal. Cholesky, in double. Throws Error
  // where A'A + lambda I is not positive definite: a share of 0 with neurons that depend on each other.
  std::vector<float> solve(double share, std::span<const float> w0) const;

  // |Y - A W'|^2 / |Y|^2 on the tokens added, from the sums; 0 where Y is 0 throughout.
  double error(std::span<const float> w) const;

 private:
  int64_t n_, d_, tokens_ = 0;
  ThreadPool& pool_;
  std::vector<double> aa_, ya_;  // [n, n], the lower half; [d, n]
  double yy_ = 0;
};

// What lambda of Refit::solve is by default, as a share.
inline constexpr double default_ridge = 0.03;

// Cholesky of a symmetric positive definite m [n, n], whose lower half is read and becomes the factor L. Returns the
// first row whose pivot is not above 0, or -1. Each number is made by one thread, in an order of its own.
int64_t cholesky(std::span<double> m, int64_t n, ThreadPool& pool);
// Solves L L' x = b for each row b [n] of rows [count, n], in place.
void cholesky_solve(std::span<const double> factor, int64_t n, std::span<double> rows, ThreadPool& pool);

}  // namespace signalbox::train
