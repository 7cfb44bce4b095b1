#include "eval/report/direction_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
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

constexpr const char* schema_of_direction = "signalbox.direction/1";

// AUC of each layer's vector, on the records that chose the layer and on those that were held out.
std::string auc_figure(const ReportTable& selection, const ReportTable* validation) {
  std::vector<DoseLine> lines(1);
  lines[0].name = "records that chose the layer";
  CsvWriter chosen({"layer", "auc"});
  for (size_t r = 0; r < selection.n_rows(); ++r) {
    chosen.cell(selection.integer(r, "layer")).cell(selection.number(r, "auc")).end_row();
    if (std::isfinite(selection.number(r, "auc")))
      lines[0].points.push_back({selection.number(r, "layer"), selection.number(r, "auc"), no_number, no_number});
  }
  std::string csv = chosen.text();
  if (validation) {
    csv = validation->csv_where("dose", "");
    DoseLine held{"held-out records", {}};
    for (size_t r = 0; r < validation->n_rows(); ++r)
      if (validation->text(r, "kind") == "direction" && validation->text(r, "part") == "whole" &&
          validation->text(r, "dose").empty())
        held.points.push_back({validation->number(r, "layer"), validation->number(r, "auc"),
                               validation->number(r, "ci_lo"), validation->number(r, "ci_hi")});
    lines.push_back(std::move(held));
  }
  std::erase_if(lines, [](const DoseLine& line) { return line.points.empty(); });
  if (lines.empty()) return "";
  return html_figure("auc", dose_plots(lines, "layer", "AUC", 0.5),
                     "How well each layer's vector ranks the records of the two conditions; ½: not at all.", csv);
}

// Effects of the vector and its parts by dose, a figure for each layer.
std::string dose_figures(const ReportTable& validation, const std::string& metric) {
  std::map<int64_t, std::map<std::string, DoseLine>> layers;
  for (size_t r = 0; r < validation.n_rows(); ++r) {
    const std::string& dose = validation.text(r, "dose");
    if (validation.text(r, "kind") != "direction" || dose.empty() || dose == "ablate") continue;
    DoseLine& line = layers[validation.integer(r, "layer")][validation.text(r, "part")];
    line.name = validation.text(r, "part");
    line.points.push_back({validation.number(r, "dose"), validation.number(r, "effect"), validation.number(r, "ci_lo"),
                           validation.number(r, "ci_hi")});
  }
  std::string out;
  for (auto& [layer, parts] : layers) {
    std::vector<DoseLine> lines;
    for (const char* part : {"whole", "router", "rest"}) {
      const auto found = parts.find(part);
      if (found == parts.end()) continue;
      std::sort(found->second.points.begin(), found->second.points.end(),
                [](const DosePoint& a, const DosePoint& b) { return a.x < b.x; });
      lines.push_back(found->second);
    }
    out += html_figure("dose-" + std::to_string(layer), dose_plots(lines, "dose", "change of " + metric, 0),
                       "Layer " + std::to_string(layer) + ": change of " + html_escape(metric) +
                           " when that times the vector is added, with 95 % intervals; router and rest: its part in "
                           "the row space of the next router, and what is left.",
                       validation.csv_where("layer", std::to_string(layer)));
  }
  return out;
}

std::string steering_table(const ReportTable& table) {
  std::vector<std::vector<std::string>> rows;
  for (size_t r = 0; r < table.n_rows(); ++r)
    rows.push_back(
        {html_escape(table.text(r, "layer")), html_escape(table.text(r, "part")), html_escape(table.text(r, "dose")),
         html_escape(table.text(r, "condition")), format_difference(table.number(r, "effect"), 3),
         format_difference(table.number(r, "routes_held"), 3), format_difference(table.number(r, "routes_alone"), 3),
         format_value(table.number(r, "jaccard_next"), 3), format_value(table.number(r, "kl"), 3),
         format_value(table.number(r, "opposite"), 2)});
  return html_table({"layer", "part", "dose", "on records of", "effect", "with later routes held", "by routes alone",
                     "Jaccard of the next router", "KL", "share of the other sign"},
                    {1, 0, 1, 0, 1, 1, 1, 1, 1, 1}, rows);
}

std::string control_table(const ReportTable& table) {
  std::vector<std::vector<std::string>> rows;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    if (table.text(r, "part") != "whole") continue;
    const bool separates = table.text(r, "dose").empty();
    rows.push_back({html_escape(table.text(r, "layer")), html_escape(table.text(r, "kind")),
                    separates ? "AUC" : "effect of " + html_escape(table.text(r, "dose")),
                    format_value(table.number(r, separates ? "auc" : "effect"), 3),
                    std::isfinite(table.number(r, "ci_lo"))
                        ? format_interval(table.number(r, "ci_lo"), table.number(r, "ci_hi"), 3)
                        : "–",
                    format_value(table.number(r, "p"), 3)});
  }
  return html_table({"layer", "vectors", "what", "value", "95 %", "p"}, {1, 0, 0, 1, 1, 1}, rows);
}

}  // namespace

bool is_direction_directory(const fs::path& dir) {
  return schema_of(dir) == schema_of_direction && fs::exists(dir / "selection.csv");
}

std::string render_direction_report(const fs::path& dir) {
  const json::Value summary_json = json::parse_file(dir / "summary.json");
  const json::Ref summary(summary_json, (dir / "summary.json").string());
  const ReportTable selection(dir / "selection.csv");
  const std::string contrast = summary.at("contrast").string();
  const int64_t chosen = summary.at("layer").integer();
  std::optional<ReportTable> validation, steering;
  if (fs::exists(dir / "validation.csv")) {
    validation.emplace(dir / "validation.csv");
    steering.emplace(dir / "steering.csv");
  }
  std::string found = "Of all layers the vector behind layer " + std::to_string(chosen) + " was chosen. ", metric;
  if (!validation) {
    found += "It was not tried on held-out records yet: signalbox direction validate does.";
  } else {
    metric = summary.at("validation").at("metric").string();
    for (size_t r = 0; r < validation->n_rows(); ++r)
      if (validation->text(r, "kind") == "direction" && validation->text(r, "part") == "whole" &&
          validation->text(r, "dose").empty() && validation->integer(r, "layer") == chosen)
        found += "On held-out records its AUC is " + format_value(validation->number(r, "auc"), 3) + " " +
                 format_interval(validation->number(r, "ci_lo"), validation->number(r, "ci_hi"), 3) +
                 " (p over all layers " + format_value(validation->number(r, "p"), 3) + "). ";
    found += "That it tells the conditions apart does not say that the model uses it: see what adding it does.";
  }
  std::string body =
      "<h1>Directions: " + html_escape(contrast) +
      "</h1><p id=\"question\">What in the stream tells the two conditions apart, and does the model act "
      "on it?</p><h2 id=\"found\">What was found</h2><div class=\"finding\"><p>" +
      html_escape(found) + "</p></div><h2 id=\"layers\">Layers</h2>" +
      auc_figure(selection, validation ? &*validation : nullptr);
  if (validation)
    body += "<h2 id=\"doses\">What adding it does</h2>" + dose_figures(*validation, metric) +
            "<h2 id=\"steering\">Through routes or not, and at what cost</h2>" + steering_table(*steering) +
            "<h2 id=\"controls\">Beside control vectors of the same length</h2>" + control_table(*validation);
  body += "<h2 id=\"run\">What was run</h2><details><summary>settings and records</summary><pre>" +
          html_escape(json::dump(summary_json, 2)) + "</pre></details>";
  return html_page("Directions: " + contrast, body);
}

}  // namespace signalbox::eval
