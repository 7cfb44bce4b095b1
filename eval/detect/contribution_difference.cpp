#include "eval/detect/contribution_difference.h"

#include "eval/detect/bootstrapped.h"
#include "eval/detect/relabelled.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

// Sums over the records of each side.
struct Sides {
  double sums[2] = {0, 0};
  int64_t tokens[2] = {0, 0};
};

Sides sides_of(const ContrastCounts& counts, const ContributionSums& from, size_t row) {
  Sides out;
  for (size_t r = 0; r < counts.records.size(); ++r) {
    const bool b = counts.records[r].under_b;
    out.sums[b] += from.sums[r * counts.n_rows() + row];
    out.tokens[b] += from.tokens[r];
  }
  return out;
}

}  // namespace

void add_contribution_differences(const ContrastCounts& counts, const ContrastOptions& options,
                                  std::vector<RiskDifference>& rows, const std::function<void(int64_t)>& on_progress) {
  int64_t done = 0;
  for (int i = 0; i < n_contributions; ++i) {
    const auto which = static_cast<Contribution>(i);
    if (!counts.has(which)) continue;
    const ContributionSums& from = counts.contributions[static_cast<size_t>(i)];
    const auto progress = [&](int64_t more) { on_progress(done + more); };
    const Sides any = sides_of(counts, from, 0);
    if (any.tokens[0] > 0 && any.tokens[1] > 0) {
      const RatioTable table = contribution_ratio_table(counts, which);
      const Bootstrapped drawn = bootstrap_contrast(counts, table, options, progress);
      const Relabelled null =
          relabel_contrast(counts, table, options, [&](int64_t more) { progress(options.resamples + more); });
      std::vector<double> p;
      for (size_t row = 0; row < rows.size(); ++row) {
        const Sides sides = sides_of(counts, from, row);
        ContributionDifference& out = rows[row].contributions[static_cast<size_t>(i)];
        out.value =
            sides.sums[0] / static_cast<double>(sides.tokens[0]) - sides.sums[1] / static_cast<double>(sides.tokens[1]);
        out.ci = drawn.ci[row];
        out.p = static_cast<double>(1 + null.hits[row]) / static_cast<double>(1 + options.resamples);
        p.push_back(out.p);
      }
      const std::vector<double> q = benjamini_hochberg(p);
      for (size_t row = 0; row < rows.size(); ++row) rows[row].contributions[static_cast<size_t>(i)].q = q[row];
    }
    done += 2 * options.resamples;
    on_progress(done);
  }
}

}  // namespace signalbox::eval
