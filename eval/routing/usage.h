// usage.csv: how often each expert is selected, over all records and in each domain.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/trace_set.h"

namespace signalbox::eval {

struct Usage {
  int32_t layer = 0, expert = 0;
  std::string domain;     // empty = all records, those without a domain included
  int64_t count = 0;      // tokens that selected the expert
  int64_t tokens = 0;     // that count
  double weight_sum = 0;  // of applied weights; NaN when router.weights is not recorded
  double share() const { return static_cast<double>(count) / static_cast<double>(tokens); }
  double mean_weight() const { return weight_sum / static_cast<double>(count); }  // NaN when never selected
};

// All records first, then each domain in order of first appearance; within, ascending by layer and expert. A domain
// of which no token counts has no rows. `threads`: 0 = all. Throws Error when no token counts at all.
std::vector<Usage> usage_table(const TraceSet& set, const TokenFilter& filter, int threads = 0);

void write_usage_csv(const std::filesystem::path& file, const std::vector<Usage>& rows);

}  // namespace signalbox::eval
