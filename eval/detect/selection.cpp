#include "eval/detect/selection.h"

#include <algorithm>

#include "probes/ranking.h"

namespace signalbox::eval {

std::vector<RiskDifference> top_experts(std::vector<RiskDifference> rows, size_t n, int sign) {
  const Ranking::Sign order = sign > 0 ? Ranking::Sign::plus : sign < 0 ? Ranking::Sign::minus : Ranking::Sign::both;
  std::sort(rows.begin(), rows.end(), [&](const RiskDifference& a, const RiskDifference& b) {
    return ranks_before({a.value(), a.layer, a.expert}, {b.value(), b.layer, b.expert}, order);
  });
  rows.resize(std::min(n, rows.size()));
  return rows;
}

}  // namespace signalbox::eval
