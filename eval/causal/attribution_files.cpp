#include "eval/causal/attribution_files.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace signalbox::eval {

namespace {

constexpr const char* rows_name = "attribution.csv";
constexpr const char* totals_name = "totals.csv";
constexpr const char* crossings_name = "crossings.csv";
constexpr const char* attribution_summary = "summary.json";
// Number of cells of a row and of a crossing in a line.
constexpr int64_t row_cells = 10, crossing_cells = 8;
constexpr size_t table_piece = 1 << 20;  // bytes of a table that are kept before they are written

std::vector<std::string_view> columns_of(AttributionMethod method) {
  std::vector<std::string_view> names = {"id",   "position", "layer",      "point",
                                         "unit", "score",    "flip_share", "linear_trusted"};
  if (method == AttributionMethod::ig) names.insert(names.end(), {"integral", "jumps", "rest"});
  return names;
}

void cell_or_empty(CsvWriter& table, int64_t value) {
  if (value < 0)
    table.cell(std::string_view());
  else
    table.cell(value);
}

std::string joined_ids(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += (text.empty() ? "" : "+") + std::to_string(id);
  return text;
}

}  // namespace

json::Value attribution_line(const RecordAttribution& record) {
  json::Value rows = json::Value::array(), crossings = json::Value::array();
  for (const AttributionRow& row : record.rows) {
    json::Value cells = json::Value::array();
    for (const int64_t x : {row.position, int64_t{row.layer}}) cells.push_back(x);
    for (const std::string& x : {row.point, row.unit}) cells.push_back(x);
    for (const double x : {row.score, row.flip_share}) cells.push_back(x);
    cells.push_back(int64_t{row.trusted});
    for (const double x : {row.integral, row.jumps, row.rest}) cells.push_back(x);
    rows.push_back(std::move(cells));
  }
  for (const Crossing& crossing : record.crossings) {
    json::Value cells = json::Value::array();
    for (const double x : {crossing.at, crossing.before, crossing.behind}) cells.push_back(x);
    for (const int64_t x : {int64_t{crossing.layer}, crossing.position, crossing.cells}) cells.push_back(x);
    for (const auto& ids : {crossing.left, crossing.came}) {
      json::Value list = json::Value::array();
      for (const int32_t id : ids) list.push_back(int64_t{id});
      cells.push_back(std::move(list));
    }
    crossings.push_back(std::move(cells));
  }
  json::Value line = json::Value::object();
  line.set("rows", std::move(rows)).set("crossings", std::move(crossings));
  return line.set("dropped_edges", record.dropped_edges);
}

RecordAttribution read_attribution_line(const json::Ref& line, const std::string& id) {
  line.reject_unknown({"id", "rows", "crossings", "dropped_edges"});
  RecordAttribution record;
  record.id = id;
  record.dropped_edges = line.at("dropped_edges").size();
  const auto number = [](const json::Ref& value) {
    return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.number();
  };
  for (const json::Ref& one : line.at("rows").items()) {
    const std::vector<json::Ref> cells = one.items();
    if (static_cast<int64_t>(cells.size()) != row_cells) one.fail("expected " + std::to_string(row_cells) + " items");
    AttributionRow& row = record.rows.emplace_back();
    row.id = id;
    row.position = cells[0].integer();
    row.layer = static_cast<int32_t>(cells[1].integer(-1, 1 << 20));
    row.point = cells[2].string();
    row.unit = cells[3].string();
    row.score = number(cells[4]);
    row.flip_share = number(cells[5]);
    row.trusted = static_cast<int>(cells[6].integer(-1, 1));
    row.integral = number(cells[7]);
    row.jumps = number(cells[8]);
    row.rest = number(cells[9]);
  }
  for (const json::Ref& one : line.at("crossings").items()) {
    const std::vector<json::Ref> cells = one.items();
    if (static_cast<int64_t>(cells.size()) != crossing_cells)
      one.fail("expected " + std::to_string(crossing_cells) + " items");
    Crossing& crossing = record.crossings.emplace_back();
    crossing.at = number(cells[0]);
    crossing.before = number(cells[1]);
    crossing.behind = number(cells[2]);
    crossing.layer = static_cast<int32_t>(cells[3].integer(0, 1 << 20));
    crossing.position = cells[4].size();
    crossing.cells = cells[5].size();
    for (const auto& [list, to] : {std::pair(cells[6], &crossing.left), std::pair(cells[7], &crossing.came)})
      for (const json::Ref& expert : list.items()) to->push_back(static_cast<int32_t>(expert.integer(0, 1 << 20)));
  }
  return record;
}

std::vector<std::string> attribution_files(AttributionMethod method) {
  std::vector<std::string> names = {rows_name, totals_name};
  if (method == AttributionMethod::ig) names.push_back(crossings_name);
  names.push_back(attribution_summary);
  return names;
}

AttributionTables::AttributionTables(const AttributionRequest& request)
    : request_(request),
      rows_(request.dir / rows_name),
      table_(columns_of(request.method)),
      crossings_({"id", "at", "layer", "position", "left", "came", "cells", "before", "behind", "jump"}) {}

void AttributionTables::add(const RecordAttribution& record) {
  for (const AttributionRow& row : record.rows) add(row);
  for (const Crossing& crossing : record.crossings) {
    crossings_.cell(record.id).cell(crossing.at).cell(int64_t{crossing.layer}).cell(crossing.position);
    crossings_.cell(joined_ids(crossing.left)).cell(joined_ids(crossing.came)).cell(crossing.cells);
    crossings_.cell(crossing.before).cell(crossing.behind).cell(crossing.behind - crossing.before);
    crossings_.end_row();
  }
  ++result_.records;
  result_.crossings += static_cast<int64_t>(record.crossings.size());
  result_.dropped_edges += record.dropped_edges;
  end_record();
}

