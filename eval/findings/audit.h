// Detection beside causes: what switching off each expert of a ranking does, next to how much its use differs.
#pragma once
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/findings/findings.h"
#include "eval/routing/contribution.h"

namespace signalbox::eval {

// A line of rd.csv as far as pictures and audits look at it; NaN = an empty cell, or a column that is not there.
struct RankedExpert {
  int32_t layer = 0, expert = 0;
  double rd = no_number, ci_lo = no_number, ci_hi = no_number, p = no_number, q = no_number;
  std::array<double, n_contributions> given = {no_number, no_number, no_number};  // rd_norm, rd_update, rd_direct
  double share_a = no_number, share_b = no_number;  // of tokens that select it, whose difference is rd
};

// rd.csv; layer, expert and rd must be there. Throws Error with file and line.
std::vector<RankedExpert> read_ranking(const std::filesystem::path& file);

// In the order of rankings by |rd|.
std::vector<RankedExpert> by_magnitude(std::vector<RankedExpert> ranking);

// One audited expert, metric and condition: what ablating the expert does, against the baseline.
struct AuditRow {
  RankedExpert expert;
  std::string metric;
  Estimate effect;
  double p = no_number, q = no_number;  // of the effect
  std::string condition = {};           // of the records; empty: all of them
};

// Over all records. For each metric the experts that were audited, by |rd|; those that the ranking does not have come
// last, rd undefined.
std::vector<AuditRow> audit_rows(const RunFindings& findings, const std::vector<RankedExpert>& ranking);

// The same for each condition too: by metric, there by condition, all records last.
std::vector<AuditRow> audit_rows_by_condition(const RunFindings& findings, const std::vector<RankedExpert>& ranking);

// By metric: does a larger difference in use go with a larger effect? Over the experts with an rd and a defined effect.
// Of rows over all records.
std::vector<AuditCorrelation> audit_correlations(const std::vector<AuditRow>& rows);

// A ranking that an audit is held against.
struct AuditRanking {
  std::string stage;  // of detection; empty: of a file
  std::vector<RankedExpert> experts;
};

// How well a ranking, by one of the numbers that it has, tells what ablating the experts does.
struct RankingCorrelation {
  std::string metric, condition;  // condition empty: all records
  std::string stage;              // AuditRanking::stage
  std::string by;                 // "rd", "norm", "update_share", "direct"
  AuditCorrelation found;         // its metric again
};

// Of each metric and condition (in the order of audit_rows_by_condition), each ranking, and each number that it has.
std::vector<RankingCorrelation> ranking_correlations(const RunFindings& findings,
                                                     const std::vector<AuditRanking>& rankings);

// layer, expert, rd, q, metric, effect, ci_lo, ci_hi, p, q_effect, n; with a column `condition` behind `metric` where
// some row has one, and rd_norm, rd_update, rd_direct behind `q` where the ranking has them.
std::string audit_csv(const std::vector<AuditRow>& rows);
// metric, condition, stage, by, spearman, spearman_signed, n
std::string audit_correlations_csv(const std::vector<RankingCorrelation>& rows);

// For a terminal, metric by metric and condition by condition: the audited experts, what their use differs by beside
// what banning each of them does (of many those with the largest effects), and the rank correlations of the two.
std::string audit_text(const std::vector<AuditRow>& rows, const std::vector<RankingCorrelation>& correlations);

// The ranking that the audit of a run directory took its experts from: audit/rd.csv where there is one, else that of
// the stage of detection that the manifest's spec names, or of the only stage; empty where there is none, or several.
std::vector<RankedExpert> ranking_of_audit(const std::filesystem::path& dir);

// Those that it can be held against: that of audit/rd.csv where there is one, and those of all stages of detection.
std::vector<AuditRanking> rankings_beside_audit(const std::filesystem::path& dir);

// The audit of the run in `dir`, where it has one: sets findings.audit and writes OUT/audit.csv, and
// OUT/audit_correlations.csv where there is a ranking.
void write_audit(const std::filesystem::path& dir, const std::filesystem::path& out, RunFindings& findings);

// audit_text of the run in `dir`.
std::string audit_text(const std::filesystem::path& dir, const RunFindings& findings);

}  // namespace signalbox::eval
