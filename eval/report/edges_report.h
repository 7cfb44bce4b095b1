// The report of direct edges (`signalbox causal edges`): what one part does to another with all between them held.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

bool is_edges_directory(const std::filesystem::path& dir);

// One HTML page of edges.csv and summary.json: what was found in a sentence, and the largest edges with their
// intervals, drawn and listed. Throws Error naming the file that is missing or wrong.
std::string render_edges_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
