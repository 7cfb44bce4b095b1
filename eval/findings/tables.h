// The tables of a run: its interventions against the baseline, row by row.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/findings.h"
#include "eval/findings/table.h"

namespace signalbox::eval {

// One intervention and metric, against the baseline.
struct ResultRow {
  std::string intervention, metric;
  std::string control_of;  // empty: not a control
  std::string condition;   // of the records; empty: all
  Estimate baseline, mean, difference;
  double p = no_number, q = no_number;
  ControlBand controls;  // the random ones
};

enum class RowChoice : uint8_t {
  main,  // Intervention::is_main(): the columns of others show controls, and the audit has a table of its own
  all,
};

// Metric by metric, interventions in the order of the run; the baseline's means alone where there is nothing to
// compare. `condition` chooses one of the conditions; empty = all records. Throws Error when there is no such
// condition.
std::vector<ResultRow> result_rows(const RunFindings& findings, RowChoice choice, const std::string& condition = "");

// Rows as a table: metric, intervention, n, baseline, mean, difference with its interval, p, q, controls with their
// interval, rank "r of N+1"; in spreadsheets also condition, control_of and every interval.
FindingsTable result_table(const std::vector<ResultRow>& rows, const std::string& title = "");

// DIR/table.md, table.csv, table.tex: main rows, then those by condition where there are any (in the CSV a column).
void write_tables(const std::filesystem::path& dir, const RunFindings& findings);

}  // namespace signalbox::eval
