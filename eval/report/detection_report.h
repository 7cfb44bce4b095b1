// The parts of a report about rankings of experts: maps, tables, the audit beside them.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/audit.h"

namespace signalbox::eval {

// One ranking: the map of all experts, the first ones as a table with what ablating them did over all records (rows of
// any metric, as of audit_rows_by_condition; empty: no audit, which is said), and a scatter of effect against rd for
// each metric and condition. `held_out`: the same contrast on records that had no part in the ranking, shown beside it;
// empty: none. The experts that interventions of `run` name are framed in the map; null: none. HTML.
std::string ranking_section(const std::string& title, const std::pair<std::string, std::string>& conditions,
                            const std::vector<RankedExpert>& ranking, const std::vector<AuditRow>& audit,
                            const std::vector<RankedExpert>& held_out = {}, const RunFindings* run = nullptr);

// The two conditions that DIR/summary.json says DIR/rd.csv compares; "the first condition" and "the second" without
// one.
std::pair<std::string, std::string> conditions_of(const std::filesystem::path& dir);

// The strongest rows of each table of an analysis directory. HTML; empty when there is none.
std::string tables_section(const std::filesystem::path& dir);

// An analysis directory as a part of a run's report: rd.csv as a ranking, and the figures of the other tables. HTML;
// empty when there is none of them. `run`: the findings with the audit, or null.
std::string analysis_sections(const std::filesystem::path& dir, const RunFindings* run);

}  // namespace signalbox::eval
