// The table of a run's findings, for papers, spreadsheets and terminals. Everything comes from metrics.json.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace signalbox {

// A mean or a difference with its 95 % interval; NaN = undefined (null in the file).
struct Estimate {
  static constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
  double value = undefined, lo = undefined, hi = undefined;
  int64_t n = 0;
};

// One intervention and metric, against the baseline.
struct ResultRow {
  std::string intervention, metric;
  std::string control_of;  // empty: not a control
  std::string condition;   // of the records; empty: all
  Estimate baseline, mean, difference;
  double p = Estimate::undefined, q = Estimate::undefined;
  Estimate controls;            // of random controls' differences: mean, percentiles, how many
  std::optional<int64_t> rank;  // 1 = larger than all controls, of controls.n + 1
};

enum class RowChoice : uint8_t {
  main,  // neither controls, which the columns of others show, nor the audit's single experts
  all,
};

// Metric by metric, interventions in the order of the run; the baseline's means alone where there is nothing to
// compare. `condition` chooses one of "conditions"; empty = all records. Throws Error naming metrics.json and the key
// when the object is not one.
std::vector<ResultRow> result_rows(const json::Value& metrics, RowChoice choice, const std::string& condition = "");

// Mean of an intervention's own values, the baseline's included; all records.
Estimate mean_of(const json::Value& metrics, const std::string& intervention, const std::string& metric);

// Decimals that suit all rows of a metric.
std::map<std::string, int> decimals_by_metric(const std::vector<ResultRow>& rows);

// Columns: metric, intervention, n, baseline, mean, difference with its interval, p, q, controls with their interval,
// rank "r of N+1".
std::string table_markdown(const std::vector<ResultRow>& rows);
std::string table_text(const std::vector<ResultRow>& rows);   // aligned, for terminals
std::string table_latex(const std::vector<ResultRow>& rows);  // booktabs
// Every number in its own column and in full precision, RFC 4180.
std::string table_csv(const std::vector<ResultRow>& rows);

// DIR/table.md, table.csv, table.tex: main rows, then those by condition where there are any (in the CSV a column).
void write_tables(const std::filesystem::path& dir, const json::Value& metrics);

}  // namespace signalbox
