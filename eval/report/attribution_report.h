// The report of attribution (`signalbox causal attribute`): what each part answers for, by gradients.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

bool is_attribution_directory(const std::filesystem::path& dir);

// One HTML page of attribution.csv, totals.csv and summary.json: what was found in sentences, maps of positions and
// layers of the first records, maps of units and layers for each point, and the largest scores with intervals over
// records. Throws Error naming the file that is missing or wrong.
std::string render_attribution_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
