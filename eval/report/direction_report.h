// The report of directions (`signalbox direction extract`, and `validate` where it was run).
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

bool is_direction_directory(const std::filesystem::path& dir);

// One HTML page of selection.csv and summary.json, and of validation.csv and steering.csv where they are: how well each
// layer's vector tells the conditions apart, and what adding it does. Throws Error naming the file that is missing or
// wrong.
std::string render_direction_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
