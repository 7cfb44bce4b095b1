#include "eval/report/attribution_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <vector>

#include "base/json.h"
#include "eval/findings/format.h"
#include "eval/report/page.h"
#include "eval/report/report_table.h"
#include "eval/report/study_maps.h"
#include "eval/statistics/paired.h"
#include "eval/statistics/resampling.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr const char* schema_of_attribution = "signalbox.attribution/1";
constexpr size_t shown_records = 4, listed_parts = 30, most_drawn_points = 12;

using PartKey = std::array<std::string, 3>;  // layer, point, unit

int32_t layer_of(const std::string& text) { return text.empty() ? -1 : std::stoi(text); }
bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 9 && text.find_first_not_of("0123456789") == std::string::npos;
}

std::string method_sentence(const std::string& method) {
  if (method == "ig") return "the integral of the gradient along a path of embeddings, and the jumps of routes on it";
  if (method == "eap") return "the sender's change times the gradient at the receiver's input";
  if (method == "eap-ig") return "the sender's change times the gradient along a path of embeddings";
  if (method == "gain") return "what an expert, chosen or not, would add";
  return "each part's change times the gradient at it";
}

// Sums over positions of each record, of the parts in `wanted`.
std::map<PartKey, std::map<std::string, double>> sums_of(const ReportTable& table, const std::vector<PartKey>& wanted) {
  std::map<PartKey, std::map<std::string, double>> sums;
  for (const PartKey& key : wanted) sums[key];
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (const auto found = sums.find({table.text(r, "layer"), table.text(r, "point"), table.text(r, "unit")});
        found != sums.end())
      found->second[table.text(r, "id")] += table.number(r, "score");
  return sums;
}

}  // namespace

bool is_attribution_directory(const fs::path& dir) {
  return schema_of(dir) == schema_of_attribution && fs::exists(dir / "attribution.csv");
}

