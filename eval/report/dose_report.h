// Dose and response: a metric against each numeric key of a grid.
#pragma once
#include <optional>
#include <string>

#include "base/namespaces.h"
#include "eval/report/findings_index.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

// A chart for every grid, numeric key, metric and condition, all records together last; "" where there is no grid with
// a key of at least two numbers.
std::string dose_section(const FindingsIndex& findings, const std::optional<Manifest>& manifest);

}  // namespace signalbox::eval
