#include "eval/routing/contribution.h"

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/files.h"

namespace signalbox::eval {

namespace {

// Sums of one domain, by row of the table.
struct GivenSums {
  explicit GivenSums(size_t n_rows) : n(n_rows, 0) {
    for (std::vector<double>& one : sums) one.assign(n_rows, 0);
    for (std::vector<int64_t>& one : counts) one.assign(n_rows, 0);
  }
  int64_t tokens = 0;
  std::vector<int64_t> n;
  std::array<std::vector<double>, n_contributions> sums;
  std::array<std::vector<int64_t>, n_contributions> counts;
};

}  // namespace

std::vector<Contribution> recorded_contributions(const TraceSet& set) {
  std::vector<Contribution> out;
  for (int i = 0; i < n_contributions; ++i)
    if (set.has(contribution_names[static_cast<size_t>(i)].tensor)) out.push_back(static_cast<Contribution>(i));
  return out;
}

ContributionRows::ContributionRows(const TraceReader& trace, TraceReader::Rows rows,
                                   const std::vector<Contribution>& wanted)
    : width_(static_cast<int64_t>(trace.layers().size()) * trace.n_slots()) {
  for (const Contribution which : wanted)
    values_[static_cast<size_t>(which)] = trace.floats(contribution_names[static_cast<size_t>(which)].tensor, rows);
}

bool ContributionRows::defined(Contribution which, int64_t t) const {
  const float* first = values_[static_cast<size_t>(which)].data() + t * width_;
  return std::none_of(first, first + width_, [](float value) { return std::isnan(value); });
}

std::vector<ExpertContribution> contribution_table(const TraceSet& set, const TokenFilter& filter) {
  const std::vector<Contribution> recorded = recorded_contributions(set);
  std::vector<ExpertContribution> out;
  if (recorded.empty()) return out;
  std::vector<std::string> names = set.domains();
  names.insert(names.begin(), std::string());
  std::vector<GivenSums> tallies(names.size(), GivenSums(set.n_rows()));
  const int64_t n_layers = static_cast<int64_t>(set.layers().size());
  const auto take = [&](const TraceSample& sample, TraceReader::Rows rows, const std::vector<uint8_t>& counted) {
    const TraceReader& trace = set.trace(sample.trace);
    const std::string& domain = set.records()[sample.record].domain;
    std::vector<GivenSums*> mine = {&tallies[0]};
    if (!domain.empty())
      mine.push_back(&tallies[static_cast<size_t>(std::find(names.begin() + 1, names.end(), domain) - names.begin())]);
    const int64_t n_slots = trace.n_slots();
    const std::vector<int32_t> ids = trace.ids(rows);
    const ContributionRows values(trace, rows, recorded);
    for (int64_t t = 0; t < rows.size(); ++t) {
      if (!counted[static_cast<size_t>(t)]) continue;
      for (GivenSums* tally : mine) ++tally->tokens;
      const auto row_of = [&](int64_t slot) {
        const int64_t layer = slot / n_slots - t * n_layers;
        return static_cast<size_t>(layer * set.n_experts() + ids[static_cast<size_t>(slot)]);
      };
      const int64_t first = t * n_layers * n_slots, last = first + n_layers * n_slots;
      for (int64_t slot = first; slot < last; ++slot)
        if (ids[static_cast<size_t>(slot)] >= 0)
          for (GivenSums* tally : mine) ++tally->n[row_of(slot)];
      for (const Contribution which : recorded) {
        if (!values.defined(which, t)) continue;
        const auto at = static_cast<size_t>(which);
        for (int64_t slot = first; slot < last; ++slot) {
          if (ids[static_cast<size_t>(slot)] < 0) continue;
          for (GivenSums* tally : mine) {
            tally->sums[at][row_of(slot)] += values.value(which, slot);
            ++tally->counts[at][row_of(slot)];
          }
        }
      }
    }
  };
  for_each_block(set, filter, take);
  for (size_t domain = 0; domain < names.size(); ++domain) {
    const GivenSums& tally = tallies[domain];
    if (tally.tokens == 0) continue;
    for (size_t i = 0; i < set.n_rows(); ++i) {
      const auto n_experts = static_cast<size_t>(set.n_experts());
      ExpertContribution row{set.layers()[i / n_experts], static_cast<int32_t>(i % n_experts), names[domain],
                             tally.n[i]};
      for (const Contribution which : recorded) {
        const auto at = static_cast<size_t>(which);
        if (tally.counts[at][i] > 0) row.means[at] = tally.sums[at][i] / static_cast<double>(tally.counts[at][i]);
      }
      out.push_back(std::move(row));
    }
  }
  return out;
}

void write_contribution_csv(const std::filesystem::path& file, const std::vector<ExpertContribution>& rows) {
  std::vector<std::string_view> header = {"layer", "expert", "domain", "n"};
  for (const ContributionName& one : contribution_names) header.push_back(one.name);
  CsvWriter csv(header);
  for (const ExpertContribution& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.domain).cell(row.n);
    for (const double mean : row.means) csv.cell(mean);
    csv.end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
