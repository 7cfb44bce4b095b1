#include "eval/statistics/shrinkage.h"

#include <algorithm>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>

#include "base/no_number.h"

namespace signalbox::eval {

namespace {

constexpr double null_penalty = 10;  // pseudo-observations of the point mass, and one less
constexpr int most_cycles = 3000;
constexpr double enough = 1e-8;  // gain in log-likelihood of a cycle

// The error with which a normal test has the p of Student's t.
double normal_error(double effect, double error, double freedom) {
  const boost::math::normal normal;
  const boost::math::students_t student(freedom);
  const double t = std::abs(effect) / error;
  if (t < 1e-6) return error * boost::math::pdf(normal, 0) / boost::math::pdf(student, 0);
  const double tail = std::max(boost::math::cdf(boost::math::complement(student, t)), 1e-300);
  return std::abs(effect) / boost::math::quantile(boost::math::complement(normal, tail));
}

std::vector<double> grid(const std::vector<double>& effects, const std::vector<double>& errors) {
  const double least = *std::min_element(errors.begin(), errors.end()) / 10;
  double spread = 0;
  for (size_t i = 0; i < effects.size(); ++i)
    spread = std::max(spread, effects[i] * effects[i] - errors[i] * errors[i]);
  const double most = spread > 0 ? std::max(2 * std::sqrt(spread), least) : 8 * least;
  const auto n = static_cast<int>(std::ceil(2 * std::log2(most / least)));
  std::vector<double> out;
  for (int k = n; k >= 0; --k) out.push_back(most * std::exp2(-0.5 * k));
  return out;
}

// Likelihoods [effect][component] of a normal around 0, up to a factor of the effect; the first component: no effect.
std::vector<double> likelihoods(const std::vector<double>& effects, const std::vector<double>& errors,
                                const std::vector<double>& deviations) {
  const size_t n_components = deviations.size() + 1;
  std::vector<double> out(effects.size() * n_components);
  for (size_t i = 0; i < effects.size(); ++i) {
    double* row = out.data() + i * n_components;
    for (size_t k = 0; k < n_components; ++k) {
      const double deviation = k == 0 ? 0 : deviations[k - 1];
      const double variance = errors[i] * errors[i] + deviation * deviation;
      row[k] = -0.5 * std::log(variance) - 0.5 * effects[i] * effects[i] / variance;
    }
    const double largest = *std::max_element(row, row + n_components);
    for (size_t k = 0; k < n_components; ++k) row[k] = std::exp(row[k] - largest);
  }
  return out;
}

// One EM step from `weights`; returns the penalised log-likelihood of these.
double step(const std::vector<double>& likelihood, size_t n_effects, const std::vector<double>& weights,
            std::vector<double>& next) {
  const size_t n_components = weights.size();
  next.assign(n_components, 0);
  next[0] = null_penalty - 1;
  double fit = (null_penalty - 1) * std::log(weights[0]);
  for (size_t i = 0; i < n_effects; ++i) {
    const double* row = likelihood.data() + i * n_components;
    double sum = 0;
    for (size_t k = 0; k < n_components; ++k) sum += weights[k] * row[k];
    fit += std::log(sum);
    for (size_t k = 0; k < n_components; ++k) next[k] += weights[k] * row[k] / sum;
  }
  const double all = static_cast<double>(n_effects) + null_penalty - 1;
  for (double& weight : next) weight /= all;
  return fit;
}

// EM, two steps at a time and then as far along the line of both as they say (SQUAREM, Varadhan and Roland 2008),
// unless that is worse: plain EM needs thousands of steps where components are alike.
std::vector<double> fit_weights(const std::vector<double>& likelihood, size_t n_effects, size_t n_components) {
  std::vector<double> weights(n_components, 1 / static_cast<double>(n_components)), one, two, far(n_components),
      ignored;
  double before = -INFINITY;
  for (int cycle = 0; cycle < most_cycles; ++cycle) {
    const double now = step(likelihood, n_effects, weights, one);
    if (now - before < enough) break;
    before = now;
    step(likelihood, n_effects, one, two);
    double first = 0, second = 0;
    for (size_t k = 0; k < n_components; ++k) {
      const double r = one[k] - weights[k], v = two[k] - one[k] - r;
      first += r * r;
      second += v * v;
    }
    if (second <= 0) {
      weights = two;
      continue;
    }
    const double length = -std::max(1.0, std::sqrt(first / second));
    double all = 0;
    for (size_t k = 0; k < n_components; ++k) {
      const double r = one[k] - weights[k], v = two[k] - one[k] - r;
      far[k] = std::max(weights[k] - 2 * length * r + length * length * v, 1e-3 * two[k]);
      all += far[k];
    }
    for (double& weight : far) weight /= all;
    weights = step(likelihood, n_effects, far, ignored) > step(likelihood, n_effects, two, one) ? far : two;
  }
  return weights;
}

}  // namespace

Shrinkage shrink_effects(std::span<const double> effects, std::span<const double> errors,
                         std::span<const double> freedoms) {
  Shrinkage out;
  out.effects.assign(effects.size(), {no_number, no_number});
  std::vector<size_t> place;
  std::vector<double> seen, seen_errors;
  for (size_t i = 0; i < effects.size(); ++i) {
    if (!(errors[i] > 0) || !std::isfinite(errors[i]) || !(freedoms[i] > 0) || !std::isfinite(effects[i])) continue;
    place.push_back(i);
    seen.push_back(effects[i]);
    seen_errors.push_back(normal_error(effects[i], errors[i], freedoms[i]));
  }
  if (place.empty()) return out;
  out.deviations = grid(seen, seen_errors);
  const size_t n_components = out.deviations.size() + 1;
  const std::vector<double> likelihood = likelihoods(seen, seen_errors, out.deviations);
  std::vector<double> weights = fit_weights(likelihood, seen.size(), n_components);
  const boost::math::normal normal;
  for (size_t i = 0; i < seen.size(); ++i) {
    const double* row = likelihood.data() + i * n_components;
    double all = weights[0] * row[0], mean = 0, positive = 0, negative = 0;
    const double none = all;
    for (size_t k = 1; k < n_components; ++k) {
      const double share = weights[k] * row[k], deviation = out.deviations[k - 1];
      const double kept = deviation * deviation / (deviation * deviation + seen_errors[i] * seen_errors[i]);
      const double centre = kept * seen[i], spread = std::sqrt(kept) * seen_errors[i];
      all += share;
      mean += share * centre;
      positive += share * boost::math::cdf(normal, centre / spread);
      negative += share * boost::math::cdf(boost::math::complement(normal, centre / spread));
    }
    out.effects[place[i]] = {mean / all, std::min(1.0, (none + std::min(positive, negative)) / all)};
  }
  out.null_share = weights[0];
  out.weights.assign(weights.begin() + 1, weights.end());
  return out;
}

}  // namespace signalbox::eval
