#include "eval/detect/errors.h"

#include <algorithm>
#include <cmath>

#include "base/no_number.h"

namespace signalbox::eval {

RowErrors difference_errors(const ContrastCounts& counts) {
  const ContrastUnits units = contrast_units(counts);
  const size_t n_rows = counts.n_rows();
  RowErrors out{std::vector<double>(n_rows, no_number), std::vector<double>(n_rows, no_number)};
  if (std::max(units.pairs.size(), units.only_a.size()) < 2 || std::max(units.pairs.size(), units.only_b.size()) < 2)
    return out;
  double tokens[2] = {0, 0};
  for (const ContrastRecord& record : counts.records) tokens[record.under_b] += static_cast<double>(record.tokens);
  std::vector<double> influences;
  for (size_t row = 0; row < n_rows; ++row) {
    double selected[2] = {0, 0};
    for (size_t r = 0; r < counts.records.size(); ++r)
      selected[counts.records[r].under_b] += counts.selected[r * n_rows + row];
    const double rates[2] = {selected[0] / tokens[0], selected[1] / tokens[1]};
    // What the difference owes to a record.
    const auto influence = [&](size_t r) {
      const bool b = counts.records[r].under_b;
      const double residual =
          counts.selected[r * n_rows + row] - rates[b] * static_cast<double>(counts.records[r].tokens);
      return (b ? -1 : 1) * residual / tokens[b];
    };
    double variance = 0, parts = 0;
    const auto add_kind = [&] {
      const auto n = static_cast<double>(influences.size());
      if (influences.size() > 1) {
        double mean = 0, squares = 0;
        for (double value : influences) mean += value / n;
        for (double value : influences) squares += (value - mean) * (value - mean);
        const double own = squares * n / (n - 1);
        variance += own;
        parts += own * own / (n - 1);
      }
      influences.clear();
    };
    for (const ContrastUnits::Pair& pair : units.pairs) {
      double sum = 0;
      for (const std::vector<size_t>* side : {&pair.a, &pair.b})
        for (size_t r : *side) sum += influence(r);
      influences.push_back(sum);
    }
    add_kind();
    for (const auto* kind : {&units.only_a, &units.only_b}) {
      for (const std::vector<size_t>& unit : *kind) {
        double sum = 0;
        for (size_t r : unit) sum += influence(r);
        influences.push_back(sum);
      }
      add_kind();
    }
    // Equal shares leave a spread of rounding: no more than that is none.
    const double error = std::sqrt(variance);
    const bool none = error <= 1e-14 * std::max(rates[0], rates[1]);
    out.errors[row] = none ? 0 : error;
    out.freedoms[row] = none ? 0 : variance * variance / parts;
  }
  return out;
}

}  // namespace signalbox::eval
