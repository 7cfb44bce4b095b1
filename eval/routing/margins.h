// How near choices of experts are to another one: margins.csv.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

// The margin of a token and layer: the k-th largest unedited logit minus the next one; as router.margin records it,
// else from router.logits. Ties of exactly 0 are below every bound.
inline constexpr double margin_bounds[] = {1e-3, 1e-2, 1e-1};
inline constexpr double margin_quantiles[] = {0.01, 0.05, 0.25, 0.5, 0.75, 0.95};

struct Margins {
  int32_t layer = 0;
  std::string domain;                    // empty = all records
  int64_t tokens = 0;                    // that count, and have a margin
  std::vector<double> quantiles, below;  // as margin_quantiles, margin_bounds: shares of tokens
};

// Whether the traces have what it needs, and experts that are not all selected.
bool margins_recorded(const TraceSet& set);
// By layer, and within it all records first, then domains. Call it where margins_recorded.
std::vector<Margins> margins(const TraceSet& set, const RouteOptions& options);

void write_margins_csv(const std::filesystem::path& file, const std::vector<Margins>& rows);

}  // namespace signalbox::eval
