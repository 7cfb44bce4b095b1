#include "eval/report/routes_tables.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>

namespace signalbox::eval {

namespace {

double five_figures(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", value);
  return std::strtod(text, nullptr);
}

json::Value packed_number(const CsvTable& table, size_t row, size_t column) {
  const std::string& text = table.text(row, column);
  if (text.empty()) return nullptr;
  if (text.find_first_not_of("-0123456789") == std::string::npos) return table.integer(row, column);
  const double value = five_figures(table.number(row, column));
  if (value == std::floor(value) && std::abs(value) < 1e9) return static_cast<int64_t>(value);  // "1", not "1.0"
  return value;
}

json::Value packed_texts(const CsvTable& table, const std::vector<size_t>& rows, size_t column) {
  std::map<std::string, int64_t> codes;
  json::Value levels = json::Value::array(), list = json::Value::array();
  for (const size_t row : rows) {
    const std::string& text = table.text(row, column);
    const auto [found, added] = codes.emplace(text, static_cast<int64_t>(codes.size()));
    if (added) levels.push_back(text);
    list.push_back(found->second);
  }
  return json::Value::object().set("levels", std::move(levels)).set("codes", std::move(list));
}

json::Value packed_rows(const CsvTable& table, const TableChoice& choice, const std::vector<size_t>& rows) {
  json::Value columns = json::Value::object();
  for (const std::string& name : choice.columns) {
    const std::optional<size_t> column = find_column(table, name);
    if (!column) continue;
    if (std::find(choice.texts.begin(), choice.texts.end(), name) != choice.texts.end()) {
      columns.set(name, packed_texts(table, rows, *column));
    } else {
      json::Value list = json::Value::array();
      for (const size_t row : rows) list.push_back(packed_number(table, row, *column));
      columns.set(name, std::move(list));
    }
  }
  return json::Value::object()
      .set("rows", static_cast<int64_t>(rows.size()))
      .set("of", static_cast<int64_t>(table.n_rows()))
      .set("columns", std::move(columns));
}

}  // namespace

std::optional<size_t> find_column(const CsvTable& table, std::string_view name) {
  const auto found = std::find(table.header().begin(), table.header().end(), name);
  if (found == table.header().end()) return std::nullopt;
  return static_cast<size_t>(found - table.header().begin());
}

std::optional<CsvTable> read_table(const std::filesystem::path& dir, const std::string& file) {
  if (!std::filesystem::exists(dir / file)) return std::nullopt;
  CsvTable table = CsvTable::read(dir / file);
  if (table.n_rows() == 0) return std::nullopt;
  return table;
}

PackedTable pack_table(const CsvTable& table, const TableChoice& choice) {
  std::vector<size_t> order(table.n_rows());
  std::iota(order.begin(), order.end(), size_t{0});
  if (!choice.order.empty()) {
    const size_t column = table.column(choice.order);
    std::vector<double> size(table.n_rows(), -1);
    for (size_t r = 0; r < size.size(); ++r)
      if (!table.text(r, column).empty()) size[r] = std::abs(table.number(r, column));
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size[a] > size[b]; });
  }
  // A first guess that no row is shorter than, then what the rows show.
  size_t n = std::min(order.size(), choice.bytes / (2 * choice.columns.size()));
  for (;;) {
    std::vector<size_t> rows(order.begin(), order.begin() + static_cast<int64_t>(n));
    std::sort(rows.begin(), rows.end());
    PackedTable out{packed_rows(table, choice, rows), static_cast<int64_t>(n), static_cast<int64_t>(table.n_rows())};
    const size_t bytes = json::dump(out.block).size();
    if (bytes <= choice.bytes || n == 0) return out;
    n = std::min(n - 1, static_cast<size_t>(0.97 * static_cast<double>(n) * static_cast<double>(choice.bytes) /
                                            static_cast<double>(bytes)));
  }
}

json::Value pack_usage(const CsvTable& usage, size_t bytes) {
  const size_t layer = usage.column("layer"), expert = usage.column("expert"), domain = usage.column("domain"),
               share = usage.column("share"), tokens = usage.column("tokens");
  std::map<int64_t, size_t> layers;
  int64_t n_experts = 0;
  std::vector<std::string> order;
  std::map<std::string, std::pair<int64_t, std::vector<size_t>>> domains;  // tokens, rows
  for (size_t r = 0; r < usage.n_rows(); ++r) {
    layers.emplace(usage.integer(r, layer), 0);
    n_experts = std::max(n_experts, usage.integer(r, expert) + 1);
    auto& [n, rows] = domains[usage.text(r, domain)];
    if (rows.empty()) order.push_back(usage.text(r, domain));
    n = usage.integer(r, tokens);
    rows.push_back(r);
  }
  json::Value names = json::Value::array();
  size_t next = 0;
  for (auto& [number, place] : layers) {
    place = next++;
    names.push_back(number);
  }
  json::Value list = json::Value::array();
  size_t left = bytes;
  int64_t left_out = 0;
  for (const std::string& name : order) {
    const auto& [n, rows] = domains.at(name);
    std::vector<json::Value> cells(layers.size() * static_cast<size_t>(n_experts));
    for (const size_t r : rows)
      cells[layers.at(usage.integer(r, layer)) * static_cast<size_t>(n_experts) +
            static_cast<size_t>(usage.integer(r, expert))] = packed_number(usage, r, share);
    json::Value shares = json::Value::array();
    for (json::Value& cell : cells) shares.push_back(std::move(cell));
    json::Value entry = json::Value::object().set("name", name).set("tokens", n).set("share", std::move(shares));
    const size_t size = json::dump(entry).size();
    if (size > left && !list.items().empty()) {
      ++left_out;
      continue;
    }
    left -= std::min(left, size);
    list.push_back(std::move(entry));
  }
  return json::Value::object()
      .set("layers", std::move(names))
      .set("experts", n_experts)
      .set("domains", std::move(list))
      .set("left_out", left_out);
}

}  // namespace signalbox::eval
