// The report of an analysis of regimes (`signalbox regimes`): which experts each way of asking uses more and less.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

// Whether it holds the tables of `signalbox regimes`, itself or in its regimes/.
bool is_regimes_directory(const std::filesystem::path& dir);

// One HTML page of regimes.csv, recurring.csv, lengths.csv and summary.json: what was found in sentences, a map of the
// differences of each regime to the baseline, the experts that recur with their scores. Throws Error naming the file
// that is missing or wrong.
std::string render_regimes_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
