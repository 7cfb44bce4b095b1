// The report of patching (`signalbox causal patch`): what exchanging each place between two runs does.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

bool is_patch_directory(const std::filesystem::path& dir);

// One HTML page of patch.csv, flips.csv and summary.json: what was found in sentences, maps of positions and layers and
// of units and layers for each point, and the places with the largest effects with their intervals. Throws Error naming
// the file that is missing or wrong.
std::string render_patch_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
