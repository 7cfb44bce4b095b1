#include "eval/report/patch_report.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/json.h"
#include "eval/findings/format.h"
#include "eval/report/page.h"
#include "eval/report/report_table.h"
#include "eval/report/study_maps.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr const char* schema_of_patch = "signalbox.patch/1";
constexpr size_t listed_places = 30;

// "2@5": head 2 at position 5; "5": a position, where the point has no units of its own.
struct UnitParts {
  int32_t unit = -1, position = -1;  // -1: none, or no number
};

int32_t number_in(const std::string& text) {
  return text.empty() || text.size() > 8 || text.find_first_not_of("0123456789") != std::string::npos ? -1
                                                                                                      : std::stoi(text);
}

bool has_units(const std::string& point) {
  for (const char* name : {"attn.q", "attn.k", "attn.v", "attn.z", "attn.pattern", "router.logits", "expert.hidden",
                           "expert.out", "expert.contribution"})
    if (point == name) return true;
  return false;
}

UnitParts parts_of(const std::string& point, const std::string& by, const std::string& unit) {
  const size_t at = unit.find('@');
  if (at != std::string::npos)
    return {number_in(unit.substr(0, std::min(at, unit.find(':')))), number_in(unit.substr(at + 1))};
  if (by == "position" || (by == "natural" && !has_units(point))) return {-1, number_in(unit)};
  return {number_in(unit.substr(0, unit.find(':'))), -1};
}

std::string interval_or_dash(double lo, double hi) { return std::isfinite(lo) ? format_interval(lo, hi, 3) : "–"; }

}  // namespace

bool is_patch_directory(const fs::path& dir) {
  return schema_of(dir) == schema_of_patch && fs::exists(dir / "patch.csv");
}

