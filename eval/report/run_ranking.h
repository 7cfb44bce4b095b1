// A ranking of experts in a run's report: which differ in use, which of them interventions name, and what they do.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/audit.h"

namespace signalbox::eval {

// What a ranking compares, as the summary.json beside it says.
struct RankedUse {
  std::string a, b;         // conditions
  std::string span, phase;  // of the tokens that are counted; empty: not said
};
RankedUse ranked_use(const std::filesystem::path& dir);

struct RankingView {
  std::string id;  // begins the anchors of its figures
  std::string title;
  RankedUse use;
  std::vector<RankedExpert> experts;
  std::vector<RankedExpert> held_out;  // the same contrast on other records; empty: none
  std::vector<AuditRow> audit;         // as of audit_rows_by_condition; empty: no audit
};

// The map of all experts (small squares: q of at least 0.05; the experts that interventions of `run` name and those
// that only the audit ablates are framed apart), total |rd| by layer, rd against q, the first experts with their
// intervals, what ablating them does beside it for each metric and condition, and a table. Where the ranking tells what
// experts give, the same maps of that. HTML.
std::string ranking_figures(const RankingView& view, const RunFindings& run);

}  // namespace signalbox::eval
