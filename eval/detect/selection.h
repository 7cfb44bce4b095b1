// Choosing experts from a ranking.
#pragma once
#include <cstddef>
#include <vector>

#include "base/namespaces.h"
#include "eval/detect/risk_difference.h"

namespace signalbox::eval {

// The first n by descending risk difference (sign > 0), ascending (sign < 0) or by absolute value (sign = 0), in the
// order in which edits take experts from rd.csv (ranks_before).
std::vector<RiskDifference> top_experts(std::vector<RiskDifference> rows, size_t n, int sign);

}  // namespace signalbox::eval
