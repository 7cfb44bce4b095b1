// signalbox causal format: does white space change what a model answers, and where? (docs/format-sensitivity.md)
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/text_table.h"
#include "eval/causal/format_sensitivity.h"
#include "eval/findings/format.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/causal.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/kept.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct FormatFlags {
  CommonOptions common;
  std::string input;
  int64_t resamples = default_resamples;
};

CLI::App* add_format_flags(CLI::App& app, FormatFlags& flags) {
  CLI::App* command = app.add_subcommand(
      "format", "does a blank more change what a model answers, and in which layer? (docs/format-sensitivity.md)");
  command->footer("Example:\n  signalbox causal format builtin --out /tmp/format");
  command
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*command, flags.common);
  add_cell_options(*command, flags.common);
  command
      ->add_option("--input", flags.input,
                   "records with target: prompts to make formats of, or formats by pair and condition (one is base), "
                   "instead of products; - = standard input")
      ->type_name("FILE");
  command->add_option("--resamples", flags.resamples, "replicates of intervals and of the null")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  command->add_option("--out", flags.common.trace, "directory of behaviour.csv, states.csv and patches.csv")
      ->type_name("DIR")
      ->required();
  return command;
}

std::string marked(const PairedEstimate& of) { return format_value(of.mean, 2) + (of.q < 0.05 ? "*" : " "); }
std::string percent(double x) { return format_value(100 * x, 0) + " %"; }

std::string study_text(const FormatStudy& study, int width) {
  TextTable behaviour({{"format", false, true}, {"log p"}, {"change"}, {"to others"}, {"other answers"}, {"right"}});
  behaviour.add({base_format, format_value(study.behaviour.front().base_logprob, 2), "", "", "",
                 percent(study.behaviour.front().base_right)});
  for (const FormatBehaviour& row : study.behaviour)
    behaviour.add({row.variant, format_value(row.logprob, 2), marked(row.delta), marked(row.over_others),
                   percent(row.flips), percent(row.right)});
  std::vector<TextTable::Column> columns = {{"layer", true, true}};
  for (const FormatBehaviour& row : study.behaviour) columns.push_back({row.variant});
  TextTable layers(columns);
  for (int32_t l = 0; l <= study.patches.back().layer; ++l) {
    std::vector<std::string> cells = {std::to_string(l)};
    for (const FormatBehaviour& row : study.behaviour)
      for (const FormatPatch& patch : study.patches)
        if (patch.layer == l && patch.variant == row.variant && patch.place == "answer" &&
            patch.direction == "denoising")
          cells.push_back(marked(patch.effect) + (std::isnan(patch.share.mean) ? "" : " " + percent(patch.share.mean)));
    layers.add(std::move(cells));
  }
  const auto paragraph = [&](const std::string& text) { return (width > 0 ? wrapped(text, width) : text) + "\n"; };
  return paragraph(std::to_string(study.questions) + " questions. Log p of the answer in each format; * q < 0.05.") +
         "\n" + behaviour.text(width) + "\n" +
         paragraph(
             "Change of the answer's log p when the stream at its position is the base's behind that layer, and "
             "which share of the base's lead that brings back:") +
         "\n" + layers.text(width);
}

int run_format(FormatFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  require_own_directory(options.trace, kept_work_names(format_files()), "a study of format sensitivity");
  std::vector<Record> records = formatted_records(flags.input.empty() ? format_questions() : read_records(flags.input));
  Session session = open_session(options);
  session.label = session.path;
  keep_date(options, session, records, format_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  FormatRequest request;
  request.resamples = {flags.resamples, options.seed, options.threads};
  request.step_tokens = options.chunk;
  request.step_cells = options.batch;
  JobsOfCommand work;
  work.schema = format_schema;
  json::Value settings = json::Value::object().set("resamples", flags.resamples);
  if (!session.backend->invariant()) settings.set("chunk", options.chunk).set("batch", options.batch);
  work.work.set("format", std::move(settings));
  KeptWork kept(options.trace, manifest_of_work(options, session, run, work, argc, argv), format_files());
  request.kept = {kept.stage("format"), tell_kept(options)};
  catch_signals();
  request.interrupted = &interrupted;
  Progress progress("comparing formats", format_runs(session, run.records), options.quiet, "runs");
  request.on_progress = [&](int64_t runs) { progress.update(runs); };
  const FormatStudy study = study_format(session, run.records, run.made, request);
  progress.done();
  if (study.interrupted) {
    kept.interrupt();
    return tell_interrupted(options);
  }
  kept.finish([&](const std::filesystem::path& dir) { write_format(dir, study, request, session, flags.input); });
  if (options.json) {
    for (const FormatBehaviour& row : study.behaviour)
      write_stdout(json::dump(json::Value::object()
                                  .set("variant", row.variant)
                                  .set("n", row.n)
                                  .set("base_logprob", row.base_logprob)
                                  .set("logprob", row.logprob)
                                  .set("delta", row.delta.mean)
                                  .set("flips", row.flips)) +
                   "\n");
    return 0;
  }
  write_stdout(study_text(study, terminal_width(1)) + "\nTables: " + options.trace + "\n");
  return 0;
}

}  // namespace

Subcommand add_causal_format(CLI::App& app) {
  auto flags = std::make_shared<FormatFlags>();
  CLI::App* added = add_format_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_format(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
