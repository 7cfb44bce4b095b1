// signalbox train lens: the translators of a tuned lens (docs/lens.md).
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/csv.h"
#include "base/files.h"
#include "base/text_table.h"
#include "eval/findings/format.h"
#include "eval/routing/recording_identity.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/optimiser_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/train.h"
#include "tools/terminal/output.h"
#include "tools/terminal/stage_progress.h"
#include "tools/terminal/width.h"
#include "train/tuned_lens.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

constexpr const char *lens_file = "lens.safetensors", *layers_file = "layers.csv";

struct LensTrainingFlags {
  CommonOptions common;
  OptimiserFlags optimiser;
  std::string data, held_out, out;
  int64_t steps = 0;
};

CLI::App* add_lens_flags(CLI::App& app, LensTrainingFlags& flags) {
  CLI::App* lens = app.add_subcommand("lens", "a tuned lens: an affine translator of each layer (docs/lens.md)");
  lens->footer(
      "Example:\n  head -20 tools/builtin/heldout/text.jsonl > /tmp/text.jsonl\n  signalbox train lens builtin --data "
      "/tmp/text.jsonl --steps 5 --out /tmp/tuned\n  signalbox lens builtin --prompt \"The capital of\" --tuned "
      "/tmp/tuned/lens.safetensors");
  lens->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_device_options(*lens, flags.common);
  add_adapter_option(*lens, flags.common);
  lens->add_option("--data", flags.data, "records to learn by; - = standard input")->type_name("FILE")->required();
  lens->add_option("--eval", flags.held_out, "records held out: layers.csv has the divergence of both lenses on them")
      ->type_name("FILE");
  lens->add_option("--out", flags.out, "directory of lens.safetensors, log.csv, eval.csv and layers.csv")
      ->type_name("DIR")
      ->required();
  lens->add_option("--steps", flags.steps, "steps of the optimiser")
      ->check(in_range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->required();
  flags.optimiser.settings.lr = 1e-3;
  add_optimiser_options(*lens, flags.optimiser);
  add_encoding_options(*lens, flags.common);
  return lens;
}

Manifest manifest_of(const LensTrainingFlags& flags, const Session& session, const std::vector<Record>& data,
                     const std::vector<Record>& held_out, std::optional<int32_t> end, int argc, char** argv) {
  RecordingInputs inputs;
  inputs.work = json::Value::object()
                    .set("training", "lens")
                    .set("steps", flags.steps)
                    .set("end_token", end ? json::Value(int64_t{*end}) : json::Value())
                    .set("eval", held_out.empty() ? json::Value() : json::Value(records_hash(held_out)));
  put_settings(inputs.work, flags.optimiser);
  return manifest_of_records(flags.common, session, session, data, std::move(inputs), training_schema, argc, argv);
}

void print_lens(const LensTrainingFlags& flags) {
  const fs::path dir = flags.out;
  const CsvTable log = CsvTable::read(dir / train::log_file);
  const auto loss = [&](size_t row) { return log.number(row, log.column("loss")); };
  if (flags.common.json) {
    json::Value line = json::Value::object();
    line.set("lens", (dir / lens_file).string())
        .set("steps", log.integer(log.n_rows() - 1, log.column("step")))
        .set("first_loss", loss(0))
        .set("last_loss", loss(log.n_rows() - 1));
    write_stdout(json::dump(line) + "\n");
    return;
  }
  char text[160];
  std::snprintf(text, sizeof text, "KL, mean over layers: %.4f in step 1, %.4f in step %ld\n", loss(0),
                loss(log.n_rows() - 1), static_cast<long>(log.integer(log.n_rows() - 1, log.column("step"))));
  write_stdout(text);
  if (fs::exists(dir / layers_file)) {
    const CsvTable csv = CsvTable::read(dir / layers_file);
    TextTable table({{"layer"}, {"logit lens, KL"}, {"tuned lens, KL"}});
    for (size_t row = 0; row < csv.n_rows(); ++row)
      table.add({csv.text(row, 0), format_value(csv.number(row, csv.column("logit_lens")), 4),
                 format_value(csv.number(row, csv.column("tuned_lens")), 4)});
    write_stdout("held out:\n" + table.text(terminal_width(STDOUT_FILENO)));
  }
  write_stdout("the lens: " + (dir / lens_file).string() + "\n");
}

int run_lens_training(LensTrainingFlags& flags, int argc, char** argv) {
  flags.optimiser.settings = training_settings(flags.optimiser, flags.common, flags.steps);
  if (flags.common.device == "auto") flags.common.device = "cpu";
  const CommonOptions& options = flags.common;
  const std::vector<Record> data = read_records(flags.data);
  const std::vector<Record> held_out = flags.held_out.empty() ? std::vector<Record>() : read_records(flags.held_out);
  for (const auto& [file, records] : {std::pair(&flags.data, &data), std::pair(&flags.held_out, &held_out)})
    if (!file->empty() && records->empty()) throw Error(*file, "expected at least one record, found none");
  Session session = open_session(options);
  keep_date_of(flags.out, options, session, data, training_schema);
  const std::optional<int32_t> end = end_token_of(session, flags.optimiser, {&data, &held_out});
  TunedLens lens(*session.backend, session.model, flags.optimiser.settings.threads);
  LensObjective objective(lens, session.weights);
  Training training;
  training.session = &session;
  training.trained = &lens;
  training.objective = &objective;
  training.data = make_examples(session, data, end);
  training.held_out = make_examples(session, held_out, end);
  training.dir = flags.out;
  training.settings = flags.optimiser.settings;
  training.manifest = manifest_of(flags, session, data, held_out, end, argc, argv);
  training.result = lens_file;
  training.write_result = [&] {
    if (!training.held_out.empty()) {
      Forward forward = session.forward(0);
      std::vector<const Example*> examples;
      for (const Example& example : training.held_out) examples.push_back(&example);
      const std::vector<double> plain = objective.by_layer(forward, examples, training.settings.groups, false),
                                tuned = objective.by_layer(forward, examples, training.settings.groups, true);
      CsvWriter csv({"layer", "logit_lens", "tuned_lens"});
      for (size_t l = 0; l < plain.size(); ++l)
        csv.cell(static_cast<int64_t>(l)).cell(plain[l]).cell(tuned[l]).end_row();
      write_file_atomically(training.dir / layers_file, csv.text());
    }
    lens.write(training.dir / lens_file, tuned_for(session, options.quiet));
  };
  catch_signals();
  training.interrupted = &interrupted;
  StageProgress progress(options.quiet);
  const int64_t total = tokens_of_steps(training.data, training.settings, flags.steps);
  training.on_kept = [&](int64_t step, int64_t) {
    if (!options.quiet)
      std::fprintf(stderr, "%s: goes on behind step %ld\n", flags.out.c_str(), static_cast<long>(step));
  };
  training.on_step = [&](int64_t, int64_t tokens, double) { progress.show("training", tokens, total, "tokens"); };
  const TrainingEnd ended = train::train(training);
  progress.end();
  if (const int code = tell_training_end(ended, options, flags.out); code != 0) return code;
  print_lens(flags);
  return 0;
}

}  // namespace

Subcommand add_train_lens(CLI::App& app) {
  auto flags = std::make_shared<LensTrainingFlags>();
  CLI::App* added = add_lens_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_lens_training(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
