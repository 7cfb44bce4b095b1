// Detection beside causes: what switching off each expert of a ranking does, next to how much its use differs.
#pragma once
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/findings/tables.h"

namespace signalbox {

// A line of rd.csv as far as pictures and audits look at it; NaN = an empty cell, or a column that is not there.
struct RankedExpert {
  int32_t layer = 0, expert = 0;
  double rd = undefined, ci_lo = undefined, ci_hi = undefined, p = undefined, q = undefined;
  static constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
};

// rd.csv; layer, expert and rd must be there. Throws Error with file and line.
std::vector<RankedExpert> read_ranking(const std::filesystem::path& file);

// In the order of rankings by |rd|.
std::vector<RankedExpert> by_magnitude(std::vector<RankedExpert> ranking);

// One audited expert and metric: the intervention "audit/L3E5", against the baseline.
struct AuditRow {
  RankedExpert expert;
  std::string metric;
  Estimate effect;
  double p = RankedExpert::undefined, q = RankedExpert::undefined;  // of the effect
};

// For each metric the experts that were audited, by |rd|; those that the ranking does not have come last, rd undefined.
std::vector<AuditRow> audit_rows(const json::Value& metrics, const std::vector<RankedExpert>& ranking);

// {METRIC: {spearman, spearman_signed, n}}: rank correlation of |rd| with |effect| (does a larger difference in use go
// with a larger effect?), and of rd with effect, over experts with a defined effect; null for fewer than 3.
json::Value audit_json(const std::vector<AuditRow>& rows);
// layer, expert, rd, q, metric, effect, ci_lo, ci_hi, p, q_effect, n
std::string audit_csv(const std::vector<AuditRow>& rows);

// For a terminal: the audited experts, what their use differs by beside what banning each of them does, metric by
// metric with the rank correlation of the two.
std::string audit_text(const std::vector<AuditRow>& rows, const json::Value& metrics);

// The ranking that the audit of a run directory took its experts from: audit/rd.csv where there is one, else that of
// the stage of detection that the manifest's spec names, or of the only stage; empty where there is none.
std::vector<RankedExpert> ranking_of_audit(const std::filesystem::path& dir);

// Adds "audit" to metrics and writes DIR/audit.csv.
void add_audit(const std::filesystem::path& dir, json::Value& metrics);

}  // namespace signalbox
