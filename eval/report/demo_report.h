// The demo's report: one self-contained HTML file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "eval/detect/risk_difference.h"

namespace signalbox {

// One line of the table: an intervention and its rates in percent, in the order of `columns`; negative = not measured.
struct ReportRow {
  std::string name, description;
  std::vector<double> rates;
};

struct ReportExample {
  std::string question, baseline, edited;
};

struct DemoReport {
  std::string model;
  std::vector<std::string> columns;  // what each rate is
  std::vector<int64_t> counts;       // records behind each column
  std::vector<ReportRow> rows;
  std::vector<RiskDifference> differences;  // all experts
  std::vector<RiskDifference> banned;
  std::vector<ReportExample> examples;
};

// The HTML text: the table, a heat map of risk differences (layer by expert), examples. Nothing from outside.
std::string render_demo_report(const DemoReport& report);

}  // namespace signalbox
