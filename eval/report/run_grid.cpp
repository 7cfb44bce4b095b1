#include "eval/report/run_grid.h"

#include <algorithm>
#include <cmath>

#include "eval/findings/format.h"
#include "eval/findings/metrics_file.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"

namespace signalbox::eval {

namespace {

constexpr size_t least_points = 4;

json::Value list_of_names(const std::vector<std::string>& names) {
  json::Value out = json::Value::array();
  for (const std::string& name : names) out.push_back(name);
  return out;
}

json::Value cell_json(const FindingsIndex& findings, const ResultRow* row) {
  if (!row) return {};
  json::Value out = json::Value::object();
  out.set("mean", json_number(row->mean.value))
      .set("diff", json_number(row->difference.value))
      .set("lo", json_number(row->difference.lo))
      .set("hi", json_number(row->difference.hi))
      .set("p", json_number(row->p))
      .set("q", json_number(row->q))
      .set("n", row->difference.n)
      .set("shows", findings.shows(*row));
  if (row->controls.rank) out.set("place", *row->controls.rank).set("of", row->controls.differences.n + 1);
  return out;
}

}  // namespace

std::vector<std::pair<std::string, GridPoints>> grids_of(const RunFindings& run) {
  std::vector<std::pair<std::string, GridPoints>> out;
  for (const Intervention& one : run.interventions) {
    if (!one.is_main() || one.grid.empty()) continue;
    if (out.empty() || out.back().first != one.entry) out.push_back({one.entry, {}});
    out.back().second.push_back(&one);
  }
  return out;
}

std::set<std::pair<std::string, std::string>> fraction_keys(const std::optional<Manifest>& manifest) {
  std::set<std::pair<std::string, std::string>> out;
  const json::Value* given = manifest ? manifest->info.find("spec_given") : nullptr;
  const json::Value* entries = given && given->type() == json::Type::object ? given->find("interventions") : nullptr;
  if (!entries || entries->type() != json::Type::array) return out;
  const auto text_of = [](const json::Value* value) {
    return value && value->is_string() ? value->string() : std::string();
  };
  for (const json::Value& entry : entries->items()) {
    if (entry.type() != json::Type::object) continue;
    const json::Value* edits = entry.find("edits");
    if (!edits || edits->type() != json::Type::array) continue;
    // Of several edits the others act at fraction 0 as well.
    if (edits->items().size() != 1 || edits->items()[0].type() != json::Type::object) continue;
    const json::Value* tokens = edits->items()[0].find("tokens");
    if (!tokens || tokens->type() != json::Type::object) continue;
    const std::string key = text_of(tokens->find("fraction"));
    if (key.size() > 1 && key[0] == '$' && key[1] != '$') out.emplace(text_of(entry.find("name")), key.substr(1));
  }
  return out;
}

json::Value grid_json(const FindingsIndex& findings, const std::string& entry, const GridPoints& points,
                      const std::set<std::pair<std::string, std::string>>& from_zero) {
  json::Value keys = json::Value::array();
  std::vector<std::vector<std::string>> values;  // by key
  for (size_t k = 0; k < points.front()->grid.size(); ++k) {
    const std::string& key = points.front()->grid[k].first;
    values.emplace_back();
    for (const Intervention* point : points) {
      std::string value = plain_text(point->grid[k].second);
      if (std::find(values[k].begin(), values[k].end(), value) == values[k].end())
        values[k].push_back(std::move(value));
    }
    keys.push_back(json::Value::object()
                       .set("name", key)
                       .set("values", list_of_names(values[k]))
                       .set("from_zero", from_zero.contains({entry, key})));
  }
  json::Value places = json::Value::array(), names = json::Value::array();
  for (const Intervention* point : points) {
    json::Value place = json::Value::array();
    for (size_t k = 0; k < values.size(); ++k) {
      const auto found = std::find(values[k].begin(), values[k].end(), plain_text(point->grid[k].second));
      place.push_back(static_cast<int64_t>(found - values[k].begin()));
    }
    places.push_back(std::move(place));
    names.push_back(point->name);
  }
  const RunFindings& run = findings.run();
  json::Value baseline = json::Value::array(), cells = json::Value::array();
  for (const std::string& metric : findings.metrics()) {
    json::Value means = json::Value::array(), of_metric = json::Value::array();
    for (const std::string& condition : findings.conditions()) {
      means.push_back(
          json_number(run.of_condition(condition).means[run.baseline_index()][run.metric_index(metric)].value));
      json::Value of_condition = json::Value::array();
      for (const Intervention* point : points)
        of_condition.push_back(cell_json(findings, findings.row(point->name, metric, condition)));
      of_metric.push_back(std::move(of_condition));
    }
    baseline.push_back(std::move(means));
    cells.push_back(std::move(of_metric));
  }
  return json::Value::object()
      .set("entry", entry)
      .set("keys", std::move(keys))
      .set("metrics", list_of_names(findings.metrics()))
      .set("conditions", list_of_names(findings.conditions()))
      .set("points", std::move(places))
      .set("names", std::move(names))
      .set("baseline", std::move(baseline))
      .set("cells", std::move(cells));
}

std::string grid_section(const FindingsIndex& findings, const std::optional<Manifest>& manifest) {
  const auto from_zero = fraction_keys(manifest);
  std::string out;
  size_t number = 0;
  for (const auto& [entry, points] : grids_of(findings.run())) {
    if (points.size() < least_points || points.front()->grid.size() < 2) continue;
    const std::string id = "grid-" + std::to_string(number++);
    out +=
        "<h3>" + html_escape(entry) + "</h3>" +
        json_block(id + "-data", grid_json(findings, entry, points, from_zero)) +
        drawn_figure(id, "run_grid", "a heat map of two keys of " + entry,
                     "Each cell is a point of the grid of " + html_escape(entry) +
                         ": its difference to the baseline, or its mean; bold where q, or p where there is no q, is "
                         "below 0.05. Blue: above the baseline; orange: below. Hover for interval, n and place among "
                         "random controls.",
                     {{"block", id + "-data"}});
  }
  return out.empty() ? "" : "<h2 id=\"grids\">Grids</h2>" + out;
}

}  // namespace signalbox::eval
