// Standard errors of the risk differences of a contrast.
#pragma once
#include <vector>

#include "eval/detect/contrast.h"

namespace signalbox::eval {

// By row (layer, expert). The variance is that of a difference of two ratio estimators, linearised (Cochran, Sampling
// Techniques, 6.4): summed over complete pairs, other records under A and other records under B, each kind around its
// mean with n / (n - 1); its degrees of freedom by Satterthwaite. Only pairs, or none: the error that divides the
// statistic of p. NaN where a side has no two units of a kind; an error of 0 has 0 degrees of freedom.
struct RowErrors {
  std::vector<double> errors, freedoms;
};
RowErrors difference_errors(const ContrastCounts& counts);

}  // namespace signalbox::eval
