#include "eval/statistics/changes.h"

#include <algorithm>
#include <boost/math/distributions/beta.hpp>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>

#include "base/error.h"
#include "base/no_number.h"

namespace signalbox::eval {

namespace {

void check(const Changes& changes) {
  if (changes.plus < 0 || changes.minus < 0 || changes.plus + changes.minus > changes.n)
    throw Error("changes", "expected counts of " + std::to_string(changes.n) + " pairs, found " +
                               std::to_string(changes.plus) + " and " + std::to_string(changes.minus));
}

// Clopper and Pearson with `tail` on either side.
Interval exact_proportion(double k, double n, double tail) {
  const double yes = k, no = n - k;
  return {
      k == 0 ? 0 : boost::math::quantile(boost::math::beta_distribution<>(yes, no + 1), tail),
      k == n ? 1 : boost::math::quantile(boost::math::complement(boost::math::beta_distribution<>(yes + 1, no), tail))};
}

// The upper end for `plus` and `minus` of n, with `tail` beyond it; the lower end is that of the turned counts.
double upper_end(double plus, double minus, double n, double tail) {
  const double changed = plus + minus, share = changed / n;
  const Interval shares = exact_proportion(changed, n, tail);
  if (changed == 0) return shares.hi;
  const double lean = (plus - minus) / changed;
  const double lean_end = 2 * exact_proportion(plus, changed, tail).hi - 1;
  const double more = shares.hi - share;
  // Away from 0: both factors may be larger.
  if (lean >= 0) return share * lean + std::hypot(share * (lean_end - lean), lean * more, more * (lean_end - lean));
  // Beyond 0: the more changes there are, the further.
  if (lean_end >= 0) return lean_end * std::hypot(share, more);
  // On this side of 0: both may be smaller, and 0 is reached when one of them is.
  const double fewer = share - shares.lo, less = lean_end - lean;
  const double square = share * share * less * less + lean * lean * fewer * fewer - fewer * fewer * less * less;
  return share * lean + std::sqrt(std::max(square, 0.0));
}

}  // namespace

double exact_change_p(const Changes& changes) {
  check(changes);
  const int64_t changed = changes.plus + changes.minus, fewer = std::min(changes.plus, changes.minus);
  if (changed == 0) return 1;
  const boost::math::binomial_distribution<> coin(static_cast<double>(changed), 0.5);
  return std::min(1.0, 2 * boost::math::cdf(coin, static_cast<double>(fewer)));
}

Interval proportion_interval(int64_t k, int64_t n, double level) {
  return effective_proportion_interval(static_cast<double>(k), static_cast<double>(n), level);
}

Interval effective_proportion_interval(double k, double n, double level) {
  if (!(n > 0)) return {no_number, no_number};
  return exact_proportion(k, n, (1 - level) / 2);
}

Interval effective_change_interval(double plus, double minus, double n, double level) {
  if (n < 2) return {no_number, no_number};
  const double tail = (1 - level) / 2;
  return {-upper_end(minus, plus, n, tail), upper_end(plus, minus, n, tail)};
}

double effective_change_equivalence_p(double plus, double minus, double n, double margin) {
  if (n < 2) return no_number;
  const auto is_within = [&](double p) {
    return upper_end(plus, minus, n, p) < margin && upper_end(minus, plus, n, p) < margin;
  };
  double no = std::log(1e-14), yes = std::log(0.5 - 1e-9);  // of p
  if (!is_within(std::exp(yes))) return 1;
  for (int step = 0; step < 60; ++step) {
    const double middle = (no + yes) / 2;
    (is_within(std::exp(middle)) ? yes : no) = middle;
  }
  return std::exp(yes);
}

Interval change_interval(const Changes& changes, double level) {
  check(changes);
  return effective_change_interval(static_cast<double>(changes.plus), static_cast<double>(changes.minus),
                                   static_cast<double>(changes.n), level);
}

double change_equivalence_p(const Changes& changes, double margin) {
  check(changes);
  return effective_change_equivalence_p(static_cast<double>(changes.plus), static_cast<double>(changes.minus),
                                        static_cast<double>(changes.n), margin);
}

}  // namespace signalbox::eval