std::string render_patch_report(const fs::path& dir) {
  const json::Value summary_json = json::parse_file(dir / "summary.json");
  const json::Ref summary(summary_json, (dir / "summary.json").string());
  const ReportTable table(dir / "patch.csv"), flips(dir / "flips.csv");
  const std::string metric = summary.at("metric").string(), direction = summary.at("direction").string(),
                    by = summary.at("by").string();
  const bool denoising = direction == "denoising";
  std::vector<size_t> rows;  // of all pairs
  bool normalised = false;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    if (!table.text(r, "pair").empty()) continue;
    rows.push_back(r);
    normalised = normalised || std::isfinite(table.number(r, "normalised"));
  }
  const char* column = normalised ? "normalised" : "effect";
  const auto value = [&](size_t r) { return table.number(r, column); };
  const auto uncertain = [&](size_t r) {
    return normalised && !(table.number(r, "ci_lo") > 0 || table.number(r, "ci_hi") < 0);
  };
  const auto place = [&](size_t r) {
    return place_text(table.text(r, "layer"), table.text(r, "point"), table.text(r, "unit"));
  };
  std::vector<size_t> order = rows;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::fabs(table.number(a, "effect")) > std::fabs(table.number(b, "effect"));
  });
  const json::Ref pairs = summary.at("pairs");
  const std::string share_of = "the difference of " + metric + " between the two runs";
  std::string found = "Of " + std::to_string(pairs.at("read").integer()) + " pairs " +
                      std::to_string(pairs.at("kept").integer()) + " take part. ";
  if (!order.empty()) {
    const size_t r = order.front();
    found += "The largest effect is that of " + place(r) + ": " +
             (denoising ? "with its value of the clean run the corrupt one changes "
                        : "with its value of the corrupt run the clean one changes ") +
             metric + " by " + format_difference(table.number(r, "effect"), 3);
    if (std::isfinite(table.number(r, "normalised")))
      found += ", " + format_value(table.number(r, "normalised"), 3) + " " +
               interval_or_dash(table.number(r, "ci_lo"), table.number(r, "ci_hi")) + " of " + share_of;
    found += ".";
  }
  size_t clear = 0;
  for (const size_t r : rows) clear += normalised && !uncertain(r);
  if (normalised)
    found += " Of " + std::to_string(rows.size()) + " places " + std::to_string(clear) +
             " have an interval that excludes 0; no correction for so many places is made.";

  std::string maps;
  std::vector<std::string> points;
  for (const size_t r : rows)
    if (std::find(points.begin(), points.end(), table.text(r, "point")) == points.end())
      points.push_back(table.text(r, "point"));
  for (size_t p = 0; p < points.size(); ++p) {
    LayerMap positions, units;
    for (const size_t r : rows) {
      if (table.text(r, "point") != points[p] || !std::isfinite(value(r))) continue;
      const UnitParts parts = parts_of(points[p], by, table.text(r, "unit"));
      const int32_t layer = table.text(r, "layer").empty() ? -1 : static_cast<int32_t>(table.integer(r, "layer"));
      std::string title = place(r) + "\n" + column + " " + format_difference(value(r), 4);
      if (normalised) title += " " + interval_or_dash(table.number(r, "ci_lo"), table.number(r, "ci_hi"));
      if (parts.position >= 0) positions.take(layer, parts.position, value(r), title, uncertain(r));
      if (parts.unit >= 0) units.take(layer, parts.unit, value(r), title, uncertain(r));
    }
    const auto draw = [&](const LayerMap& map, const char* kind, const std::string& across) {
      if (map.empty()) return;
      maps += map.figure("map-" + std::to_string(p) + "-" + kind, points[p] + " by layer and " + across, across,
                         html_escape(points[p]) + ": " +
                             (normalised ? "share of " + html_escape(share_of) : "effect on " + html_escape(metric)) +
                             " by layer and " + across + ", means over pairs" +
                             (by == "both" ? ", the largest of each" : "") +
                             (normalised ? ". Blue: towards the other run's answer; orange: away from it. Small "
                                           "squares: the interval holds 0."
                                         : ". Blue: it rises; orange: it falls."));
    };
    draw(positions, "position", "position");
    draw(units, "unit", points[p].rfind("expert", 0) == 0 || points[p] == "router.logits" ? "expert" : "head");
  }
  std::vector<std::vector<std::string>> cells;
  for (size_t i = 0; i < std::min(order.size(), listed_places); ++i) {
    const size_t r = order[i];
    const double share = flips.number(r, "share");
    cells.push_back({html_escape(table.text(r, "point")), html_escape(table.text(r, "layer")),
                     html_escape(table.text(r, "unit").empty() ? "all" : table.text(r, "unit")),
                     format_difference(table.number(r, "effect"), 4), format_value(table.number(r, "normalised"), 3),
                     interval_or_dash(table.number(r, "ci_lo"), table.number(r, "ci_hi")),
                     std::isfinite(share) ? format_value(100 * share, 1) + " %" : "–"});
  }
  const std::string body =
      "<h1>What exchanging each place does to " + html_escape(metric) + "</h1><p id=\"question\">" +
      (denoising ? "Which place of the clean run is enough to bring its answer into the corrupt one?"
                 : "Which place does the clean run need for its answer?") +
      "</p><h2 id=\"found\">What was found</h2><div class=\"finding\"><p>" + html_escape(found) + "</p><p>" +
      (denoising
           ? "That a place is enough does not say that it is needed, nor that it is the only one."
           : "That a place is needed does not say that it is enough; of two that stand in for one another neither "
             "is.") +
      "</p></div><h2 id=\"maps\">Where</h2>" + (maps.empty() ? "<p>Nothing to draw.</p>" : maps) +
      "<h2 id=\"places\">Places</h2><p>The first " + std::to_string(cells.size()) + " of " +
      std::to_string(rows.size()) + " by the size of their effect:</p>" +
      html_table({"point", "layer", "unit", "effect", "share", "95 % interval", "later routes changed"},
                 {0, 1, 0, 1, 1, 1, 1}, cells) +
      "<h2 id=\"run\">What was run</h2><details><summary>settings and counts</summary><pre>" +
      html_escape(json::dump(summary_json, 2)) + "</pre></details>";
  return html_page("Patching: " + metric, body);
}

}  // namespace signalbox::eval
