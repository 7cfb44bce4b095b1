// Counts of things in routes by unit, for domain_ratio.h.
#pragma once
#include <algorithm>

#include "base/namespaces.h"
#include "eval/routing/domain_ratio.h"
#include "eval/routing/route_walk.h"
#include "eval/routing/units.h"

namespace signalbox::eval {

struct UnitTally {
  std::vector<std::vector<int32_t>> counts;  // [units][items], empty for units without tokens
  std::vector<int64_t> tokens;               // [units]
  UnitTally& operator+=(const UnitTally& other) {
    for (size_t unit = 0; unit < counts.size(); ++unit) {
      tokens[unit] += other.tokens[unit];
      if (other.counts[unit].empty()) continue;
      if (counts[unit].empty()) counts[unit].resize(other.counts[unit].size());
      for (size_t i = 0; i < counts[unit].size(); ++i) counts[unit][i] += other.counts[unit][i];
    }
    return *this;
  }
};

// count(counts [n_items], routes) adds what one sample has. Samples of records without a domain take no part.
template <class Count>
DomainCounts count_by_domain(const TraceSet& set, const RouteOptions& options, size_t n_items, Count count) {
  const Units units = units_of(set);
  const UnitTally empty{std::vector<std::vector<int32_t>>(units.size()), std::vector<int64_t>(units.size())};
  UnitTally tally = tally_routes(set, options, empty, [&](UnitTally& mine, const SampleRoutes& routes) {
    const size_t unit = units.of_record[routes.record];
    if (units.domains[unit].empty() || routes.n() == 0) return;
    mine.counts[unit].resize(n_items);
    mine.tokens[unit] += routes.n();
    count(mine.counts[unit].data(), routes);
  });
  DomainCounts out;
  out.n_items = n_items;
  for (const std::string& domain : set.domains()) {
    bool has_tokens = false;
    for (size_t unit = 0; unit < units.size(); ++unit)
      if (tally.tokens[unit] > 0 && units.domains[unit] == domain) {
        has_tokens = true;
        out.domain_of.push_back(out.domains.size());
        out.tokens.push_back(tally.tokens[unit]);
        out.counts.push_back(std::move(tally.counts[unit]));
      }
    if (has_tokens) out.domains.push_back(domain);
  }
  return out;
}

}  // namespace signalbox::eval
