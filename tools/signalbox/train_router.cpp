// signalbox train router: routers of a compressed model learn from the original (docs/distillation.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/optimiser_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/shown_quality.h"
#include "tools/signalbox/split_training.h"
#include "tools/signalbox/teacher_flags.h"
#include "tools/signalbox/train.h"
#include "train/router_repair.h"

namespace signalbox::tools {

using namespace train;

namespace {

struct RouterFlags {
  CommonOptions common;
  OptimiserFlags optimiser;
  Teacher teacher;
  std::string original, data, stop, report, out;
  int64_t steps = 0;
};

CLI::App* add_router_flags(CLI::App& app, RouterFlags& flags) {
  CLI::App* router =
      app.add_subcommand("router", "routers of a compressed model learn from the original (docs/distillation.md)");
  router->footer(
      "Example:\n  head -20 tools/builtin/heldout/text.jsonl > /tmp/text.jsonl\n  signalbox compress builtin --data "
      "/tmp/text.jsonl --keep 8 --random 0 --out /tmp/compressed --write /tmp/small\n  signalbox train router "
      "/tmp/small --teacher builtin --data /tmp/text.jsonl --steps 3 --out /tmp/repaired");
  router->add_option("MODEL", flags.common.model, "the compressed model: a directory, or org/name[@revision]")
      ->required();
  add_device_options(*router, flags.common);
  refuse_adapter_option(*router, "two checkpoints, which of them an adapter would be of is open, found one");
  router->add_option("--teacher", flags.original, "the original that it was made of")->type_name("MODEL")->required();
  router->add_option("--data", flags.data, "records to learn by; - = standard input")->type_name("FILE")->required();
  router
      ->add_option("--stop", flags.stop,
                   "records by which training ends, and which routers are kept (default: a quarter of --data)")
      ->type_name("FILE");
  router->add_option("--eval", flags.report, "records that both are judged by (default: a quarter of --data)")
      ->type_name("FILE");
  router->add_option("--out", flags.out, "directory of the repaired checkpoint, quality.csv and log.csv")
      ->type_name("MODELDIR")
      ->required();
  router->add_option("--steps", flags.steps, "steps of the optimiser")
      ->check(in_range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->required();
  add_teacher_temperature(*router, flags.teacher);
  router->add_option("--stop-loss", flags.optimiser.settings.stop_loss, "loss of the stop split at which training ends")
      ->check(in_range(0.0, 1e9));
  flags.optimiser.settings.lr = 1e-3;
  add_optimiser_options(*router, flags.optimiser);
  add_encoding_options(*router, flags.common);
  return router;
}

Manifest manifest_of(const RouterFlags& flags, const Session& original, const Session& student, const Splits& splits,
                     std::optional<int32_t> end, int argc, char** argv) {
  RecordingInputs inputs;
  inputs.work =
      json::Value::object()
          .set("training", "router")
          .set("teacher", model_hashes(model_facts(original, flags.common.quiet)))
          .set("steps", flags.steps)
          .set("temperature", flags.teacher.temperature)
          .set("stop_loss",
               flags.optimiser.settings.stop_loss ? json::Value(*flags.optimiser.settings.stop_loss) : json::Value())
          .set("end_token", end ? json::Value(int64_t{*end}) : json::Value())
          .set("stop", records_hash(splits.stop))
          .set("eval", records_hash(splits.report));
  put_settings(inputs.work, flags.optimiser);
  return manifest_of_records(flags.common, student, original, splits.calibrate, std::move(inputs), router_schema, argc,
                             argv);
}

int run_router(RouterFlags& flags, int argc, char** argv) {
  RouterRepair work;
  work.settings = training_settings(flags.optimiser, flags.common, flags.steps);
  if (flags.common.device == "auto") flags.common.device = "cpu";
  const CommonOptions& options = flags.common;
  SplitFiles files = read_split_files(flags.data, flags.stop, flags.report);
  work.splits = split_records(std::move(files), options.seed);
  CommonOptions of_original = options;
  of_original.model = flags.original;
  Session original = open_session(of_original);
  if (!original.backend->shares_host_memory())
    throw Error("--device", "expected cpu (nothing trains elsewhere yet), found " + original.backend->name());
  keep_date_of(flags.out, options, original, work.splits.calibrate, router_schema);
  work.end_token =
      end_token_of(original, flags.optimiser, {&work.splits.calibrate, &work.splits.stop, &work.splits.report});
  const loaders::Rewrite rewrite(resolve_model(flags.original, builtin_files()).files, original.family, original.model);
  work.manifest = manifest_of(flags, original, open_session(options), work.splits, work.end_token, argc, argv);
  work.original = &original;
  work.original_files = &rewrite;
  work.student = options.model;
  work.open = cpu_open_options(options);
  work.open.builtin = builtin_files();
  work.dir = flags.out;
  work.teacher = flags.teacher;
  catch_signals();
  work.interrupted = &interrupted;
  StageProgress progress(options.quiet);
  tell_stages(work, progress, options.quiet);
  const TrainingEnd ended = repair_routers(work);
  progress.end();
  if (const int code = tell_training_end(ended, options, flags.out); code != 0) return code;
  show_quality(flags.out, options.json);
  return 0;
}

}  // namespace

Subcommand add_train_router(CLI::App& app) {
  auto flags = std::make_shared<RouterFlags>();
  CLI::App* added = add_router_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_router(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
