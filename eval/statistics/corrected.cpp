#include "eval/statistics/corrected.h"

#include <algorithm>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>

#include "base/no_number.h"

namespace signalbox::eval {

namespace {

double normal_cdf(double z) { return boost::math::cdf(boost::math::normal(), z); }

// Its tail: what stands for 1.96.
double widened_z(double freedom, double level) {
  const double t = boost::math::quantile(boost::math::complement(boost::math::students_t(freedom), (1 - level) / 2));
  return std::sqrt((freedom + 1) / freedom) * t;
}

}  // namespace

Interval corrected_interval(std::vector<double> replicates, double estimate, const std::vector<double>& influences,
                            double freedom, double level) {
  if (replicates.empty() || !(freedom >= 1)) return {no_number, no_number};
  std::sort(replicates.begin(), replicates.end());
  const auto n = static_cast<double>(replicates.size());
  // Replicates that equal the estimate on paper count half; rounding must not put them on one side.
  const double slack = 1e-12 * std::max(std::abs(replicates.front()), std::abs(replicates.back()));
  const auto below = static_cast<double>(std::lower_bound(replicates.begin(), replicates.end(), estimate - slack) -
                                         replicates.begin());
  const auto not_above = static_cast<double>(std::upper_bound(replicates.begin(), replicates.end(), estimate + slack) -
                                             replicates.begin());
  const double share = std::clamp((below + not_above) / 2 / n, 1 / (n + 1), n / (n + 1));
  const double bias = boost::math::quantile(boost::math::normal(), share);
  double squares = 0, cubes = 0;
  for (double influence : influences) {
    squares += influence * influence;
    cubes += influence * influence * influence;
  }
  const double acceleration = squares > 0 ? cubes / (6 * std::pow(squares, 1.5)) : 0;
  const double z = widened_z(freedom, level);
  const auto end = [&](double from) {
    const double moved = bias + from, stretch = 1 - acceleration * moved;
    // Beyond the pole of the correction lies the end of the replicates.
    const double at = stretch > 0 ? normal_cdf(bias + moved / stretch) : moved > 0 ? 1.0 : 0.0;
    return quantile(replicates, at);
  };
  return {end(-z), end(z)};
}

Interval widened_interval(std::vector<double> replicates, double freedom, double level) {
  if (replicates.empty() || !(freedom >= 1)) return {no_number, no_number};
  std::sort(replicates.begin(), replicates.end());
  const double z = widened_z(freedom, level);
  return {quantile(replicates, normal_cdf(-z)), quantile(replicates, normal_cdf(z))};
}

double widened_p(const std::vector<double>& replicates, double freedom) {
  if (replicates.empty() || !(freedom >= 1)) return no_number;
  const auto low = static_cast<double>(
                 std::count_if(replicates.begin(), replicates.end(), [](double value) { return value <= 0; })),
             high = static_cast<double>(
                 std::count_if(replicates.begin(), replicates.end(), [](double value) { return value >= 0; }));
  const double tail = (1 + std::min(low, high)) / (static_cast<double>(replicates.size()) + 1);
  if (tail >= 0.5) return 1;
  const double z = -boost::math::quantile(boost::math::normal(), tail);
  const double t = z / std::sqrt((freedom + 1) / freedom);
  return 2 * boost::math::cdf(boost::math::complement(boost::math::students_t(freedom), t));
}

}  // namespace signalbox::eval