std::string render_attribution_report(const fs::path& dir) {
  const json::Value summary_json = json::parse_file(dir / "summary.json");
  const json::Ref summary(summary_json, (dir / "summary.json").string());
  const ReportTable table(dir / "attribution.csv"), totals(dir / "totals.csv");
  const std::string metric = summary.at("metric").string(), method = summary.at("method").string();
  const int64_t n_records = summary.at("records").integer();
  std::vector<std::string> records;
  int64_t tested = 0, untrusted = 0;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    if (records.empty() || records.back() != table.text(r, "id")) records.push_back(table.text(r, "id"));
    if (table.text(r, "linear_trusted").empty()) continue;
    ++tested;
    untrusted += table.integer(r, "linear_trusted") == 0;
  }
  // The largest, with intervals over records; one that lacks the part counts as 0.
  std::vector<PartKey> largest;
  for (size_t r = 0; r < std::min(totals.n_rows(), listed_parts); ++r)
    largest.push_back({totals.text(r, "layer"), totals.text(r, "point"), totals.text(r, "unit")});
  const auto sums = sums_of(table, largest);
  std::vector<ClusteredValues> columns;
  for (const PartKey& key : largest) {
    ClusteredValues& column = columns.emplace_back();
    for (const auto& [id, sum] : sums.at(key)) column.sums.push_back(sum);
    column.sums.resize(std::max(column.sums.size(), static_cast<size_t>(n_records)), 0.0);
    column.counts.assign(column.sums.size(), 1.0);
  }
  const std::vector<MeanEstimate> intervals = bootstrap_means(columns, 0, default_resamples, 1);
  const auto interval = [&](size_t i) {
    return std::isfinite(intervals[i].ci.lo) ? format_interval(intervals[i].ci.lo, intervals[i].ci.hi, 4)
                                             : std::string("–");
  };
  std::string found = "Scores are " + method_sentence(method) + (method == "ig" ? "" : ", to first order") + ", over " +
                      std::to_string(n_records) + " records. ";
  if (!largest.empty())
    found += "The largest mean is that of " + place_text(largest[0][0], largest[0][1], largest[0][2]) + ", " +
             format_difference(totals.number(0, "signed"), 4) + " " + interval(0) + " of " + metric + ".";
  if (tested > 0)
    found +=
        " For " + format_value(100 * static_cast<double>(untrusted) / static_cast<double>(tested), 1) +
        " % of the scores a later route would change, to first order: " +
        (method == "ig" ? "what such a change does is in the jumps, not in the integral."
                        : "what such a change does is in no gradient, and these are not to be trusted without a run.");

  std::string maps;
  for (size_t i = 0; i < std::min(records.size(), shown_records); ++i) {
    LayerMap map;
    // Routes, queries and keys are no parts of the stream and do not add to them.
    const auto adds = [&](size_t r) {
      const std::string& point = table.text(r, "point");
      return point.rfind("route.", 0) != 0 && point != "attn.q" && point != "attn.k";
    };
    for (size_t r = 0; r < table.n_rows(); ++r)
      if (table.text(r, "id") == records[i] && !table.text(r, "position").empty() && adds(r))
        map.add(layer_of(table.text(r, "layer")), static_cast<int32_t>(table.integer(r, "position")),
                table.number(r, "score"));
    if (map.empty()) continue;
    maps += map.figure(
        "record-" + std::to_string(i), "scores of record " + records[i] + " by layer and position", "position",
        "Record " + html_escape(records[i]) + ": scores by layer and position, summed over the parts there. Blue: " +
            html_escape(metric) + " would rise with what takes the part's place; orange: it would fall.");
  }
  if (!maps.empty() && records.size() > shown_records)
    maps += "<p>Showing " + std::to_string(shown_records) + " of " + std::to_string(records.size()) +
            " records; attribution.csv has the rest.</p>";
  std::map<std::string, LayerMap> points;
  for (size_t r = 0; r < totals.n_rows(); ++r)
    if (const std::string& unit = totals.text(r, "unit"); is_number(unit))
      points[totals.text(r, "point")].take(
          layer_of(totals.text(r, "layer")), std::stoi(unit), totals.number(r, "signed"),
          place_text(totals.text(r, "layer"), totals.text(r, "point"), unit) + "\nmean " +
              format_difference(totals.number(r, "signed"), 4) + ", of absolute values " +
              format_value(totals.number(r, "absolute"), 4) + "\nin " + totals.text(r, "records") + " of " +
              totals.text(r, "of_records") + " records");
  size_t drawn = 0;
  for (const auto& [point, map] : points) {
    if (++drawn > most_drawn_points) break;
    maps += map.figure("units-" + std::to_string(drawn), point + " by layer and unit",
                       point.rfind("expert", 0) == 0 || point.rfind("route", 0) == 0 ? "expert" : "head",
                       html_escape(point) + ": mean over records of the sum over positions.");
  }
  std::vector<std::vector<std::string>> cells;
  for (size_t i = 0; i < largest.size(); ++i)
    cells.push_back({html_escape(largest[i][1]), html_escape(largest[i][0]), html_escape(largest[i][2]),
                     html_escape(totals.text(i, "records")), format_difference(totals.number(i, "signed"), 4),
                     interval(i), format_value(totals.number(i, "absolute"), 4),
                     std::isfinite(totals.number(i, "flip_share"))
                         ? format_value(100 * totals.number(i, "flip_share"), 1) + " %"
                         : "–"});
  const std::string body =
      "<h1>What answers for " + html_escape(metric) + ", by gradients</h1><p id=\"question\">How much would " +
      html_escape(metric) +
      " change if each part took the value that takes its place?</p><h2 id=\"found\">What was "
      "found</h2><div class=\"finding\"><p>" +
      html_escape(found) +
      "</p><p>A gradient is an estimate: run the largest ones (causal patch, causal map) before you believe them.</p>"
      "</div><h2 id=\"maps\">Where</h2>" +
      (maps.empty() ? "<p>Scores of whole sequences: see the table.</p>" : maps) +
      "<h2 id=\"parts\">Parts</h2><p>The first " + std::to_string(cells.size()) + " of " +
      std::to_string(totals.n_rows()) +
      " by the size of their mean; intervals of 95 % over records, a record without the part counting as 0:</p>" +
      html_table({"point", "layer", "unit", "records", "mean", "95 % interval", "mean of absolute values",
                  "later routes changed"},
                 {0, 1, 0, 1, 1, 1, 1, 1}, cells) +
      "<h2 id=\"run\">What was run</h2><details><summary>settings and counts</summary><pre>" +
      html_escape(json::dump(summary_json, 2)) + "</pre></details>";
  return html_page("Attribution: " + metric, body);
}

}  // namespace signalbox::eval
