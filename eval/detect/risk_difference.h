// Risk difference: how much more often an expert is selected under one condition than under another.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "probes/trace.h"

namespace signalbox {

// One expert of one recorded layer. Counts are tokens: under A (1) and B (2), that selected the expert (a) or not (d).
struct RiskDifference {
  int32_t layer = 0, expert = 0;
  int64_t a1 = 0, d1 = 0, a2 = 0, d2 = 0;
  // a1 / (a1 + d1) - a2 / (a2 + d2)
  double value() const;
};

enum class Phase : uint8_t { all, given, generated };

// Which tokens count.
struct TokenFilter {
  std::string span;  // only tokens of this span; empty = all
  Phase phase = Phase::all;
};

// A row for every expert of every recorded layer, ascending by layer and expert. group[s] of sample s: 1 = A, 2 = B,
// 0 = neither. Throws Error when the trace lacks the span, or no token is left under A or under B.
std::vector<RiskDifference> risk_differences(const TraceReader& trace, const std::vector<int>& group,
                                             const TokenFilter& filter = {});

// The first n by descending value (sign > 0), ascending (sign < 0) or by absolute value (sign = 0); ties by layer, then
// expert.
std::vector<RiskDifference> top_experts(std::vector<RiskDifference> rows, size_t n, int sign);

}  // namespace signalbox
