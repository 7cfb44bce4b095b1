// From the files of a run directory to its findings: metrics.json, tables, the audit. A report is its reader's
// business.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

// Writes metrics.json, table.*, and audit.csv where there was an audit, from what else stands in `dir`.
RunFindings write_findings(const std::filesystem::path& dir);

// The tables for a terminal of `width` columns (0: of any), and the audit beside its ranking where there was one.
std::string findings_text(const std::filesystem::path& dir, const RunFindings& findings, int width = 0);

}  // namespace signalbox::eval
