// signalbox rescore: other metrics of a finished run.
#include "eval/experiment/rescore.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "eval/experiment/findings.h"
#include "eval/findings/metrics_file.h"
#include "eval/report/run_report.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/shown_text.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

int rescore_command(int argc, char** argv) {
  CLI::App app(
      "Scores the texts of a finished run by other metrics and judges, without generating them again "
      "(docs/scores.md). What needs the model is carried over from the run.",
      "signalbox rescore");
  app.footer(
      "Example:\n  signalbox run docs/examples/misroute.json --out out/first-run\n"
      "  signalbox rescore out/first-run --metrics em,f1,em_final,refused --out out/first-run-again");
  RescoreOptions options;
  bool as_json = false, quiet = false;
  app.add_option("DIR", options.from, "the directory of a finished run")->required();
  app.add_option("--metrics", options.metrics, "all metrics of the new directory, with commas between them")
      ->delimiter(',')
      ->required();
  app.add_option("--judges", options.judges,
                 "for judge:NAME: a JSON file {NAME: {\"command\": [...]}}, as an experiment's \"judges\"")
      ->type_name("FILE");
  app.add_option("--out", options.out, "the new directory")->type_name("DIR")->required();
  app.add_flag("--json", as_json, "print metrics.json");
  app.add_flag("--quiet", quiet, "no progress");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  options.signalbox_version = SIGNALBOX_VERSION;
  for (int i = 0; i < argc; ++i) options.argv.push_back(argv[i]);
  options.shown_text = shown_text_of_run(options.from);
  options.interrupted = &interrupted;
  options.on_findings = write_run_report;
  std::unique_ptr<Progress> progress;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (!progress) progress = std::make_unique<Progress>("rescoring", total, quiet, "samples");
    progress->update(done);
  };
  options.on_note = [&](const std::string& line) {
    if (!quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
  catch_signals();
  if (!rescore_run(options)) return 3;
  progress.reset();
  const RunFindings findings = read_findings(options.out);
  if (as_json)
    write_stdout(json::dump(metrics_json(findings)) + "\n");
  else
    write_stdout(findings_text(options.out, findings, terminal_width(STDOUT_FILENO)) +
                 "\nReport: " + (options.out / "report.html").string() + "\n");
  return 0;
}

}  // namespace signalbox::tools
