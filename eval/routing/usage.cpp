#include "eval/routing/usage.h"

#include <algorithm>

#include "base/csv.h"
#include "base/files.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

namespace {

// Counts by domain, the first of records without one: [domain], [domain x rows].
struct UsageTally {
  std::vector<int64_t> tokens, counts;
  std::vector<double> weights;
  UsageTally(size_t n_domains, size_t n_rows, double weight)
      : tokens(n_domains), counts(n_domains * n_rows), weights(n_domains * n_rows, weight) {}
  UsageTally& operator+=(const UsageTally& other) {
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] += other.tokens[i];
    for (size_t i = 0; i < counts.size(); ++i) {
      counts[i] += other.counts[i];
      weights[i] += other.weights[i];
    }
    return *this;
  }
};

constexpr size_t usage_parts = 8;  // sums of weights are made by part and then added, whatever the number of threads

}  // namespace

std::vector<Usage> usage_table(const TraceSet& set, const TokenFilter& filter, int threads) {
  RouteOptions options;
  options.filter = filter;
  options.threads = threads;
  std::vector<std::string> names = set.domains();
  names.insert(names.begin(), std::string());
  const bool weighted = set.has("router.weights");
  const size_t n_rows = set.n_rows(), n_layers = set.layers().size(), n_experts = static_cast<size_t>(set.n_experts());
  std::vector<size_t> domain_of;  // of records
  for (const TraceRecord& record : set.records())
    domain_of.push_back(static_cast<size_t>(std::find(names.begin(), names.end(), record.domain) - names.begin()));
  std::vector<UsageTally> tallies(usage_parts, UsageTally(names.size(), n_rows, weighted ? 0 : no_number));
  const std::vector<RouteBlock> blocks = route_blocks(set, options, 0);
  ThreadPool pool(threads_of(options));
  pool.parallel_for(usage_parts, [&](int64_t part, int) {
    UsageTally& tally = tallies[static_cast<size_t>(part)];
    SampleRoutes routes;
    for (size_t i = blocks.size() * static_cast<size_t>(part) / usage_parts;
         i < blocks.size() * static_cast<size_t>(part + 1) / usage_parts; ++i) {
      read_block(set, blocks[i], options, weighted, routes);
      const size_t domain = domain_of[routes.record];
      tally.tokens[domain] += routes.n();
      int64_t* counts = tally.counts.data() + domain * n_rows;
      double* weights = tally.weights.data() + domain * n_rows;
      size_t at = 0;
      for (int64_t token = 0; token < routes.n(); ++token)
        for (size_t layer = 0; layer < n_layers; ++layer)
          for (int64_t slot = 0; slot < routes.n_slots; ++slot, ++at) {
            if (routes.ids[at] < 0) continue;
            const size_t row = layer * n_experts + static_cast<size_t>(routes.ids[at]);
            ++counts[row];
            if (weighted) weights[row] += routes.weights[at];
          }
    }
  });
  for (size_t part = 1; part < usage_parts; ++part) tallies[0] += tallies[part];
  const UsageTally& tally = tallies[0];
  int64_t tokens = 0;
  for (const int64_t n : tally.tokens) tokens += n;
  if (tokens == 0) throw Error(set.directory(0).string(), "expected tokens that count, found none");
  std::vector<Usage> out;
  for (size_t d = 0; d < names.size(); ++d) {
    const int64_t of_domain = d == 0 ? tokens : tally.tokens[d];
    if (of_domain == 0) continue;
    for (size_t row = 0; row < n_rows; ++row) {
      int64_t count = 0;
      double weight = 0;
      for (size_t from = d; from < (d == 0 ? names.size() : d + 1); ++from) {  // the first row: all domains
        count += tally.counts[from * n_rows + row];
        weight += tally.weights[from * n_rows + row];
      }
      out.push_back(
          {set.layers()[row / n_experts], static_cast<int32_t>(row % n_experts), names[d], count, of_domain, weight});
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
