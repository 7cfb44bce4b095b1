#include "eval/findings/tables.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/csv_writer.h"
#include "base/files.h"
#include "eval/findings/format.h"

namespace signalbox {

namespace {

constexpr const char* audit_prefix = "audit/";

double number(const json::Ref& object, std::string_view key) {
  const json::Ref value = object.at(key);
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.number();
}

Estimate estimate(const json::Ref& object, std::string_view key) {
  return {number(object, key), number(object, "ci_lo"), number(object, "ci_hi"), object.at("n").size()};
}

// The cells of a row as text, and the headings above them.
constexpr std::array<const char*, 10> headings = {"metric",
                                                  "intervention",
                                                  "n",
                                                  "baseline",
                                                  "mean",
                                                  "difference [95 % CI]",
                                                  "p",
                                                  "q",
                                                  "random controls [2.5 %, 97.5 %]",
                                                  "rank"};
constexpr size_t n_columns = headings.size();
using Cells = std::array<std::string, n_columns>;

Cells cells_of(const ResultRow& row, int decimals) {
  // More of them where all would be zeros.
  const auto enough = [&](std::initializer_list<double> values) {
    double largest = 0;
    for (const double value : values)
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
    const bool vanishes = largest > 0 && decimals >= 0 && largest < 0.5 * std::pow(10.0, -decimals);
    return vanishes ? decimals_for(largest) : decimals;
  };
  const auto with_interval = [&](const Estimate& e) {
    if (!std::isfinite(e.value)) return std::string("-");
    const int places = enough({e.value, e.lo, e.hi});
    return format_difference(e.value, places) + " " + format_interval(e.lo, e.hi, places, true);
  };
  return {row.metric,
          row.intervention,
          std::to_string(row.difference.n),
          format_value(row.baseline.value, enough({row.baseline.value})),
          format_value(row.mean.value, enough({row.mean.value})),
          with_interval(row.difference),
          format_p(row.p),
          format_p(row.q),
          with_interval(row.controls),
          row.rank ? std::to_string(*row.rank) + " of " + std::to_string(row.controls.n + 1) : "-"};
}

std::string padded(const std::string& text, size_t width, bool right) {
  const size_t have = display_width(text);
  const std::string space(width > have ? width - have : 0, ' ');
  return right ? space + text : text + space;
}

std::vector<Cells> all_cells(const std::vector<ResultRow>& rows) {
  const std::map<std::string, int> decimals = decimals_by_metric(rows);
  std::vector<Cells> out;
  for (const ResultRow& row : rows) out.push_back(cells_of(row, decimals.at(row.metric)));
  return out;
}

std::array<size_t, n_columns> widths_of(const std::vector<Cells>& lines) {
  std::array<size_t, n_columns> out;
  for (size_t c = 0; c < n_columns; ++c) {
    out[c] = display_width(headings[c]);
    for (const Cells& line : lines) out[c] = std::max(out[c], display_width(line[c]));
  }
  return out;
}

}  // namespace

std::vector<ResultRow> result_rows(const json::Value& metrics, RowChoice choice, const std::string& condition) {
  const json::Ref top(metrics, "metrics.json");
  const std::string baseline = top.at("baseline").string();
  const json::Ref part = condition.empty() ? top : top.at("conditions").at(condition);
  const json::Ref means = part.at("interventions"), contrasts = part.at("contrasts"), about = top.at("about");
  std::vector<ResultRow> out;
  for (const json::Ref& metric : top.at("metrics").items()) {
    if (contrasts.members().empty()) {
      ResultRow row;
      row.intervention = baseline;
      row.metric = metric.string();
      row.condition = condition;
      row.baseline = row.mean = estimate(means.at(baseline).at(row.metric), "mean");
      row.difference.n = row.mean.n;
      out.push_back(std::move(row));
    }
    for (const auto& [name, by_metric] : contrasts.members()) {
      ResultRow row;
      row.intervention = name;
      row.metric = metric.string();
      row.condition = condition;
      if (const auto of = about.at(name).find("control_of")) row.control_of = of->string();
      if (choice == RowChoice::main && (!row.control_of.empty() || name.starts_with(audit_prefix))) continue;
      const json::Ref contrast = by_metric.at(row.metric);
      row.baseline = estimate(means.at(baseline).at(row.metric), "mean");
      row.mean = estimate(means.at(name).at(row.metric), "mean");
      row.difference = estimate(contrast, "diff");
      row.p = number(contrast, "p");
      row.q = number(contrast, "q");
      row.controls = {number(contrast, "control_mean"), number(contrast, "control_lo"), number(contrast, "control_hi"),
                      contrast.at("n_controls").size()};
      if (const auto rank = contrast.find("control_rank")) row.rank = rank->integer();
      out.push_back(std::move(row));
    }
  }
  return out;
}

Estimate mean_of(const json::Value& metrics, const std::string& intervention, const std::string& metric) {
  return estimate(json::Ref(metrics, "metrics.json").at("interventions").at(intervention).at(metric), "mean");
}

std::map<std::string, int> decimals_by_metric(const std::vector<ResultRow>& rows) {
  std::map<std::string, double> scale;
  for (const ResultRow& row : rows) {
    double& largest = scale[row.metric];
    for (double value : {row.baseline.value, row.mean.value, row.difference.value})
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  std::map<std::string, int> out;
  for (const auto& [metric, largest] : scale) out[metric] = decimals_for(largest);
  return out;
}

std::string table_markdown(const std::vector<ResultRow>& rows) {
  std::vector<Cells> lines = all_cells(rows);
  for (Cells& line : lines)
    for (size_t c = 0; c < 2; ++c) line[c] = markdown_escape(line[c]);  // names; the rest is ours
  const auto widths = widths_of(lines);
  std::string out = "|";
  for (size_t c = 0; c < n_columns; ++c) out += " " + padded(headings[c], widths[c], c >= 2) + " |";
  out += "\n|";
  for (size_t c = 0; c < n_columns; ++c)
    out += c < 2 ? std::string(widths[c] + 2, '-') + "|" : std::string(widths[c] + 1, '-') + ":|";
  out += "\n";
  for (const Cells& line : lines) {
    out += "|";
    for (size_t c = 0; c < n_columns; ++c) out += " " + padded(line[c], widths[c], c >= 2) + " |";
    out += "\n";
  }
  return out;
}

std::string table_text(const std::vector<ResultRow>& rows) {
  std::vector<Cells> lines = all_cells(rows);
  const auto widths = widths_of(lines);
  const auto line_of = [&](const auto& cells) {
    std::string line;
    for (size_t c = 0; c < n_columns; ++c) line += (c ? "  " : "") + padded(cells[c], widths[c], c >= 2);
    while (!line.empty() && line.back() == ' ') line.pop_back();
    return line + "\n";
  };
  std::string out = line_of(headings);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0 && rows[i].metric != rows[i - 1].metric) out += "\n";
    out += line_of(lines[i]);
  }
  return out;
}

