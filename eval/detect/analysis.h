// What `analyze` makes of one pool of traces: usage.csv, contribution.csv where what
// experts give is recorded, rd.csv of a contrast, npmi.csv of a marker, summary.json.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/detect/risk_difference.h"
#include "eval/routing/contribution.h"
#include "eval/routing/npmi.h"
#include "eval/routing/trace_set.h"
#include "eval/routing/usage.h"

namespace signalbox::eval {

struct AnalysisOptions {
  // Its span and phase filter the tokens of every table. Without `contrasted` a, b and the rest are not looked at.
  ContrastOptions detection;
  bool contrasted = false;
  Marker marker;
  bool marked() const { return marker.token || !marker.span.empty(); }
};

// Two conditions for a contrast, and a sentence for people where they were not asked for.
struct ChosenContrast {
  bool found = false;
  std::string a, b;
  std::string note;
};
// `given` is "A:B"; conditions may hold colons: the split is taken at which both sides are conditions of the records.
// Empty: the two conditions of records that have exactly two. Throws UsageError naming --contrast.
ChosenContrast choose_contrast(const TraceSet& set, const std::string& given);

struct TraceAnalysis {
  std::vector<Usage> usage;
  std::vector<ExpertContribution> contributions;  // empty: not recorded
  std::optional<Detection> detection;
  std::vector<MarkerAssociation> markers;  // empty: none were asked for
  json::Value summary;                     // summary.json
};
// Computes everything; writes nothing. Throws Error as usage_table, detect and marker_associations do.
TraceAnalysis analyze_traces(const TraceSet& set, const AnalysisOptions& options);

// The files that it may have.
std::vector<std::string> analysis_files();
// Writes them into `dir`, which is there: a StagedFiles' where they replace those of an earlier analysis. `further`:
// names of tables that stand there already (route_tables.h), whose hashes summary.json lists too.
void write_analysis(const TraceAnalysis& analysis, const std::filesystem::path& dir,
                    const std::vector<std::string>& further = {});

// For machines: the summary, where the files are, and the first `top` experts of the ranking. For people: tables for
// a terminal of `width` columns (0: of any).
json::Value analysis_json(const TraceAnalysis& analysis, const std::filesystem::path& dir, size_t top);
std::string analysis_text(const TraceAnalysis& analysis, const AnalysisOptions& options,
                          const std::filesystem::path& dir, size_t top, int width = 0);

}  // namespace signalbox::eval
