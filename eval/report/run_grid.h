// The points of an intervention's grid as a heat map of two of its keys.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/report/findings_index.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

using GridPoints = std::vector<const Intervention*>;

// The main interventions that are points of a grid, by their entry, in the order of the run.
std::vector<std::pair<std::string, GridPoints>> grids_of(const RunFindings& run);

// Entry and key of grids whose value 0 is the unedited model: those that stand for "fraction" of an edit's "tokens" in
// the spec as given.
std::set<std::pair<std::string, std::string>> fraction_keys(const std::optional<Manifest>& manifest);

// {"entry", "keys": [{"name", "values": as texts, "from_zero": its value 0 is the baseline}], "metrics", "conditions":
// "" is all records, "points": [[index of a value by key]], "names", "baseline": [metric][condition] mean, "cells":
// [metric][condition][point] {mean, diff, lo, hi, p, q, n, shows: q, or p without one, is below the level; and place,
// of: among the random controls}}; undefined numbers are null.
json::Value grid_json(const FindingsIndex& findings, const std::string& entry, const GridPoints& points,
                      const std::set<std::pair<std::string, std::string>>& from_zero);

// A figure for each grid of two keys or more with at least four points. HTML; empty where there is none.
std::string grid_section(const FindingsIndex& findings, const std::optional<Manifest>& manifest);

}  // namespace signalbox::eval
