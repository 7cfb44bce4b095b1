#include "tools/signalbox/distill_curve.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/no_number.h"
#include "base/text_table.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/figure_pictures.h"
#include "eval/report/page.h"
#include "eval/store/work_directory.h"
#include "tools/signalbox/shown_quality.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"
#include "train/student.h"

namespace signalbox::tools {

using namespace eval;
using namespace train;

namespace {

namespace fs = std::filesystem;

constexpr const char *curve_picture = "curve.svg", *curve_report = "report.html";

fs::path student_dir(const fs::path& dir, int64_t keep) { return dir / ("keep-" + std::to_string(keep)); }

// The tables of all sizes below each other, the original's row once.
std::string joined_quality(const DistillCurve& curve, const char* file) {
  const CsvTable first = CsvTable::read(student_dir(curve.dir, curve.keep.front()) / file);
  CsvWriter csv(std::vector<std::string_view>(first.header().begin(), first.header().end()));
  for (const int64_t keep : curve.keep) {
    const fs::path from = student_dir(curve.dir, keep) / file;
    const CsvTable table = CsvTable::read(from);
    for (size_t row = 0; row < table.n_rows(); ++row) {
      for (size_t column = 0; column < table.header().size(); ++column) {
        if (row == 0 && table.text(0, column) != first.text(0, column))
          throw Error(from.string(), "expected the original's " + table.header()[column] + " of the first size, " +
                                         first.text(0, column) + ", found " + table.text(0, column));
        if (row > 0 || keep == curve.keep.front()) csv.cell(table.text(row, column));
      }
      if (row > 0 || keep == curve.keep.front()) csv.end_row();
    }
  }
  return csv.text();
}

// A row of quality.csv as it is shown.
struct SizeRow {
  std::string plan, seed;
  int64_t keep = 0;
  double parameters = 0, active = 0;                          // millions
  double loss = 0, loss_lo = no_number, loss_hi = no_number;  // nats a token; no interval for a single example
  double kl = 0, kl_lo = no_number, kl_hi = no_number, agreement = 0;
};

std::vector<SizeRow> curve_rows(const CsvTable& csv) {
  std::vector<SizeRow> rows;
  for (size_t row = 0; row < csv.n_rows(); ++row) {
    const auto number = [&](const char* column) { return csv.number(row, csv.column(column)); };
    const auto or_none = [&](const char* column) {
      return csv.text(row, csv.column(column)).empty() ? no_number : number(column);
    };
    SizeRow one;
    one.plan = csv.text(row, csv.column("plan"));
    one.seed = csv.text(row, csv.column("seed"));
    one.keep = csv.integer(row, csv.column("keep"));
    one.parameters = number("parameters") / 1e6;
    one.active = number("active_parameters") / 1e6;
    one.loss = std::log(number("ppl"));
    one.loss_lo = std::log(or_none("ppl_ci_lo"));
    one.loss_hi = std::log(or_none("ppl_ci_hi"));
    one.kl = number("kl");
    one.kl_lo = or_none("kl_ci_lo");
    one.kl_hi = or_none("kl_ci_hi");
    one.agreement = number("agreement");
    rows.push_back(std::move(one));
  }
  return rows;
}

const std::vector<std::string> curve_headings = {"experts", "model",      "seed", "M parameters", "M active",
                                                 "loss",    "loss, 95 %", "KL",   "KL, 95 %",     "agreement"};

std::vector<std::string> curve_cells(const SizeRow& row) {
  const auto interval = [](double lo, double hi) { return std::isnan(lo) ? "" : format_interval(lo, hi, 4); };
  return {std::to_string(row.keep),
          row.plan,
          row.seed,
          format_value(row.parameters, 3),
          format_value(row.active, 3),
          format_value(row.loss, 4),
          interval(row.loss_lo, row.loss_hi),
          format_value(row.kl, 4),
          interval(row.kl_lo, row.kl_hi),
          format_value(row.agreement, 3)};
}

std::string curve_text(const CsvTable& csv, int width) {
  std::vector<TextTable::Column> columns;
  for (const std::string& heading : curve_headings)
    columns.push_back({heading, heading != "model", heading == "model" || heading == "experts"});
  TextTable table(std::move(columns));
  int64_t keep = -1;
  for (const SizeRow& row : curve_rows(csv)) {
    table.add(curve_cells(row), row.keep != keep || row.plan == "student");
    keep = row.keep;
  }
  return table.text(width);
}

// Loss against parameters: a line a plan; of the random ones the mean over seeds, from the least to the most.
std::string curve_figure(const std::string& id, const std::string& text) {
  const std::vector<SizeRow> rows = curve_rows(CsvTable::parse(text, id));
  std::vector<DoseLine> lines;
  for (size_t i = 1; i < rows.size(); ++i) {
    const std::string& plan = rows[i].plan;
    if (std::any_of(lines.begin(), lines.end(), [&](const DoseLine& line) { return line.name == plan; })) continue;
    DoseLine line{plan, {}};
    for (size_t at = i; at < rows.size();) {
      if (rows[at].plan != plan) {
        ++at;
        continue;
      }
      DosePoint point{std::round(rows[at].parameters * 1e3) / 1e3, 0, rows[at].loss_lo, rows[at].loss_hi};
      const int64_t keep = rows[at].keep;
      int64_t n = 0;
      double sum = 0, least = rows[at].loss, most = rows[at].loss;
      for (; at < rows.size() && rows[at].plan == plan && rows[at].keep == keep; ++at, ++n) {
        sum += rows[at].loss;
        least = std::min(least, rows[at].loss);
        most = std::max(most, rows[at].loss);
      }
      point.mean = sum / static_cast<double>(n);
      if (n > 1) {
        point.lo = least;
        point.hi = most;
      }
      line.points.push_back(point);
    }
    lines.push_back(std::move(line));
  }
  return html_figure(id, dose_plots(lines, "M parameters", "loss, nats a token", rows.front().loss),
                     "Loss on held-out records against size; the baseline is the original. Bands: 95 % over examples; "
                     "of several random choices their range.",
                     text);
}

std::string curve_page(const std::string& text, const std::string& other) {
  const auto table = [](const std::string& csv) {
    std::vector<uint8_t> numeric(curve_headings.size(), 1);
    numeric[1] = 0;
    std::vector<std::vector<std::string>> cells;
    for (const SizeRow& row : curve_rows(CsvTable::parse(csv, quality_file))) {
      cells.push_back(curve_cells(row));
      for (std::string& cell : cells.back()) cell = html_escape(cell);
    }
    return html_table(curve_headings, numeric, cells);
  };
  std::string body = "<h1>Quality against size</h1>" + curve_figure("curve", text) + table(text);
  if (!other.empty()) body += "<h2 id=\"other\">Other domains</h2>" + curve_figure("curve-other", other) + table(other);
  return html_page("Quality against size", body);
}

}  // namespace

TrainingEnd distil_curve(const DistillCurve& curve) {
  WorkDirectory work(curve.dir, curve.manifest);
  if (work.complete()) return TrainingEnd::was_complete;
  for (const int64_t keep : curve.keep)
    if (curve.distil(keep, student_dir(curve.dir, keep)) == TrainingEnd::interrupted) {
      work.finish(RunStatus::interrupted);
      return TrainingEnd::interrupted;
    }
  const std::string quality = joined_quality(curve, quality_file);
  std::string other;
  if (fs::exists(student_dir(curve.dir, curve.keep.front()) / other_quality_file)) {
    other = joined_quality(curve, other_quality_file);
    write_file_atomically(curve.dir / other_quality_file, other);
  }
  write_file_atomically(curve.dir / quality_file, quality);
  const std::string page = curve_page(quality, other);
  write_file_atomically(curve.dir / curve_report, page);
  write_file_atomically(curve.dir / curve_picture, pictures_of_page(page).front().svg);
  work.finish(RunStatus::complete);
  return TrainingEnd::complete;
}

void show_curve(const fs::path& dir, bool json) {
  const CsvTable csv = CsvTable::read(dir / quality_file);
  const fs::path other = dir / other_quality_file;
  if (json) {
    json::Value line = json::Value::object();
    line.set("curve", dir.string()).set("quality", quality_rows(csv, true));
    if (fs::exists(other)) line.set("quality_other", quality_rows(CsvTable::read(other), true));
    write_stdout(json::dump(line) + "\n");
    return;
  }
  const int width = terminal_width(STDOUT_FILENO);
  write_stdout(curve_text(csv, width));
  if (fs::exists(other)) write_stdout("\nother domains:\n" + curve_text(CsvTable::read(other), width));
  write_stdout("the models: " + (dir / "keep-*").string() + "\nthe picture: " + (dir / curve_picture).string() + "\n");
}

}  // namespace signalbox::tools
