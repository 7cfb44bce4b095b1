// The report of a run directory or of a trace directory's analysis: one HTML file with pictures, made from the files
// that stand there and nothing else, so the same files give the same bytes.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

// The findings of the run in `dir`: warnings, every metric's differences beside their controls, doses, how texts ended,
// detection beside the audit, examples, what was run. Throws Error naming the file that is missing or wrong.
std::string render_run_report(const std::filesystem::path& dir, const RunFindings& findings);

// Where a report of a run that is not finished stands; the run removes it when it is.
inline constexpr const char* partial_report_file = "partial-report.html";

// Writes it to DIR/report.html, and removes a partial one.
void write_run_report(const std::filesystem::path& dir, const RunFindings& findings);

// The report of a run, by its metrics.json, else of a trace or an analysis directory (routes_report.h). Throws Error
// when `dir` is none of them.
std::string render_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
