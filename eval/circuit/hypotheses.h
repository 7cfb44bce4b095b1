// Tests of what a circuit claims to be, after Shi et al. 2024 (arXiv 2410.13032), with these corrections: equivalence
// counts the share of wins and drops ties; a permutation's p is (1 + hits) / (1 + B); minimality is corrected for as
// many tests as there are parts (Holm). All numbers are of metrics by record, or of faithfulness by circuit.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// A p below the level speaks against equivalence. H0: |P(circuit above model) - 1/2| < epsilon.
struct EquivalenceTest {
  int64_t wins = 0, losses = 0,
          ties = 0;  // records at which the circuit's metric is above, below, equal to the model's
  double share = 0;  // wins / (wins + losses); NaN: ties alone
  double p = 1;      // of a share at least as far from 1/2 under a probability of 1/2 + epsilon
};
EquivalenceTest test_equivalence(std::span<const double> circuit, std::span<const double> model, double epsilon = 0.1);

// A p below the level says that what is left without the circuit still tells of the model's metric. H0: independence.
// Statistic: tr(K H L H) / n^2 with Gaussian kernels, each of the width of its own median distance; 0, and p 1, where
// one side is constant.
struct IndependenceTest {
  double hsic = 0;
  double p = 1;
  int64_t permutations = 0;
};
IndependenceTest test_independence(std::span<const double> complement, std::span<const double> model, uint64_t seed,
                                   int64_t permutations = 1000);

// A p below the level says that the part is superfluous. H0, of each part: taking it out changes the circuit's metric
// by more than taking a random part out of a circuit with random parts added does, in at least `quantile` of all draws.
struct MinimalityTest {
  std::vector<int64_t> exceeded;  // [part] draws whose change is smaller
  std::vector<double> p, holm;    // [part]; holm: corrected, monotone
};
MinimalityTest test_minimality(std::span<const double> changes, std::span<const double> reference,
                               double quantile = 0.9);

// A p below the level says that the circuit is better than `quantile` of random ones. H0: the probability that a random
// circuit is worse is at most `quantile`. `distances`: how far a circuit is from the model (sufficiency), or
// `nearness`, how near a complement is to it (partial necessity: the less a random complement lacks, the worse); ties
// are not worse.
struct RandomCircuitTest {
  int64_t worse = 0, n = 0;
  double p = 1;
};
RandomCircuitTest test_against_random(double distance, std::span<const double> random_distances, double quantile = 0.9);

// Holm's step-down: p values that keep the family's rate.
std::vector<double> holm(std::span<const double> p);

}  // namespace signalbox::eval
