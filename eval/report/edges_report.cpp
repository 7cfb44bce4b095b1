#include "eval/report/edges_report.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/json.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"
#include "eval/report/report_table.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr const char* schema_of_edges = "signalbox.edges/1";
constexpr size_t drawn_edges = 20, tabled_edges = 60;

std::string edge_name(const ReportTable& table, size_t r) {
  const std::string& position = table.text(r, "position");
  return table.text(r, "sender") + " \xE2\x86\x92 " + table.text(r, "receiver") +
         (position.empty() ? "" : " at position " + position);
}

std::string edge_interval(double lo, double hi) { return std::isfinite(lo) ? format_interval(lo, hi, 3) : "–"; }

}  // namespace

bool is_edges_directory(const fs::path& dir) {
  return schema_of(dir) == schema_of_edges && fs::exists(dir / "edges.csv");
}

std::string render_edges_report(const fs::path& dir) {
  const json::Value summary_json = json::parse_file(dir / "summary.json");
  const json::Ref summary(summary_json, (dir / "summary.json").string());
  const ReportTable table(dir / "edges.csv");
  const std::string metric = summary.at("metric").string(), direction = summary.at("direction").string();
  const json::Ref pairs = summary.at("pairs");
  std::vector<size_t> order;  // of all pairs
  bool normalised = false;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    if (!table.text(r, "pair").empty()) continue;
    order.push_back(r);
    normalised = normalised || std::isfinite(table.number(r, "normalised"));
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::fabs(table.number(a, "effect")) > std::fabs(table.number(b, "effect"));
  });
  const std::string share_of = "share of the difference of " + metric + " between the two runs";
  std::string found = "Of " + std::to_string(pairs.at("read").integer()) + " pairs " +
                      std::to_string(pairs.at("kept").integer()) + " take part (" + direction + "). ";
  if (order.empty()) {
    found += "Along no edge anything changes.";
  } else {
    const size_t r = order.front();
    found += "The largest effect is that of " + edge_name(table, r) + ": " +
             format_difference(table.number(r, "effect"), 3) + " of " + metric;
    if (std::isfinite(table.number(r, "normalised")))
      found += ", " + format_value(table.number(r, "normalised"), 3) + " " +
               edge_interval(table.number(r, "ci_lo"), table.number(r, "ci_hi")) + " as a " + share_of;
    found += ".";
  }
  std::vector<ForestRow> lines;
  for (size_t i = 0; i < std::min(order.size(), drawn_edges); ++i) {
    const size_t r = order[i];
    ForestRow& line = lines.emplace_back();
    line.name = edge_name(table, r);
    line.difference = table.number(r, normalised ? "normalised" : "effect");
    line.lo = table.number(r, "ci_lo");
    line.hi = table.number(r, "ci_hi");
    line.q = no_number;
    line.filled = line.lo > 0 || line.hi < 0;
  }
  const std::string axis = normalised ? share_of : "effect on " + metric;
  const std::string picture = lines.empty() ? "<p>Nothing to draw.</p>"
                                            : html_figure("largest", forest_plot(lines, axis),
                                                          "The largest edges; filled: the 95 % interval over pairs "
                                                          "excludes 0. No correction for so many edges is made.",
                                                          table.csv_where("pair", ""));
  std::vector<std::vector<std::string>> cells;
  for (size_t i = 0; i < std::min(order.size(), tabled_edges); ++i) {
    const size_t r = order[i];
    const std::string& flipped = table.text(r, "flipped");
    cells.push_back({html_escape(table.text(r, "sender")), html_escape(table.text(r, "receiver")),
                     table.text(r, "position").empty() ? "all" : html_escape(table.text(r, "position")),
                     format_difference(table.number(r, "effect"), 4), format_value(table.number(r, "normalised"), 3),
                     edge_interval(table.number(r, "ci_lo"), table.number(r, "ci_hi")),
                     html_escape(table.text(r, "tokens")), flipped.empty() ? "–" : html_escape(flipped)});
  }
  const std::string body =
      "<h1>What parts do to one another directly, and to " + html_escape(metric) +
      "</h1><p id=\"question\">What does a part do to another with everything between the two held, and what does that "
      "change do to " +
      html_escape(metric) + "?</p><h2 id=\"found\">What was found</h2><div class=\"finding\"><p>" + html_escape(found) +
      "</p><p>An edge says what passes this one way; a part may act by others too.</p></div><h2 id=\"edges\">The "
      "largest edges</h2>" +
      picture + "<p>The first " + std::to_string(cells.size()) + " of " + std::to_string(order.size()) +
      " by the size of their effect:</p>" +
      html_table({"sender", "receiver", "position", "effect", "share", "95 % interval", "tokens that change",
                  "routes that flip"},
                 {0, 0, 0, 1, 1, 1, 1, 1}, cells) +
      "<h2 id=\"run\">What was run</h2><details><summary>settings and counts</summary><pre>" +
      html_escape(json::dump(summary_json, 2)) + "</pre></details>";
  return html_page("Direct edges: " + metric, body);
}

}  // namespace signalbox::eval
