#include "eval/detect/selection.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace signalbox {

std::vector<RiskDifference> top_experts(std::vector<RiskDifference> rows, size_t n, int sign) {
  const auto key = [sign](const RiskDifference& row) {
    const double value = row.value();
    return sign > 0 ? -value : sign < 0 ? value : -std::abs(value);
  };
  std::sort(rows.begin(), rows.end(), [&](const RiskDifference& a, const RiskDifference& b) {
    return std::make_tuple(key(a), a.layer, a.expert) < std::make_tuple(key(b), b.layer, b.expert);
  });
  rows.resize(std::min(n, rows.size()));
  return rows;
}

}  // namespace signalbox
