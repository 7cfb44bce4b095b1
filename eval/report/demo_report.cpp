#include "eval/report/demo_report.h"

#include <algorithm>

#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"

namespace signalbox {

namespace {

std::string map_of(const DemoReport& report) {
  std::vector<HeatCell> cells;
  for (const RiskDifference& row : report.differences) {
    HeatCell cell;
    cell.layer = row.layer;
    cell.expert = row.expert;
    cell.value = row.value();
    cell.text = format_difference(100 * row.value(), 0);
    cell.significant = row.q < 0.05;
    cell.framed = std::any_of(report.banned.begin(), report.banned.end(), [&](const RiskDifference& banned) {
      return banned.layer == row.layer && banned.expert == row.expert;
    });
    cell.title = "layer " + std::to_string(row.layer) + ", expert " + std::to_string(row.expert) + ": " +
                 format_difference(row.value(), 3) + " " + format_interval(row.ci.lo, row.ci.hi, 3, true) + ", q " +
                 format_p(row.q);
    cells.push_back(std::move(cell));
  }
  return "<div class=\"wide\">" + heat_map(cells, "risk difference of every expert") + "</div>";
}

std::string rates_table(const DemoReport& report) {
  std::string html = "<table><tr><th>intervention</th>";
  for (size_t i = 0; i < report.columns.size(); ++i)
    html += "<th class=\"n\">" + html_escape(report.columns[i]) +
            "<br/><span class=\"note\">n = " + std::to_string(report.counts[i]) + "</span></th>";
  html += "</tr>";
  for (size_t r = 0; r < report.rows.size(); ++r) {
    const ReportRow& row = report.rows[r];
    html += std::string("<tr") + (r == 0 ? " class=\"base\"" : "") + "><td>" + html_escape(row.name) +
            "<br/><span class=\"note\">" + html_escape(row.description) + "</span></td>";
    for (double rate : row.rates)
      html += rate < 0
                  ? "<td class=\"n\"></td>"
                  : "<td class=\"n\">" + format_value(rate, 1) +
                        " %<br/><span class=\"bar\" style=\"width:" + format_value(rate * 0.6, 0) + "px\"></span></td>";
    html += "</tr>";
  }
  return html + "</table>";
}

}  // namespace

std::string render_demo_report(const DemoReport& report) {
  std::string html =
      "<h1>Which experts does memory use?</h1><p>Model: " + html_escape(report.model) +
      ". Questions were asked with and without a document that answers them; the experts used most "
      "without one were switched off, and so were as many others drawn at random in the same layers.</p>";
  html += "<h2>What the interventions did</h2>" + rates_table(report) +
          "<p class=\"note\">One run, no intervals: a first look, not a finding. The random rows show how much of an "
          "effect "
          "any experts would have had.</p>";
  html +=
      "<h2>Risk difference of every expert</h2><p>Share of question tokens that selected the expert without a document "
      "minus with one, in percentage points. Blue: used more without a document. A frame: switched off. A dot: q &lt; "
      "0.05.</p>" +
      map_of(report);
  if (!report.examples.empty()) {
    html +=
        "<h2>The same questions, before and after</h2><table class=\"texts\"><tr><th>question</th><th>baseline</th>"
        "<th>experts switched off</th></tr>";
    for (const ReportExample& example : report.examples)
      html += "<tr><td>" + html_escape(example.question) + "</td><td>" + html_escape(example.baseline) + "</td><td>" +
              html_escape(example.edited) + "</td></tr>";
    html += "</table>";
  }
  return html_page("Signalbox demo", html);
}

}  // namespace signalbox
