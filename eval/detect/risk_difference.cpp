#include "eval/detect/risk_difference.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace signalbox {

double RiskDifference::value() const {
  const auto rate = [](int64_t a, int64_t d) {
    return a + d == 0 ? 0.0 : static_cast<double>(a) / static_cast<double>(a + d);
  };
  return rate(a1, d1) - rate(a2, d2);
}

std::vector<RiskDifference> risk_differences(const TraceReader& trace, const std::vector<int>& group,
                                             const TokenFilter& filter) {
  uint32_t span_bit = 0;
  if (!filter.span.empty()) {
    const auto& names = trace.span_names();
    const auto found = std::find(names.begin(), names.end(), filter.span);
    if (found == names.end()) throw Error(trace.file(), "expected a span \"" + filter.span + "\", found none");
    span_bit = 1u << (found - names.begin());
  }
  const int64_t n_layers = static_cast<int64_t>(trace.layers().size()), n_experts = trace.n_experts(),
                n_slots = trace.n_slots();
  std::vector<RiskDifference> rows;
  for (int32_t layer : trace.layers())
    for (int32_t e = 0; e < n_experts; ++e) rows.push_back({layer, e, 0, 0, 0, 0});

  int64_t n_tokens[3] = {};
  for (int64_t s = 0; s < trace.n_samples(); ++s) {
    const int g = group[s];
    if (g == 0) continue;
    const TraceReader::Rows range = trace.rows(s);
    const std::vector<int32_t> ids = trace.ids(range);
    const std::vector<uint8_t> phase = trace.phase(range);
    const std::vector<uint32_t> spans = trace.spans(range);
    for (int64_t t = 0; t < range.size(); ++t) {
      if (span_bit != 0 && !(spans[t] & span_bit)) continue;
      if (filter.phase != Phase::all && (phase[t] != 0) != (filter.phase == Phase::generated)) continue;
      ++n_tokens[g];
      for (int64_t l = 0; l < n_layers; ++l)
        for (int64_t i = 0; i < n_slots; ++i) {
          const int32_t e = ids[(t * n_layers + l) * n_slots + i];
          if (e < 0) continue;
          RiskDifference& row = rows[l * n_experts + e];
          ++(g == 1 ? row.a1 : row.a2);
        }
    }
  }
  for (int g : {1, 2})
    if (n_tokens[g] == 0)
      throw Error(trace.file(),
                  std::string("expected tokens under condition ") + (g == 1 ? "A" : "B") + ", found none");
  for (RiskDifference& row : rows) {
    row.d1 = n_tokens[1] - row.a1;
    row.d2 = n_tokens[2] - row.a2;
  }
  return rows;
}

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
