// The routing tables of an analysis, each by its name: what `analyze --tables` chooses from.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/routing/route_walk.h"
#include "eval/routing/usage.h"
#include "eval/routing/vocabulary.h"

namespace signalbox::eval {

struct RouteTableOptions {
  RouteOptions routes;
  std::vector<std::string> tables;  // names of route_tables(); empty: none
  VocabularyOptions vocabulary;
  int64_t lags = 16;  // of autocorrelation
};

struct RouteTable {
  const char* name;   // of NAME.csv
  const char* about;  // a line for people
};
// In the order in which they are made.
const std::vector<RouteTable>& route_tables();

// "all", "none", or names separated by commas, as a list without repetitions in the order of route_tables(). Throws
// UsageError naming --tables and what there is.
std::vector<std::string> parse_route_tables(const std::string& list);

// Writes DIR/NAME.csv of the chosen tables; one that has nothing to say (domains with fewer than two domains,
// similarity without pairs of equal tokens) has its header alone. `usage`: of the same tokens. Returns what
// summary.json says of them: the tables, for those with a null its unit, its resamples and its seed, and notes on what
// they rest on or why they have no rows.
json::Value write_route_tables(const TraceSet& set, const std::vector<Usage>& usage, const RouteTableOptions& options,
                               const std::filesystem::path& dir);

}  // namespace signalbox::eval
