#include "tools/signalbox/shown_quality.h"

#include <unistd.h>

#include "base/text_table.h"
#include "eval/findings/format.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"
#include "train/student.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

std::string quality_table(const CsvTable& csv, int width) {
  TextTable table({{"model", false, true},
                   {"seed"},
                   {"M parameters"},
                   {"M active"},
                   {"perplexity"},
                   {"KL"},
                   {"KL, 95 %"},
                   {"agreement"}});
  const auto number = [&](size_t row, const char* column) { return csv.number(row, csv.column(column)); };
  const int decimals = decimals_for(number(0, "ppl"));
  for (size_t row = 0; row < csv.n_rows(); ++row) {
    const bool single = csv.text(row, csv.column("kl_ci_lo")).empty();
    table.add(
        {csv.text(row, csv.column("plan")), csv.text(row, csv.column("seed")),
         format_value(number(row, "parameters") / 1e6, 3), format_value(number(row, "active_parameters") / 1e6, 3),
         format_value(number(row, "ppl"), decimals), format_value(number(row, "kl"), 4),
         single ? "" : format_interval(number(row, "kl_ci_lo"), number(row, "kl_ci_hi"), 4),
         format_value(number(row, "agreement"), 3)},
        row == 1);
  }
  return table.text(width);
}

}  // namespace

json::Value quality_rows(const CsvTable& csv, bool keep) {
  json::Value rows = json::Value::array();
  for (size_t row = 0; row < csv.n_rows(); ++row) {
    json::Value one = json::Value::object();
    one.set("plan", csv.text(row, csv.column("plan")));
    if (keep) one.set("keep", csv.integer(row, csv.column("keep")));
    if (const std::string& seed = csv.text(row, csv.column("seed")); !seed.empty()) one.set("seed", seed);
    for (const char* column : {"parameters", "active_parameters", "bytes"})
      one.set(column, csv.integer(row, csv.column(column)));
    for (const char* column : {"ppl", "kl", "agreement"}) one.set(column, csv.number(row, csv.column(column)));
    rows.push_back(std::move(one));
  }
  return rows;
}

void show_quality(const fs::path& dir, bool json) {
  const CsvTable csv = CsvTable::read(dir / train::quality_file);
  const fs::path other = dir / train::other_quality_file;
  if (json) {
    json::Value line = json::Value::object();
    line.set("model", dir.string()).set("quality", quality_rows(csv));
    if (fs::exists(other)) line.set("quality_other", quality_rows(CsvTable::read(other)));
    write_stdout(json::dump(line) + "\n");
    return;
  }
  const int width = terminal_width(STDOUT_FILENO);
  write_stdout(quality_table(csv, width));
  if (fs::exists(other)) write_stdout("\nother domains:\n" + quality_table(CsvTable::read(other), width));
  write_stdout("the model: " + dir.string() + "\n");
}

}  // namespace signalbox::tools
