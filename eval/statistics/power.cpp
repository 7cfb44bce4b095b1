#include "eval/statistics/power.h"

#include <algorithm>
#include <boost/math/distributions/non_central_t.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "base/no_number.h"

namespace signalbox::eval {

MeanError mean_error(const ClusteredValues& values) {
  const size_t n = values.sums.size();
  const double count = std::accumulate(values.counts.begin(), values.counts.end(), 0.0);
  MeanError out{no_number, no_number, static_cast<int64_t>(n)};
  if (count == 0) return out;
  out.mean = std::accumulate(values.sums.begin(), values.sums.end(), 0.0) / count;
  if (n < 2) return out;
  double squares = 0, scale = 0;
  for (size_t i = 0; i < n; ++i) {
    const double residual = values.sums[i] - out.mean * values.counts[i];
    squares += residual * residual;
    scale = std::max(scale, std::abs(values.sums[i]));
  }
  // Equal values leave a spread of rounding: no more than that is none.
  if (squares < 1e-28 * scale * scale * static_cast<double>(n)) squares = 0;
  out.error = std::sqrt(squares * static_cast<double>(n) / static_cast<double>(n - 1)) / count;
  return out;
}

double minimal_detectable_effect(const MeanError& of, double power, double alpha) {
  if (!(of.error > 0) || of.n_units < 2) return no_number;
  const auto freedom = static_cast<double>(of.n_units - 1);
  const double bar = boost::math::quantile(boost::math::complement(boost::math::students_t(freedom), alpha / 2));
  const auto found = [&](double noncentrality) {
    const boost::math::non_central_t shifted(freedom, noncentrality);
    return boost::math::cdf(boost::math::complement(shifted, bar)) + boost::math::cdf(shifted, -bar);
  };
  double low = 0, high = 1;
  while (found(high) < power) high *= 2;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (found(middle) < power ? low : high) = middle;
  }
  return high * of.error;
}

double equivalence_p(const MeanError& of, double margin) {
  if (!(of.error > 0) || of.n_units < 2) return no_number;
  const boost::math::students_t t(static_cast<double>(of.n_units - 1));
  // The nearer bound decides.
  return boost::math::cdf(boost::math::complement(t, (margin - std::abs(of.mean)) / of.error));
}

}  // namespace signalbox::eval
