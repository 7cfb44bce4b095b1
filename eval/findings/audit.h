// Detection beside causes: what switching off each expert of a ranking does, next to how much its use differs.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

// A line of rd.csv as far as pictures and audits look at it; NaN = an empty cell, or a column that is not there.
struct RankedExpert {
  int32_t layer = 0, expert = 0;
  double rd = no_number, ci_lo = no_number, ci_hi = no_number, p = no_number, q = no_number;
};

// rd.csv; layer, expert and rd must be there. Throws Error with file and line.
std::vector<RankedExpert> read_ranking(const std::filesystem::path& file);

// In the order of rankings by |rd|.
std::vector<RankedExpert> by_magnitude(std::vector<RankedExpert> ranking);

// One audited expert and metric: what ablating the expert does, against the baseline.
struct AuditRow {
  RankedExpert expert;
  std::string metric;
  Estimate effect;
  double p = no_number, q = no_number;  // of the effect
};

// For each metric the experts that were audited, by |rd|; those that the ranking does not have come last, rd undefined.
std::vector<AuditRow> audit_rows(const RunFindings& findings, const std::vector<RankedExpert>& ranking);

// By metric: does a larger difference in use go with a larger effect? Over the experts with an rd and a defined effect.
std::vector<AuditCorrelation> audit_correlations(const std::vector<AuditRow>& rows);

// layer, expert, rd, q, metric, effect, ci_lo, ci_hi, p, q_effect, n
std::string audit_csv(const std::vector<AuditRow>& rows);

// For a terminal: the audited experts, what their use differs by beside what banning each of them does, metric by
// metric with the rank correlation of the two.
std::string audit_text(const std::vector<AuditRow>& rows);

// The ranking that the audit of a run directory took its experts from: audit/rd.csv where there is one, else that of
// the stage of detection that the manifest's spec names, or of the only stage; empty where there is none.
std::vector<RankedExpert> ranking_of_audit(const std::filesystem::path& dir);

// The audit of the run in `dir`, where it has one: sets findings.audit and writes OUT/audit.csv.
void write_audit(const std::filesystem::path& dir, const std::filesystem::path& out, RunFindings& findings);

}  // namespace signalbox::eval
