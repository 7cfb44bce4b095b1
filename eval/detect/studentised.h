// The risk difference of two ratio estimators divided by its own standard error, from sums over units: the statistic
// that detection compares with its values under relabelled conditions.
#pragma once
#include <cmath>
#include <cstdint>

namespace signalbox::eval {

// Sums over the units of one side; a unit has `a` of `t` tokens that selected the expert, or another number `a` of
// either sign over its t tokens. Whole numbers: tokens and magnitudes of a below 2^31 in sum, squares and products
// below 2^62, so that everything below is exact in 128 bits.
struct SideSums {
  int64_t selected = 0;        // sum of a
  int64_t squares = 0;         // sum of a a
  int64_t products = 0;        // sum of a t
  int64_t tokens = 0;          // sum of t
  int64_t tokens_squared = 0;  // sum of t t
};

// Sums of products of a pair's two sides.
struct CrossSums {
  int64_t selected = 0;           // sum of a1 a2
  int64_t selected_1_tokens = 0;  // sum of a1 t2
  int64_t selected_2_tokens = 0;  // sum of a2 t1
  int64_t tokens = 0;             // sum of t1 t2
};

// (sum of the squared residuals (a - r t) of a side, r = selected / tokens) / tokens^2: up to n / (n - 1) the variance
// of the ratio estimator r over units (Cochran, Sampling Techniques, 6.4).
inline double ratio_variance(const SideSums& s) {
  const __int128 t = s.tokens, a = s.selected;
  // tokens^2 times the sum: no term is rounded, so that equal shares give exactly 0.
  const __int128 sum = t * t * s.squares - 2 * t * a * s.products + a * a * s.tokens_squared;
  const double tokens = static_cast<double>(s.tokens), square = tokens * tokens;
  return static_cast<double>(sum) / square / square;
}

// The same of products of both sides' residuals: the covariance of the two estimators over pairs.
inline double ratio_covariance(const SideSums& one, const SideSums& two, const CrossSums& cross) {
  const __int128 t = one.tokens, u = two.tokens, a = one.selected, b = two.selected;
  const __int128 sum =
      t * u * cross.selected - t * b * cross.selected_1_tokens - a * u * cross.selected_2_tokens + a * b * cross.tokens;
  const double product = static_cast<double>(one.tokens) * static_cast<double>(two.tokens);
  return static_cast<double>(sum) / product / product;
}

// The squared statistic for a difference (r1 - r2) and its variance: 0 / 0 is 0, x / 0 infinity.
inline double squared_statistic(const SideSums& one, const SideSums& two, double variance) {
  const __int128 t = one.tokens, u = two.tokens;
  const __int128 numerator = u * one.selected - t * two.selected;
  if (numerator == 0) return 0;
  if (variance == 0) return INFINITY;
  const double difference =
      static_cast<double>(numerator) / (static_cast<double>(one.tokens) * static_cast<double>(two.tokens));
  return difference * difference / variance;
}

// n / (n - 1); one unit has no residual, so that the factor does not matter.
inline double few_units(int64_t n) { return n > 1 ? static_cast<double>(n) / static_cast<double>(n - 1) : 1.0; }

// Units of the two sides are others: each side's variance by itself.
inline double squared_t(const SideSums& one, const SideSums& two, int64_t n_one, int64_t n_two) {
  return squared_statistic(one, two, few_units(n_one) * ratio_variance(one) + few_units(n_two) * ratio_variance(two));
}

// Units are n pairs: the variance over pairs of the difference of residuals.
inline double squared_t(const SideSums& one, const SideSums& two, const CrossSums& cross, int64_t n) {
  const double apart = ratio_variance(one) + ratio_variance(two);
  double variance = apart - 2 * ratio_covariance(one, two, cross);
  // Pairs of one difference leave what the last subtraction rounds: no more than that is none.
  if (!(variance > 1e-14 * apart)) variance = 0;
  return squared_statistic(one, two, few_units(n) * variance);
}

}  // namespace signalbox::eval