std::string table_latex(const std::vector<ResultRow>& rows) {
  std::string out =
      "% \\usepackage{booktabs}\n"
      "% Differences are paired, intervention minus baseline, with 95 % percentile bootstrap intervals; p by sign "
      "flips;\n"
      "% q by Benjamini-Hochberg over the whole run; rank: place of |difference| among those of the random controls.\n"
      "\\begin{tabular}{llrrrrrrrr}\n\\toprule\n";
  for (size_t c = 0; c < n_columns; ++c) out += (c ? " & " : "") + latex_escape(headings[c]);
  out += " \\\\\n\\midrule\n";
  const std::vector<Cells> lines = all_cells(rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i > 0 && rows[i].metric != rows[i - 1].metric) out += "\\midrule\n";
    const Cells& cells = lines[i];
    for (size_t c = 0; c < n_columns; ++c) {
      if (c) out += " & ";
      if (c < 2 || cells[c] == "-") {
        out += c < 2 ? latex_escape(cells[c]) : "--";
        continue;
      }
      // Numbers in math mode, so that a minus is a minus.
      std::string cell = cells[c];
      const size_t of = cell.find(" of "), space = cell.find(" [");
      if (of != std::string::npos) {
        out += cell;
      } else if (space != std::string::npos) {
        out += "$" + cell.substr(0, space) + "$ $" + cell.substr(space + 1) + "$";
      } else {
        out += "$" + cell + "$";
      }
    }
    out += " \\\\\n";
  }
  return out + "\\bottomrule\n\\end{tabular}\n";
}

namespace {

std::string csv_of(const std::vector<std::pair<std::string, std::vector<ResultRow>>>& parts) {
  CsvWriter csv({"condition",   "metric", "intervention", "control_of", "n",          "baseline",   "baseline_lo",
                 "baseline_hi", "mean",   "mean_lo",      "mean_hi",    "diff",       "ci_lo",      "ci_hi",
                 "p",           "q",      "control_mean", "control_lo", "control_hi", "n_controls", "control_rank"});
  for (const auto& part : parts)
    for (const ResultRow& row : part.second) {
      csv.cell(row.condition).cell(row.metric).cell(row.intervention).cell(row.control_of).cell(row.difference.n);
      for (const Estimate* e : {&row.baseline, &row.mean, &row.difference}) csv.cell(e->value).cell(e->lo).cell(e->hi);
      csv.cell(row.p).cell(row.q).cell(row.controls.value).cell(row.controls.lo).cell(row.controls.hi);
      csv.cell(row.controls.n);
      row.rank ? csv.cell(*row.rank) : csv.cell(std::string_view());
      csv.end_row();
    }
  return csv.text();
}

}  // namespace

std::string table_csv(const std::vector<ResultRow>& rows) { return csv_of({{"", rows}}); }

void write_tables(const std::filesystem::path& dir, const json::Value& metrics) {
  std::vector<std::pair<std::string, std::vector<ResultRow>>> parts = {{"", result_rows(metrics, RowChoice::main)}};
  if (const auto conditions = json::Ref(metrics, "metrics.json").find("conditions"))
    for (const auto& [condition, part] : conditions->members())
      parts.emplace_back(condition, result_rows(metrics, RowChoice::main, condition));
  std::string markdown, latex;
  for (const auto& [condition, rows] : parts) {
    if (!condition.empty()) {
      markdown += "\nCondition " + markdown_escape(condition) + ":\n\n";
      latex += "\n% condition " + latex_escape(condition) + "\n";
    }
    markdown += table_markdown(rows);
    latex += table_latex(rows);
  }
  write_file_atomically(dir / "table.md", markdown);
  write_file_atomically(dir / "table.tex", latex);
  write_file_atomically(dir / "table.csv", csv_of(parts));
}

}  // namespace signalbox
