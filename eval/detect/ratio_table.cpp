#include "eval/detect/ratio_table.h"

#include <cmath>

namespace signalbox::eval {

RatioTable selection_table(const ContrastCounts& counts) {
  RatioTable out;
  out.n_rows = static_cast<int64_t>(counts.n_rows());
  for (const ContrastRecord& record : counts.records) out.tokens.push_back(record.tokens);
  out.numerators.assign(counts.selected.begin(), counts.selected.end());
  return out;
}

RatioTable contribution_ratio_table(const ContrastCounts& counts, Contribution which) {
  constexpr double units = 1 << 30;
  const ContributionSums& from = counts.contributions[static_cast<size_t>(which)];
  const size_t n_rows = counts.n_rows(), n_records = counts.records.size();
  RatioTable out;
  out.n_rows = static_cast<int64_t>(n_rows);
  out.tokens = from.tokens;
  out.numerators.resize(from.sums.size());
  out.scales.assign(n_rows, 0);
  for (size_t row = 0; row < n_rows; ++row) {
    double total = 0;
    for (size_t record = 0; record < n_records; ++record) total += std::abs(from.sums[record * n_rows + row]);
    if (total == 0) continue;
    out.scales[row] = total / units;
    for (size_t record = 0; record < n_records; ++record)
      out.numerators[record * n_rows + row] =
          static_cast<int32_t>(std::llround(from.sums[record * n_rows + row] / total * units));
  }
  return out;
}

}  // namespace signalbox::eval
