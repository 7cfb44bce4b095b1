// signalbox causal commutativity: are both orders of a question the same to a model? (docs/commutativity.md)
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/text_table.h"
#include "eval/causal/commutativity.h"
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

struct CommutativityFlags {
  CommonOptions common;
  std::string input;
  int64_t resamples = default_resamples;
};

CLI::App* add_commutativity_flags(CLI::App& app, CommutativityFlags& flags) {
  CLI::App* command = app.add_subcommand(
      "commutativity", "are both orders of a question, a*b and b*a, the same to a model? (docs/commutativity.md)");
  command->footer("Example:\n  signalbox causal commutativity builtin --out /tmp/commutativity");
  command
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*command, flags.common);
  add_cell_options(*command, flags.common);
  command
      ->add_option("--input", flags.input,
                   "records with target and pair, two of each pair, instead of products; - = standard input")
      ->type_name("FILE");
  command->add_option("--resamples", flags.resamples, "replicates of intervals and of the null")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  command->add_option("--out", flags.common.trace, "directory of similarity.csv, swaps.csv and pairs.csv")
      ->type_name("DIR")
      ->required();
  return command;
}

// A line for each layer: how often a pair is more alike than a control, of each kind.
std::string likeness_text(const Commutativity& study, int width) {
  std::vector<TextTable::Column> columns = {{"layer", true, true}};
  std::vector<std::pair<std::string, std::string>> kinds;  // measure, control
  for (const SimilarityRow& row : study.similarity)
    if (std::find(kinds.begin(), kinds.end(), std::pair(row.measure, row.control)) == kinds.end())
      kinds.emplace_back(row.measure, row.control);
  for (const auto& [measure, control] : kinds) columns.push_back({measure + "/" + control});
  TextTable table(columns);
  for (int32_t l = 0; l <= study.similarity.back().layer; ++l) {
    std::vector<std::string> cells = {std::to_string(l)};
    for (const auto& of : kinds) {
      std::string cell = "-";
      for (const SimilarityRow& row : study.similarity)
        if (row.layer == l && row.measure == of.first && row.control == of.second)
          cell = format_value(row.auc.mean + 0.5, 2) + (row.auc.q < 0.05 ? "*" : " ");
      cells.push_back(cell);
    }
    table.add(std::move(cells));
  }
  return table.text(width);
}

// A line for each layer: what the stream of each kind of donor does.
std::string swaps_text(const Commutativity& study, int width) {
  std::vector<TextTable::Column> columns = {{"layer", true, true}};
  std::vector<std::string> donors;
  for (const SwapRow& row : study.swaps)
    if (std::find(donors.begin(), donors.end(), row.donor) == donors.end()) donors.push_back(row.donor);
  for (const std::string& donor : donors) columns.push_back({donor});
  TextTable table(columns);
  for (int32_t l = 0; l <= study.swaps.back().layer; ++l) {
    std::vector<std::string> cells = {std::to_string(l)};
    for (const std::string& donor : donors)
      for (const SwapRow& row : study.swaps)
        if (row.layer == l && row.donor == donor)
          cells.push_back(format_value(row.effect.mean, 2) + (row.effect.q < 0.05 ? "*" : " "));
    table.add(std::move(cells));
  }
  return table.text(width);
}

int run_commutativity(CommutativityFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  require_own_directory(options.trace, kept_work_names(commutativity_files()), "a study of commutativity");
  std::vector<Record> records = flags.input.empty() ? product_records() : read_records(flags.input);
  require_commuted_pairs(records);
  Session session = open_session(options);
  session.label = session.path;
  keep_date(options, session, records, commutativity_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  CommutativityRequest request;
  request.resamples = {flags.resamples, options.seed, options.threads};
  request.step_tokens = options.chunk;
  request.step_cells = options.batch;
  JobsOfCommand work;
  work.schema = commutativity_schema;
  json::Value settings = json::Value::object().set("resamples", flags.resamples);
  if (!session.backend->invariant()) settings.set("chunk", options.chunk).set("batch", options.batch);
  work.work.set("commutativity", std::move(settings));
  KeptWork kept(options.trace, manifest_of_work(options, session, run, work, argc, argv), commutativity_files());
  request.kept = {kept.stage("commutativity"), tell_kept(options)};
  catch_signals();
  request.interrupted = &interrupted;
  Progress progress("exchanging streams", commutativity_runs(session, run.records), options.quiet, "runs");
  request.on_progress = [&](int64_t runs) { progress.update(runs); };
  const Commutativity study = study_commutativity(session, run.records, run.made, request);
  progress.done();
  if (study.interrupted) {
    kept.interrupt();
    return tell_interrupted(options);
  }
  kept.finish(
      [&](const std::filesystem::path& dir) { write_commutativity(dir, study, request, session, flags.input); });
  if (options.json) {
    for (const SwapRow& row : study.swaps)
      write_stdout(json::dump(json::Value::object()
                                  .set("layer", int64_t{row.layer})
                                  .set("donor", row.donor)
                                  .set("pairs", row.pairs)
                                  .set("logprob", row.logprob)
                                  .set("effect", row.effect.mean)
                                  .set("changed", row.changed)) +
                   "\n");
    return 0;
  }
  const int width = terminal_width(1);
  double logprob = 0;
  for (const SwapRow& row : study.swaps)
    if (row.donor == "commuted") logprob = row.logprob;
  const auto paragraph = [&](const std::string& text) { return (width > 0 ? wrapped(text, width) : text) + "\n\n"; };
  write_stdout(
      paragraph(std::to_string(study.commuted) + " pairs with one answer, " + std::to_string(study.other_order) +
                " whose order matters. Mean log p of an answer: " + format_value(logprob, 2) + ". * q < 0.05.") +
      paragraph("How often the two orders are more alike than a control (AUC), by stream and by routes:") +
      likeness_text(study, width) + "\n" +
      paragraph("Change of the answer's log p when the stream at its position is that of the other order, or of a "
                "control:") +
      swaps_text(study, width) + "\nTables: " + options.trace + "\n");
  return 0;
}

}  // namespace

Subcommand add_causal_commutativity(CLI::App& app) {
  auto flags = std::make_shared<CommutativityFlags>();
  CLI::App* added = add_commutativity_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_commutativity(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
