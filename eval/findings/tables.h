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
  int64_t units = 0;
  double p = no_number, q = no_number, detectable = no_number;
  ControlBand controls;  // the random ones
  std::optional<Versus> vs_controls;
  std::optional<Equivalence> equivalence;
  std::optional<EditTotals> edits;  // of the intervention
};

enum class RowChoice : uint8_t {
  main,  // Intervention::is_main(): the columns of others show controls, and the audit has a table of its own
  all,
};

// Metric by metric, interventions in the order of the run; the baseline's means alone where there is nothing to
// compare. `condition` chooses one of the conditions; empty = all records. Throws Error when there is no such
// condition.
std::vector<ResultRow> result_rows(const RunFindings& findings, RowChoice choice, const std::string& condition = "");

// The same for each condition apart and, last, for all records together: conditions stand next to each other within an
// intervention. Without conditions the same as result_rows. What a contrast experiment asks is in the conditions; over
// all records an effect on one of them is watered down by the others.
std::vector<ResultRow> rows_by_condition(const RunFindings& findings, RowChoice choice);

// Rows as a table: the records where some rows are of one condition, metric, intervention, n, baseline, mean,
// difference with its interval, p, q, the smallest effect that would be found, and where some row has controls these
// with their interval, the difference to their mean and the rank "r of N+1"; in spreadsheets also condition,
// control_of, every interval, equivalence and what the edits did.
FindingsTable result_table(const std::vector<ResultRow>& rows, const std::string& title = "");

// rows_by_condition for people: without those of conditions whose records have no value of the metric.
FindingsTable shown_results(const RunFindings& findings, RowChoice choice);

// What main interventions are compared with beside the baseline and controls: other interventions (each pair once), the
// same under another condition, and a margin of equivalence. Over the records of a condition, or all. More than
// `most_pairs` pairs of interventions are left out.
FindingsTable comparison_table(const RunFindings& findings, const std::string& condition, size_t most_pairs,
                               const std::string& title = "");
inline constexpr size_t few_pairs = 3;

// The same for each condition apart, and last for all records.
FindingsTable comparisons_by_condition(const RunFindings& findings, size_t most_pairs, const std::string& title = "");

// DIR/table.md, table.csv, table.tex: main rows by condition; and comparisons.csv where there are other comparisons,
// which the first and the last also show.
void write_tables(const std::filesystem::path& dir, const RunFindings& findings);

}  // namespace signalbox::eval
