#include "eval/report/study_maps.h"

#include <cmath>

#include "base/csv.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"

namespace signalbox::eval {

void LayerMap::take(int32_t layer, int32_t column, double value, const std::string& title, bool uncertain) {
  Cell& cell = cells_[{layer, column}];
  if (!cell.title.empty() && !(std::fabs(value) > std::fabs(cell.value))) return;
  cell = {value, title, uncertain};
}

void LayerMap::add(int32_t layer, int32_t column, double value) { cells_[{layer, column}].value += value; }

bool LayerMap::has_columns() const {
  return !cells_.empty() && cells_.begin()->first.second != cells_.rbegin()->first.second;
}

std::string LayerMap::figure(const std::string& id, const std::string& label, const std::string& across,
                             const std::string& caption) const {
  // Rows from 0 on, one for what is before layer 0.
  HeatNames names;
  names.across = across;
  const int32_t first = cells_.begin()->first.first < 0 ? -1 : 0, last = cells_.rbegin()->first.first;
  for (int32_t l = first; l <= last; ++l) names.rows.push_back(l < 0 ? "input" : "layer " + std::to_string(l));
  std::vector<HeatCell> cells;
  CsvWriter csv({"layer", "column", "value"});
  for (const auto& [place, of] : cells_) {
    HeatCell cell;
    cell.layer = place.first - first;
    cell.expert = place.second;
    cell.value = of.value;
    cell.text = format_difference(of.value, 2);
    cell.title = of.title.empty() ? names.rows[static_cast<size_t>(cell.layer)] + ", " + across + " " +
                                        std::to_string(place.second) + "\n" + format_difference(of.value, 4)
                                  : of.title;
    cell.small = of.uncertain;
    cells.push_back(std::move(cell));
    csv.cell(place.first < 0 ? std::string() : std::to_string(place.first));
    csv.cell(int64_t{place.second}).cell(of.value).end_row();
  }
  return html_figure(id, heat_map(cells, label, names), caption, csv.text());
}

std::string place_text(const std::string& layer, const std::string& point, const std::string& unit) {
  return (layer.empty() ? "" : "layer " + layer + " ") + point + (unit.empty() ? "" : " " + unit);
}

}  // namespace signalbox::eval
