#include "eval/findings/table.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/csv.h"
#include "base/display_width.h"
#include "base/text_table.h"
#include "eval/findings/format.h"

namespace signalbox::eval {

namespace {

using Kind = TableColumn::Kind;

// Decimals that suit all rows of each group.
std::map<std::string, int> decimals_by_group(const FindingsTable& table) {
  std::map<std::string, double> scale;
  for (const TableRow& row : table.rows) {
    double& largest = scale[row.group];
    for (size_t c = 0; c < table.columns.size(); ++c) {
      if (!table.columns[c].sets_decimals) continue;
      const double value = std::get<Estimate>(row.cells[c]).value;
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
    }
  }
  std::map<std::string, int> out;
  for (const auto& [group, largest] : scale) out[group] = decimals_for(largest);
  return out;
}

// More decimals where all of these values would be zeros.
int enough_decimals(int decimals, std::initializer_list<double> values) {
  double largest = 0;
  for (const double value : values)
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  const bool vanishes = largest > 0 && decimals >= 0 && largest < 0.5 * std::pow(10.0, -decimals);
  return vanishes ? decimals_for(largest) : decimals;
}

std::string estimate_text(const Estimate& estimate, Kind kind, int decimals, bool shows_small) {
  if (kind == Kind::value)
    return format_value(estimate.value, shows_small ? enough_decimals(decimals, {estimate.value}) : decimals);
  if (!std::isfinite(estimate.value)) return "-";
  if (shows_small) decimals = enough_decimals(decimals, {estimate.value, estimate.lo, estimate.hi});
  const bool is_signed = kind == Kind::difference;
  return (is_signed ? format_difference(estimate.value, decimals) : format_value(estimate.value, decimals)) + " " +
         format_interval(estimate.lo, estimate.hi, decimals, is_signed);
}

std::string cell_text(const TableCell& cell, const TableColumn& column, int decimals, bool shows_small) {
  switch (column.kind) {
    case Kind::text: {
      const std::string& text = std::get<std::string>(cell);
      return text.empty() ? column.if_empty : text;
    }
    case Kind::count: return std::to_string(std::get<int64_t>(cell));
    case Kind::number: {
      const double value = std::get<double>(cell);
      return format_value(value, shows_small ? enough_decimals(decimals, {value}) : decimals);
    }
    case Kind::p: return format_p(std::get<double>(cell));
    case Kind::rank: {
      const RankCell& rank = std::get<RankCell>(cell);
      return rank.rank ? std::to_string(*rank.rank) + " of " + std::to_string(rank.n + 1) +
                             (rank.n < enough_controls ? " (few)" : "")
                       : "-";
    }
    case Kind::value:
    case Kind::estimate:
    case Kind::difference: break;
  }
  return estimate_text(std::get<Estimate>(cell), column.kind, decimals, shows_small);
}

// The columns that people see.
std::vector<const TableColumn*> shown_columns(const FindingsTable& table) {
  std::vector<const TableColumn*> out;
  for (const TableColumn& column : table.columns)
    if (!column.heading.empty()) out.push_back(&column);
  return out;
}

std::vector<size_t> widths_of(const std::vector<const TableColumn*>& columns,
                              const std::vector<std::vector<std::string>>& lines) {
  std::vector<size_t> out;
  for (size_t c = 0; c < columns.size(); ++c) {
    out.push_back(display_width(columns[c]->heading));
    for (const auto& line : lines) out[c] = std::max(out[c], display_width(line[c]));
  }
  return out;
}

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

void add_csv_cell(CsvWriter& csv, const TableCell& cell) {
  if (const auto* text = std::get_if<std::string>(&cell)) {
    csv.cell(*text);
  } else if (const auto* count = std::get_if<int64_t>(&cell)) {
    csv.cell(*count);
  } else if (const auto* number = std::get_if<double>(&cell)) {
    csv.cell(*number);
  } else if (const auto* estimate = std::get_if<Estimate>(&cell)) {
    csv.cell(estimate->value).cell(estimate->lo).cell(estimate->hi);
  } else {
    const RankCell& rank = std::get<RankCell>(cell);
    rank.rank ? csv.cell(*rank.rank) : csv.cell(std::string_view());
  }
}

}  // namespace

std::vector<std::vector<std::string>> table_cells(const FindingsTable& table) {
  const std::map<std::string, int> decimals = decimals_by_group(table);
  std::vector<std::vector<std::string>> out;
  for (const TableRow& row : table.rows) {
    out.emplace_back();
    for (size_t c = 0; c < table.columns.size(); ++c)
      if (!table.columns[c].heading.empty())
        out.back().push_back(cell_text(row.cells[c], table.columns[c], decimals.at(row.group), table.shows_small));
  }
  return out;
}

std::string table_text(const FindingsTable& table, int width) {
  std::vector<TextTable::Column> columns;
  for (const TableColumn* column : shown_columns(table)) {
    const bool text = column->kind == Kind::text;
    columns.push_back({column->heading, !text, text});
  }
  TextTable out(std::move(columns));
  std::vector<std::vector<std::string>> lines = table_cells(table);
  for (size_t i = 0; i < lines.size(); ++i)
    out.add(std::move(lines[i]), i > 0 && table.rows[i].group != table.rows[i - 1].group);
  return out.text(width);
}

std::string table_markdown(const FindingsTable& table) {
  const std::vector<const TableColumn*> columns = shown_columns(table);
  std::vector<std::vector<std::string>> lines = table_cells(table);
  for (auto& line : lines)
    for (size_t c = 0; c < columns.size(); ++c)
      if (columns[c]->kind == Kind::text) line[c] = markdown_escape(line[c]);  // the rest is ours
  const std::vector<size_t> widths = widths_of(columns, lines);
  const auto line_of = [&](const auto& cell) {
    std::string line = "|";
    for (size_t c = 0; c < columns.size(); ++c)
      line += " " + padded(cell(c), widths[c], columns[c]->kind != Kind::text) + " |";
    return line + "\n";
  };
  std::string out;
  if (!table.title.empty()) out += "\n" + markdown_escape(capitalised(table.title)) + ":\n\n";
  out += line_of([&](size_t c) { return columns[c]->heading; }) + "|";
  for (size_t c = 0; c < columns.size(); ++c)
    out +=
        columns[c]->kind == Kind::text ? std::string(widths[c] + 2, '-') + "|" : std::string(widths[c] + 1, '-') + ":|";
  out += "\n";
  for (const auto& line : lines) out += line_of([&](size_t c) { return line[c]; });
  return out;
}

std::string table_latex(const FindingsTable& table) {
  const std::vector<const TableColumn*> columns = shown_columns(table);
  std::string out;
  if (!table.title.empty()) out += "\n% " + latex_escape(table.title) + "\n";
  out += "% \\usepackage{booktabs}\n";
  for (const std::string& note : table.notes) out += "% " + note + "\n";
  out += "\\begin{tabular}{";
  for (const TableColumn* column : columns) out += column->kind == Kind::text ? 'l' : 'r';
  out += "}\n\\toprule\n";
  for (size_t c = 0; c < columns.size(); ++c) out += (c ? " & " : "") + latex_escape(columns[c]->heading);
  out += " \\\\\n\\midrule\n";
  const std::vector<std::vector<std::string>> lines = table_cells(table);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0 && table.rows[i].group != table.rows[i - 1].group) out += "\\midrule\n";
    for (size_t c = 0; c < columns.size(); ++c) {
      const std::string& cell = lines[i][c];
      const size_t interval = cell.find(" [");
      if (c) out += " & ";
      // Numbers in math mode, so that a minus is a minus.
      if (columns[c]->kind == Kind::text) {
        out += latex_escape(cell);
      } else if (cell == "-") {
        out += "--";
      } else if (columns[c]->kind == Kind::rank) {
        out += cell;
      } else if (interval != std::string::npos) {
        out += "$" + cell.substr(0, interval) + "$ $" + cell.substr(interval + 1) + "$";
      } else {
        out += "$" + cell + "$";
      }
    }
    out += " \\\\\n";
  }
  return out + "\\bottomrule\n\\end{tabular}\n";
}

std::string table_csv(const std::vector<FindingsTable>& tables) {
  std::vector<std::string_view> header;
  for (const TableColumn& column : tables.at(0).columns)
    header.insert(header.end(), column.csv.begin(), column.csv.end());
  CsvWriter csv(header);
  for (const FindingsTable& table : tables)
    for (const TableRow& row : table.rows) {
      for (size_t c = 0; c < row.cells.size(); ++c)
        if (!table.columns[c].csv.empty()) add_csv_cell(csv, row.cells[c]);
      csv.end_row();
    }
  return csv.text();
}

}  // namespace signalbox::eval
