// signalbox report: one HTML file of a run's or an analysis's findings, or its table.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "base/files.h"
#include "eval/experiment/reanalysis.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/scope.h"
#include "eval/findings/tables.h"
#include "eval/report/beside_report.h"
#include "eval/report/figure_pictures.h"
#include "eval/report/routes_graphs.h"
#include "eval/report/routes_report.h"
#include "eval/report/run_report.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

std::string table_of(const RunFindings& findings, const std::string& format, bool all, const std::string& condition) {
  const RowChoice choice = all ? RowChoice::all : RowChoice::main;
  const bool apart = condition.empty() && format != "csv";
  FindingsTable table = apart               ? shown_results(findings, choice)
                        : condition.empty() ? result_table(rows_by_condition(findings, choice))
                                            : result_table(result_rows(findings, choice, condition));
  mark_scope(table, findings);
  if (format == "md") return scope_markdown(findings) + table_markdown(table);
  if (format == "csv") return table_csv({table});
  if (format == "tex") return table_latex(table);
  return scope_text(findings) + table_text(table, terminal_width(STDOUT_FILENO));
}

}  // namespace

int report_command(int argc, char** argv) {
  CLI::App app(
      "One self-contained HTML file, with pictures; opens offline. Of a run its findings; of one that is not finished, "
      "and may go on beside, those of the samples that are, which it says. Of a trace its texts token by token with "
      "their "
      "experts, and what signalbox analyze found.",
      "signalbox report");
  app.footer(
      "Example:\n  signalbox report out/run -o report.html\n  signalbox report out/run --table md\n\n"
      "How to read it: docs/reading-results.md");
  std::string dir, out, table, condition, pictures, beside;
  std::vector<std::string> graphs;
  int64_t graph_links = 30;
  bool all = false, quiet = false, as_json = false;
  app.add_option("DIR", dir,
                 "a run directory, a trace directory, a directory of signalbox analyze or regimes, a faithfulness "
                 "study, or what causal map, patch, edges or attribute, circuit discover, or direction extract wrote")
      ->required();
  CLI::Option* file = app.add_option(
      "-o,--out", out,
      "the file to write (default: DIR/report.html; of a run that is not finished, DIR/partial-report.html; with "
      "--beside DIR/beside.html)");
  CLI::Option* format = app.add_option("--table", table, "print the run's table instead of writing a report")
                            ->check(one_of({"text", "md", "csv", "tex"}));
  file->excludes(format);
  app.add_flag("--all", all, "with --table: rows for controls and the audit's experts too")->needs(format);
  app.add_option("--condition", condition, "with --table: only the rows of this condition")->needs(format);
  CLI::Option* json_flag = app.add_flag("--json", as_json,
                                        "machine output: {\"report\": FILE}, with \"graphs\" and \"pictures\" where "
                                        "asked for, and \"partial\" where the run is not finished");
  json_flag->excludes(format);
  CLI::Option* with =
      app.add_option("--beside", beside,
                     "a trace of the same records by the same model: both side by side, with the tokens whose experts "
                     "differ and the share of slots that do; DIR is a trace too")
          ->type_name("DIR_B")
          ->excludes(format);
  app.add_option("--graphs", graphs,
                 "also write which experts work together, in a layer, from layer to the next and in chains, as graphs "
                 "beside the tables: dot (Graphviz), json (JSON Graph Format), mermaid, html; several with commas")
      ->delimiter(',')
      ->check(one_of({"dot", "json", "mermaid", "html"}))
      ->excludes(format)
      ->excludes(with);
  app.add_option("--graph-links", graph_links, "links of each layer in a graph, the strongest first")
      ->check(in_range(int64_t{1}, int64_t{1000000}))
      ->capture_default_str()
      ->needs("--graphs");
  app.add_option("--pictures", pictures,
                 "also write every figure as an SVG file into this directory, maps of one layer for each layer")
      ->type_name("DIR")
      ->excludes(format);
  app.add_flag("--quiet", quiet, "say nothing");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  std::optional<RunFindings> partial;
  if (beside.empty() && is_unfinished_run(dir)) partial = partial_findings(dir);
  if (!table.empty()) {
    write_stdout(table_of(partial ? *partial : read_findings(fs::path(dir)), table, all, condition));
    return 0;
  }
  const fs::path to = out.empty() ? fs::path(dir) / (!beside.empty() ? "beside.html"
                                                     : partial       ? partial_report_file
                                                                     : "report.html")
                                  : fs::path(out);
  std::vector<fs::path> graph_files;
  if (!graphs.empty()) {
    const fs::path analysis = routes_of_directory(dir).analysis;
    if (analysis.empty()) throw Error(dir, "expected analysis/ (signalbox analyze) for --graphs, found none");
    graph_files = write_graphs(analysis, analysis, graphs, graph_links);
  }
  const std::string page = !beside.empty() ? render_beside(dir, beside)
                           : partial       ? render_run_report(dir, *partial)
                                           : render_report(dir);
  write_file_atomically(to, page);
  std::vector<fs::path> picture_files;
  if (!pictures.empty()) picture_files = write_pictures(page, pictures);
  if (as_json) {
    json::Value line = json::Value::object().set("report", to.string());
    const auto set_files = [&](const char* name, const std::vector<fs::path>& files) {
      json::Value list = json::Value::array();
      for (const fs::path& file : files) list.push_back(file.string());
      line.set(name, std::move(list));
    };
    if (!graphs.empty()) set_files("graphs", graph_files);
    if (!pictures.empty()) set_files("pictures", picture_files);
    if (partial) append_scope(line, *partial);
    write_stdout(json::dump(line) + "\n");
  } else if (!quiet) {
    write_stdout((partial ? scope_text(*partial) : std::string()) + "Report: " + to.string() + "\n");
    for (const fs::path& graph : graph_files) write_stdout("Graph: " + graph.string() + "\n");
    if (!pictures.empty()) write_stdout("Pictures: " + std::to_string(picture_files.size()) + " in " + pictures + "\n");
  }
  return 0;
}

}  // namespace signalbox::tools
