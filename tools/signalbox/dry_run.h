// run --dry-run: what a run would do, as tables or JSON.
#pragma once
#include <string>

#include "base/json.h"
#include "eval/experiment/estimate.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

using namespace eval;

// Lines of at most 80 columns where names are short. `kept`: samples that stand in the run's directory already.
std::string estimate_text(const RunEstimate& estimate, int64_t kept);
json::Value estimate_json(const RunEstimate& estimate, int64_t kept);

// Rows of a table, columns two blanks apart; those of `left` (indices) begin at the left, others end at the right.
std::string aligned_rows(const std::vector<std::vector<std::string>>& rows, const std::vector<size_t>& left);
// "12,345".
std::string grouped(int64_t n);
// "3.4 MB", of 10^3, 10^6, ... bytes.
std::string bytes_in_words(double bytes);
// "about 5s", "about 5s, at most 9s".
std::string time_in_words(double seconds, double most);

}  // namespace signalbox::tools