void AttributionTables::add(const AttributionRow& row) {
  table_.cell(row.id);
  cell_or_empty(table_, row.position);
  cell_or_empty(table_, row.layer);
  table_.cell(row.point).cell(row.unit).cell(row.score).cell(row.flip_share);
  cell_or_empty(table_, row.trusted);
  if (request_.method == AttributionMethod::ig) table_.cell(row.integral).cell(row.jumps).cell(row.rest);
  table_.end_row();
  if (table_.text().size() > table_piece) rows_.write(table_.take_text());
  ++result_.rows;
  if (row.point == "path") {
    result_.change += row.score;
    result_.integral += row.integral;
    result_.jumps += row.jumps;
    result_.rest += row.rest;
    result_.missed_without_jumps += std::fabs(row.score - row.integral);
    result_.largest_rest = std::max(result_.largest_rest, std::fabs(row.rest));
  }
  Sum& sum = sums_[{row.layer, row.point, row.unit}];
  sum.in_record = true;
  sum.now += row.score;
  sum.cells_now += std::fabs(row.score);
  if (std::isnan(row.flip_share)) return;
  sum.flips += row.flip_share;
  ++sum.tested;
}

void AttributionTables::end_record() {
  for (auto& [key, sum] : sums_) {
    if (!sum.in_record) continue;
    ++sum.records;
    sum.sum += sum.now;
    sum.absolute += std::fabs(sum.now);
    sum.cells += sum.cells_now;
    sum.now = sum.cells_now = 0;
    sum.in_record = false;
  }
}

void AttributionTables::finish(AttributionResult& result) {
  result = result_;
  const auto n = static_cast<double>(std::max<int64_t>(1, result.records));
  for (double* mean : {&result.change, &result.integral, &result.jumps, &result.rest, &result.missed_without_jumps})
    *mean /= n;
  for (const auto& [key, sum] : sums_) {
    AttributionTotal& total = result.totals.emplace_back();
    std::tie(total.layer, total.point, total.unit) = key;
    total.records = sum.records;
    total.signed_mean = sum.sum / n;
    total.absolute_mean = sum.absolute / n;
    total.cells_mean = sum.cells / n;
    if (sum.tested > 0) total.flip_share = sum.flips / static_cast<double>(sum.tested);
  }
  std::stable_sort(result.totals.begin(), result.totals.end(),
                   [](const AttributionTotal& a, const AttributionTotal& b) {
                     return std::fabs(a.signed_mean) > std::fabs(b.signed_mean);
                   });
}

void AttributionTables::write(const engine::Session& session, const AttributionResult& result) {
  rows_.write(table_.take_text());
  rows_.commit();
  CsvWriter table({"layer", "point", "unit", "records", "of_records", "signed", "absolute", "cells", "flip_share"});
  for (const AttributionTotal& total : result.totals) {
    cell_or_empty(table, total.layer);
    table.cell(total.point).cell(total.unit).cell(total.records).cell(result.records);
    table.cell(total.signed_mean).cell(total.absolute_mean).cell(total.cells_mean).cell(total.flip_share);
    table.end_row();
  }
  write_file_atomically(request_.dir / totals_name, table.text());
  const AttributionMethod method = request_.method;
  const bool path = method == AttributionMethod::ig || method == AttributionMethod::eap_ig,
             edges = method == AttributionMethod::eap || method == AttributionMethod::eap_ig;
  if (method == AttributionMethod::ig) write_file_atomically(request_.dir / crossings_name, crossings_.text());
  json::Value summary = json::Value::object();
  summary.set("schema", attribution_schema)
      .set("method", std::string(attribution_method_name(method)))
      .set("metric", std::string(metric_name(request_.metric)))
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("records", result.records)
      .set("rows", result.rows);
  if (method != AttributionMethod::gain) {
    summary.set("instead", std::string(in_place_name(request_.in_place)));
    if (request_.in_place == InPlace::pairs) summary.set("pairs", pairs_summary(request_.pairs));
  }
  // What takes a part's place; of gains nothing does.
  const bool gain = method == AttributionMethod::gain, pairs = !gain && request_.in_place == InPlace::pairs,
             mean = !gain && request_.in_place == InPlace::mean;
  summary.set("ablation", gain    ? json::Value()
                          : pairs ? json::Value("resample: the value of the pair's other record")
                                  : json::Value(std::string(in_place_name(request_.in_place))));
  summary.set("reference", pairs  ? json::Value("the pair's other record")
                           : mean ? json::Value(request_.reference)
                                  : json::Value());
  summary.set("split", nullptr).set("seed", nullptr);  // nothing is drawn
  if (method != AttributionMethod::ig) summary.set("final_norm", request_.holds_final_divisor ? "held" : "recomputed");
  if (method == AttributionMethod::atp) summary.set("grad_drop", request_.drops).set("qk_fix", request_.query_keys);
  if (path) summary.set("steps", request_.steps).set("rule", request_.rule == PathRule::midpoint ? "midpoint" : "left");
  if (edges) summary.set("edges_left_out", result.dropped_edges);
  if (method == AttributionMethod::ig)
    summary.set("routes", request_.holds_routes ? "held" : "model")
        .set("change", result.change)
        .set("integral", result.integral)
        .set("jumps", result.jumps)
        .set("rest", result.rest)
        .set("largest_rest", result.largest_rest)
        .set("missed_without_jumps", result.missed_without_jumps)
        .set("crossings", result.crossings);
  write_file_atomically(request_.dir / attribution_summary, json::dump(summary) + "\n");
}

}  // namespace signalbox::eval
