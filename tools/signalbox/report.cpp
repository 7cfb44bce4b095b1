// signalbox report: one HTML file of a run's or an analysis's findings, or its table.
#include <CLI/CLI.hpp>
#include <filesystem>

#include "base/files.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/tables.h"
#include "eval/report/run_report.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

namespace {

std::string table_of(const std::filesystem::path& dir, const std::string& format, bool all,
                     const std::string& condition) {
  const RunFindings findings = read_findings(dir);
  const RowChoice choice = all ? RowChoice::all : RowChoice::main;
  const bool apart = condition.empty() && format != "csv";
  const FindingsTable table = apart               ? shown_results(findings, choice)
                              : condition.empty() ? result_table(rows_by_condition(findings, choice))
                                                  : result_table(result_rows(findings, choice, condition));
  if (format == "md") return table_markdown(table);
  if (format == "csv") return table_csv({table});
  if (format == "tex") return table_latex(table);
  return table_text(table);
}

}  // namespace

int report_command(int argc, char** argv) {
  CLI::App app("One self-contained HTML file of a run's or an analysis's findings, with pictures; opens offline.",
               "signalbox report");
  app.footer(
      "Example:\n  signalbox report out/run -o report.html\n  signalbox report out/run --table md\n\n"
      "How to read it: docs/reading-results.md");
  std::string dir, out, table, condition;
  bool all = false, quiet = false, as_json = false;
  app.add_option("DIR", dir, "a run directory, or a trace directory after signalbox analyze")->required();
  CLI::Option* file = app.add_option("-o,--out", out, "the file to write (default: DIR/report.html)");
  CLI::Option* format = app.add_option("--table", table, "print the run's table instead of writing a report")
                            ->check(CLI::IsMember({"text", "md", "csv", "tex"}));
  file->excludes(format);
  app.add_flag("--all", all, "with --table: rows for controls and the audit's experts too")->needs(format);
  app.add_option("--condition", condition, "with --table: only the rows of this condition")->needs(format);
  CLI::Option* json_flag = app.add_flag("--json", as_json, "machine output: {\"report\": FILE}");
  json_flag->excludes(format);
  app.add_flag("--quiet", quiet, "say nothing");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (!table.empty()) {
    write_stdout(table_of(dir, table, all, condition));
    return 0;
  }
  const std::filesystem::path to =
      out.empty() ? std::filesystem::path(dir) / "report.html" : std::filesystem::path(out);
  write_file_atomically(to, render_report(dir));
  if (as_json) {
    write_stdout(json::dump(json::Value::object().set("report", to.string())) + "\n");
  } else if (!quiet) {
    write_stdout("Report: " + to.string() + "\n");
  }
  return 0;
}

}  // namespace signalbox::tools
