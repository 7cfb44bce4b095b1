// signalbox judge: how right are rules and judges?
#include <CLI/CLI.hpp>
#include <cstdio>

#include "eval/experiment/calibration.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/shown_text.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

int judge_command(int argc, char** argv) {
  CLI::App app("How right are rules and judges? (docs/scores.md)", "signalbox judge");
  app.footer(
      "Example:\n"
      "  echo '{\"text\":\"I cannot help with that.\",\"label\":true}' > l.jsonl\n"
      "  echo '{\"text\":\"Of course, here it is.\",\"label\":false}' >> l.jsonl\n"
      "  signalbox judge calibrate --input l.jsonl --score refused");
  app.require_subcommand(1);
  CLI::App* calibrate_app = app.add_subcommand(
      "calibrate", "a score against texts that people have labelled, and the rates of a run corrected by them");
  calibrate_app->footer(app.get_footer());
  CalibrationOptions options;
  std::string judges, run, model, out;
  bool as_json = false, quiet = false;
  calibrate_app
      ->add_option(
          "--input", options.labelled,
          "labelled texts, a JSON object a line with \"text\" and \"label\" (true, false, 1 or 0); lines of the "
          "run's samples.jsonl with a label")
      ->type_name("FILE")
      ->required();
  calibrate_app->add_option("--score", options.score, "a score of single texts (docs/scores.md), or judge:NAME")
      ->required();
  calibrate_app
      ->add_option("--judges", judges, "a JSON file {NAME: {\"command\": [...]}}, as an experiment's \"judges\"")
      ->type_name("FILE");
  calibrate_app->add_option("--run", run, "a finished run whose rates are to be corrected")->type_name("DIR");
  calibrate_app->add_option("--model", model, "its chat template prints the messages that a judge sees, without --run");
  calibrate_app->add_option("--threshold", options.threshold, "a score of at least this says yes")
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  calibrate_app->add_option("--resamples", options.resamples, "replicates of the bootstrap, for kappa's interval")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  calibrate_app->add_option("--seed", options.seed, "of the bootstrap")->capture_default_str();
  calibrate_app->add_option("--out", out, "a directory for confusion.csv and rates.csv")->type_name("DIR");
  calibrate_app->add_flag("--json", as_json, "machine output");
  calibrate_app->add_flag("--quiet", quiet, "no messages");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (!run.empty() && !model.empty())
    throw UsageError("--model", "expected none beside --run, which has its own, found " + model);
  options.run = run;
  if (!judges.empty()) options.judges = read_judges(judges);
  options.shown_text = run.empty() ? shown_text_of_model(model) : shown_text_of_run(run);
  const Calibration found = calibrate(options);
  if (!out.empty()) write_calibration(out, found);
  write_stdout(as_json ? json::dump(calibration_json(found)) + "\n" : calibration_text(found));
  if (!out.empty() && !as_json && !quiet) std::fprintf(stderr, "tables in %s\n", out.c_str());
  return 0;
}

}  // namespace signalbox::tools
