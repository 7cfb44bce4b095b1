// Many effects with their errors, shrunk towards 0 by what all of them together show (empirical Bayes).
#pragma once
#include <span>
#include <vector>

namespace signalbox::eval {

struct ShrunkenEffect {
  double mean;  // of the posterior; NaN where the effect takes no part
  double
      lfsr;  // local false sign rate: the posterior probability that the sign of the effect is wrong, or that it is 0
};

struct Shrinkage {
  std::vector<ShrunkenEffect> effects;
  double null_share = 1;           // weight of the point mass at 0
  std::vector<double> deviations;  // of the prior's normals, ascending
  std::vector<double> weights;     // of these
};

// Adaptive shrinkage (Stephens, Biostatistics 18, 2017): effect i has the error errors[i]; effects come from a mixture
// of a point mass at 0 and normals around 0. Their deviations are a grid from a tenth of the smallest error to twice
// the largest spread seen, by factors of sqrt(2); the weights maximise the likelihood with a penalty that favours the
// point mass (Dirichlet 10, 1, 1, ...), by EM. With few units an error is itself uncertain: freedoms[i] are its degrees
// of freedom, and it is replaced by the one with which a normal test has the p of Student's t. Effects whose error or
// freedom is not positive and finite take no part. The posterior treats effects as independent.
Shrinkage shrink_effects(std::span<const double> effects, std::span<const double> errors,
                         std::span<const double> freedoms);

}  // namespace signalbox::eval
