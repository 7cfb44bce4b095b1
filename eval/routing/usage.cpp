#include "eval/routing/usage.h"

#include <algorithm>

#include "base/csv.h"
#include "base/files.h"
#include "base/no_number.h"

namespace signalbox::eval {

namespace {

// Counts of one domain.
struct Tally {
  int64_t tokens = 0;
  std::vector<int64_t> counts;
  std::vector<double> weights;
};

}  // namespace

std::vector<Usage> usage_table(const TraceSet& set, const TokenFilter& filter) {
  std::vector<std::string> names = set.domains();
  names.insert(names.begin(), std::string());
  const bool weighted = set.has("router.weights");
  const double no_weight = weighted ? 0 : no_number;
  std::vector<Tally> tallies(
      names.size(), Tally{0, std::vector<int64_t>(set.n_rows(), 0), std::vector<double>(set.n_rows(), no_weight)});
  const int64_t n_layers = static_cast<int64_t>(set.layers().size());
  const auto take = [&](const TraceSample& sample, TraceReader::Rows rows, const std::vector<uint8_t>& counted) {
    const TraceReader& trace = set.trace(sample.trace);
    const std::string& domain = set.records()[sample.record].domain;
    std::vector<Tally*> mine = {&tallies[0]};
    if (!domain.empty())
      mine.push_back(&tallies[static_cast<size_t>(std::find(names.begin() + 1, names.end(), domain) - names.begin())]);
    const int64_t n_slots = trace.n_slots();
    const std::vector<int32_t> ids = trace.ids(rows);
    const std::vector<float> weights = weighted ? trace.weights(rows) : std::vector<float>();
    for (int64_t t = 0; t < rows.size(); ++t) {
      if (!counted[static_cast<size_t>(t)]) continue;
      for (Tally* tally : mine) ++tally->tokens;
      for (int64_t slot = t * n_layers * n_slots; slot < (t + 1) * n_layers * n_slots; ++slot) {
        const int32_t expert = ids[static_cast<size_t>(slot)];
        if (expert < 0) continue;
        const int64_t layer = slot / n_slots - t * n_layers;
        const size_t row = static_cast<size_t>(layer * set.n_experts() + expert);
        for (Tally* tally : mine) {
          ++tally->counts[row];
          if (weighted) tally->weights[row] += weights[static_cast<size_t>(slot)];
        }
      }
    }
  };
  for_each_block(set, filter, take);
  if (tallies[0].tokens == 0) throw Error(set.directory(0).string(), "expected tokens that count, found none");
  std::vector<Usage> out;
  for (size_t d = 0; d < names.size(); ++d) {
    if (tallies[d].tokens == 0) continue;
    for (size_t i = 0; i < set.n_rows(); ++i) {
      const size_t n_experts = static_cast<size_t>(set.n_experts());
      out.push_back({set.layers()[i / n_experts], static_cast<int32_t>(i % n_experts), names[d], tallies[d].counts[i],
                     tallies[d].tokens, tallies[d].weights[i]});
    }
  }
  return out;
}

void write_usage_csv(const std::filesystem::path& file, const std::vector<Usage>& rows) {
  CsvWriter csv({"layer", "expert", "domain", "count", "tokens", "share", "mean_weight"});
  for (const Usage& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.domain).cell(row.count).cell(row.tokens);
    csv.cell(row.share()).cell(row.mean_weight());
    csv.end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
