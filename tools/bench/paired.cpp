#include "tools/bench/paired.h"

#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>

#include "base/no_number.h"
#include "tools/bench/timer.h"

namespace signalbox::tools {

namespace {

PairedCost cost_of(const std::vector<double>& logs) {
  const double n = static_cast<double>(logs.size());
  double mean = 0, squares = 0;
  for (const double x : logs) mean += x / n;
  for (const double x : logs) squares += (x - mean) * (x - mean);
  PairedCost out;
  out.cost = std::expm1(mean);
  out.lo = out.hi = no_number;
  if (logs.size() < 2) return out;
  const boost::math::students_t distribution(n - 1);
  const double width = boost::math::quantile(distribution, 0.975) * std::sqrt(squares / (n - 1) / n);
  out.lo = std::expm1(mean - width);
  out.hi = std::expm1(mean + width);
  return out;
}

}  // namespace

Budget::Budget(double seconds)
    : seconds_(seconds), end_(seconds > 0 ? now() + seconds : std::numeric_limits<double>::infinity()) {}

double Budget::left() const { return end_ - now(); }

PairedCosts measure_paired(int n_ways, const std::function<double(int)>& run,
                           const std::function<bool(int64_t, double)>& go_on) {
  PairedCosts out;
  std::vector<std::vector<double>> logs(static_cast<size_t>(n_ways - 1));
  std::vector<double> taken(static_cast<size_t>(n_ways));
  for (double last = 0; go_on(out.rounds, last); ++out.rounds) {
    const double start = now();
    const int first = static_cast<int>(out.rounds % n_ways);
    for (int i = 0; i < n_ways; ++i) {
      const int turn = out.rounds % 2 == 0 ? i : n_ways - 1 - i;
      const int way = (first + turn) % n_ways;
      taken[static_cast<size_t>(way)] = run(way);
    }
    for (size_t way = 1; way < taken.size(); ++way) logs[way - 1].push_back(std::log(taken[way] / taken[0]));
    last = now() - start;
  }
  if (out.rounds == 0) return out;
  for (const auto& of_way : logs) out.ways.push_back(cost_of(of_way));
  return out;
}

}  // namespace signalbox::tools
