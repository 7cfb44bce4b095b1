#include "eval/causal/attribution_files.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace signalbox::eval {

namespace {

constexpr const char* rows_name = "attribution.csv";
constexpr const char* totals_name = "totals.csv";
constexpr const char* crossings_name = "crossings.csv";
constexpr const char* attribution_summary = "summary.json";
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

std::vector<std::string> attribution_files() { return {rows_name, totals_name, crossings_name, attribution_summary}; }

AttributionFiles::AttributionFiles(const AttributionRequest& request)
    : request_(request),
      staged_(request.dir, attribution_files()),
      rows_(staged_.path() / rows_name),
      table_(columns_of(request.method)),
      crossings_({"id", "at", "layer", "position", "left", "came", "cells", "before", "behind", "jump"}) {}

void AttributionFiles::add(const AttributionRow& row) {
  table_.cell(row.id);
  cell_or_empty(table_, row.position);
  cell_or_empty(table_, row.layer);
  table_.cell(row.point).cell(row.unit).cell(row.score).cell(row.flip_share);
  cell_or_empty(table_, row.trusted);
  if (request_.method == AttributionMethod::ig) table_.cell(row.integral).cell(row.jumps).cell(row.rest);
  table_.end_row();
  if (table_.text().size() > table_piece) rows_.write(table_.take_text());
  ++n_rows_;
  Sum& sum = sums_[{row.layer, row.point, row.unit}];
  sum.in_record = true;
  sum.now += row.score;
  sum.cells_now += std::fabs(row.score);
  if (std::isnan(row.flip_share)) return;
  sum.flips += row.flip_share;
  ++sum.tested;
}

void AttributionFiles::add(const std::string& id, const Crossing& crossing) {
  crossings_.cell(id).cell(crossing.at).cell(int64_t{crossing.layer}).cell(crossing.position);
  crossings_.cell(joined_ids(crossing.left)).cell(joined_ids(crossing.came)).cell(crossing.cells);
  crossings_.cell(crossing.before).cell(crossing.behind).cell(crossing.behind - crossing.before);
  crossings_.end_row();
}

void AttributionFiles::end_record() {
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

void AttributionFiles::write_totals(const std::vector<AttributionTotal>& totals, int64_t records) {
  CsvWriter table({"layer", "point", "unit", "records", "of_records", "signed", "absolute", "cells", "flip_share"});
  for (const AttributionTotal& total : totals) {
    cell_or_empty(table, total.layer);
    table.cell(total.point).cell(total.unit).cell(total.records).cell(records);
    table.cell(total.signed_mean).cell(total.absolute_mean).cell(total.cells_mean).cell(total.flip_share);
    table.end_row();
  }
  write_file_atomically(staged_.path() / totals_name, table.text());
}

void AttributionFiles::finish(const engine::Session& session, AttributionResult& result) {
  const auto n = static_cast<double>(std::max<int64_t>(1, result.records));
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
  result.rows = n_rows_;
  rows_.write(table_.take_text());
  rows_.commit();
  write_totals(result.totals, result.records);
  const AttributionMethod method = request_.method;
  const bool path = method == AttributionMethod::ig || method == AttributionMethod::eap_ig,
             edges = method == AttributionMethod::eap || method == AttributionMethod::eap_ig;
  if (method == AttributionMethod::ig) write_file_atomically(staged_.path() / crossings_name, crossings_.text());
  json::Value summary = json::Value::object();
  summary.set("schema", "signalbox.attribution/1")
      .set("method", std::string(attribution_method_name(method)))
      .set("metric", std::string(metric_name(request_.metric)))
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("records", result.records)
      .set("rows", result.rows);
  if (method != AttributionMethod::gain) {
    summary.set("instead", std::string(in_place_name(request_.in_place)));
    if (request_.in_place == InPlace::pairs) summary.set("pairs", pairs_summary(request_.pairs));
    if (request_.in_place == InPlace::mean) summary.set("reference", request_.reference);
  }
  if (method != AttributionMethod::ig) summary.set("final_norm", request_.holds_final_divisor ? "held" : "recomputed");
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
  write_file_atomically(staged_.path() / attribution_summary, json::dump(summary) + "\n");
  staged_.commit();
}

}  // namespace signalbox::eval
