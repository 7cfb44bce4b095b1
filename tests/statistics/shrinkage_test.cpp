// Adaptive shrinkage: against an implementation in numpy (tests/statistics/make_numbers.py), and on known priors.
#include "eval/statistics/shrinkage.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

using namespace signalbox::eval;

TEST_CASE("shrinkage: posterior means and false sign rates are numpy's") {
  std::vector<double> effects, errors, freedoms;
  for (int i = 0; i < 40; ++i) {
    effects.push_back(0.02 * std::sin(7.0 * i) + (i % 8 == 0 ? 0.3 * std::cos(i) : 0));
    errors.push_back(0.01 + 0.02 * (i % 5) / 4);
    freedoms.push_back(i % 2 == 0 ? 8 : 60);
  }
  const Shrinkage found = shrink_effects(effects, errors, freedoms);
  CHECK(std::abs(found.null_share - 0.9254538762) < 1e-4);
  struct Expected {
    size_t at;
    double mean, lfsr;
  };
  const Expected cases[] = {{0, 0.28912970, 0.00000166},  {1, 0.00008953, 0.99447849},   {2, 0.00019876, 0.99167511},
                            {8, -0.00254080, 0.95389846}, {16, -0.29155862, 0.00003027}, {24, 0.03072846, 0.70737838},
                            {39, 0.00005851, 0.99448447}};
  for (const Expected& one : cases) {
    CAPTURE(one.at);
    CHECK(std::abs(found.effects[one.at].mean - one.mean) < 2e-5);
    CHECK(std::abs(found.effects[one.at].lfsr - one.lfsr) < 2e-4);
  }
}

TEST_CASE("shrinkage: the largest of many is no longer too large, and signs are wrong as often as said") {
  // One effect in five is drawn from N(0, 1), errors 0.5: of the 30 largest of 1,000 the mean is told as it is.
  std::mt19937_64 generator(3);
  std::normal_distribution<double> normal;
  const int n_sets = 4;
  double naive = 0, shrunken = 0, truth = 0, null_share = 0, said = 0, wrong = 0, n = 0;
  for (int set = 0; set < n_sets; ++set) {
    std::vector<double> truths, effects;
    const std::vector<double> errors(1000, 0.5), freedoms(1000, 1000);
    for (int i = 0; i < 1000; ++i) {
      truths.push_back(i % 5 == 0 ? normal(generator) : 0);
      effects.push_back(truths.back() + 0.5 * normal(generator));
    }
    const Shrinkage found = shrink_effects(effects, errors, freedoms);
    std::vector<size_t> order(effects.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t x, size_t y) { return effects[x] > effects[y]; });
    for (size_t i = 0; i < 30; ++i) {
      naive += effects[order[i]] / 30 / n_sets;
      shrunken += found.effects[order[i]].mean / 30 / n_sets;
      truth += truths[order[i]] / 30 / n_sets;
    }
    for (size_t i = 0; i < effects.size(); ++i) {
      if (found.effects[i].lfsr > 0.3) continue;
      said += found.effects[i].lfsr;
      wrong += truths[i] * effects[i] <= 0;
      ++n;
    }
    null_share += found.null_share / n_sets;
  }
  CAPTURE(naive);
  CAPTURE(shrunken);
  CAPTURE(truth);
  CAPTURE(said);
  CAPTURE(wrong);
  CAPTURE(n);
  CHECK(naive - truth > 0.3);
  CHECK(std::abs(shrunken - truth) < 0.12);
  REQUIRE(n > 150);
  CHECK(std::abs(said - wrong) / n < 0.05);
  CHECK(std::abs(null_share - 0.8) < 0.07);
}

TEST_CASE("shrinkage: effects without an error take no part") {
  const std::vector<double> effects = {0.5, 0.01, -0.02, 0.3, NAN}, errors = {0, 0.02, 0.02, 0.05, 0.1},
                            freedoms = {10, 10, 10, 10, 10};
  const Shrinkage found = shrink_effects(effects, errors, freedoms);
  CHECK(std::isnan(found.effects[0].mean));
  CHECK(std::isnan(found.effects[4].lfsr));
  const std::vector<double> rest = {0.01, -0.02, 0.3}, rest_errors = {0.02, 0.02, 0.05}, rest_freedoms = {10, 10, 10};
  const Shrinkage alone = shrink_effects(rest, rest_errors, rest_freedoms);
  for (size_t i = 0; i < 3; ++i) CHECK(alone.effects[i].mean == found.effects[i + 1].mean);
  CHECK(shrink_effects({}, {}, {}).effects.empty());
  // No effect at all: everything is put down to the errors.
  const std::vector<double> none(30, 0.0), error(30, 0.1), freedom(30, 20.0);
  for (const ShrunkenEffect& effect : shrink_effects(none, error, freedom).effects) {
    CHECK(effect.mean == 0);
    CHECK(effect.lfsr > 0.5);
  }
}
