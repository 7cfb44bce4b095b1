// signalbox train distill: a mixture of experts made a dense model (docs/distillation.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>

#include "tools/signalbox/distill_curve.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/optimiser_flags.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/shown_quality.h"
#include "tools/signalbox/split_training.h"
#include "tools/signalbox/teacher_flags.h"
#include "tools/signalbox/train.h"
#include "train/distillation.h"
#include "train/refit.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

struct DistillFlags {
  CommonOptions common;
  OptimiserFlags optimiser;
  DistillationSettings settings;
  std::string data, stop, report, domain, out, score = keep_score_names[static_cast<size_t>(KeepScore::acp)];
  std::vector<int64_t> keep;
  int64_t steps = 0, block_steps = 0;
  double block_lr = 1e-3;
};

CLI::App* add_distill_flags(CLI::App& app, DistillFlags& flags) {
  DistillationSettings& s = flags.settings;
  CLI::App* distill = app.add_subcommand("distill", "a mixture of experts made a dense model (docs/distillation.md)");
  distill->footer(
      "Example:\n  head -40 tools/builtin/heldout/text.jsonl > /tmp/text.jsonl\n  signalbox train distill builtin "
      "--data /tmp/text.jsonl --keep 4 --steps 0 --out /tmp/dense");
  distill
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_device_options(*distill, flags.common);
  add_adapter_option(*distill, flags.common);
  distill->add_option("--data", flags.data, "records to choose experts and to learn by; - = standard input")
      ->type_name("FILE")
      ->required();
  distill
      ->add_option("--stop", flags.stop,
                   "records by which training ends, and which weights are kept (default: a quarter of --data)")
      ->type_name("FILE");
  distill->add_option("--eval", flags.report, "records that the student is judged by (default: a quarter of --data)")
      ->type_name("FILE");
  distill->add_option("--domain", flags.domain, "a specialist: only the records of this \"domain\"")->type_name("NAME");
  distill->add_option("--out", flags.out, "directory of the dense checkpoint, quality.csv and logs")
      ->type_name("MODELDIR")
      ->required();
  distill
      ->add_option("--keep", flags.keep,
                   "experts of each layer that stay; of several sizes with commas each is a checkpoint, in "
                   "MODELDIR/keep-K, and MODELDIR has their curve")
      ->check(in_range(int64_t{1}, int64_t{1} << 20))
      ->type_name("K")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->required();
  distill->add_option("--score", flags.score, "which stay: sf | cp | acp | do-acp | reap")
      ->check(one_of({std::begin(keep_score_names), std::end(keep_score_names)}))
      ->capture_default_str();
  distill->add_option("--ridge", s.ridge, "of the closed form: lambda as a share of the mean square of activations")
      ->check(in_range(0.0, 1e9))
      ->capture_default_str();
  distill->add_option("--output-sample", s.sample, "tokens on which do-acp compares the outputs of all experts")
      ->check(in_range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  distill->add_option("--random", s.random, "blocks of random experts to compare with")
      ->check(in_range(int64_t{0}, int64_t{1000}))
      ->capture_default_str();
  distill
      ->add_option("--block-steps", flags.block_steps, "steps in which each block learns to answer as its layer does")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str();
  distill->add_option("--block-lr", flags.block_lr, "learning rate of these steps")
      ->check(in_range(0.0, 1e6))
      ->capture_default_str();
  distill->add_option("--steps", flags.steps, "steps that learn from the original's logits; 0: the closed form is all")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N")
      ->required();
  add_teacher_loss_options(*distill, s.teacher);
  distill
      ->add_option("--stop-loss", flags.optimiser.settings.stop_loss, "loss of the stop split at which these steps end")
      ->check(in_range(0.0, 1e9));
  distill->add_option("--weights", s.weights, "weights of the student that these steps change, globs with commas")
      ->type_name("GLOBS")
      ->capture_default_str();
  flags.optimiser.settings.lr = 1e-4;
  add_optimiser_options(*distill, flags.optimiser);
  add_encoding_options(*distill, flags.common);
  return distill;
}

void check_flags(const CLI::App& app, DistillFlags& flags) {
  for (size_t i = 0; i < std::size(keep_score_names); ++i)
    if (flags.score == keep_score_names[i]) flags.settings.score = static_cast<KeepScore>(i);
  const auto needs = [&](std::initializer_list<const char*> names, bool there, const char* what) {
    for (const char* name : names)
      if (!there && app.count(name) > 0)
        throw UsageError(name, std::string("expected ") + what + " beside it, found none");
  };
  needs({"--block-lr"}, flags.block_steps > 0, "--block-steps above 0");
  needs({"--lr", "--temperature", "--kl-weight", "--target-weight", "--stop-loss", "--weights"}, flags.steps > 0,
        "--steps above 0");
  needs({"--batch", "--schedule", "--warmup", "--final-lr", "--decay", "--clip", "--save-every"},
        flags.steps + flags.block_steps > 0, "--steps or --block-steps above 0");
  needs({"--output-sample"}, flags.settings.score == KeepScore::do_acp, "--score do-acp");
  std::sort(flags.keep.begin(), flags.keep.end());
  if (std::adjacent_find(flags.keep.begin(), flags.keep.end()) != flags.keep.end())
    throw UsageError("--keep", "expected different sizes, found one twice");
  check_teacher_loss(flags.settings.teacher);
  flags.settings.logits = training_settings(flags.optimiser, flags.common, flags.steps);
  flags.settings.blocks = training_settings(flags.optimiser, flags.common, flags.block_steps);
  flags.settings.blocks.lr = flags.block_lr;
  flags.settings.blocks.stop_loss.reset();
  if (flags.common.device == "auto") flags.common.device = "cpu";
}

// Of the student of one size, or of the curve of several, whose `keep` is a list.
Manifest manifest_of(const DistillFlags& flags, const Session& session, const Splits& splits, json::Value keep,
                     const char* schema, int argc, char** argv) {
  const DistillationSettings& s = flags.settings;
  RecordingInputs inputs;
  inputs.work = json::Value::object()
                    .set("training", "distill")
                    .set("keep", std::move(keep))
                    .set("score", flags.score)
                    .set("ridge", s.ridge)
                    .set("output_sample", s.sample)
                    .set("random", s.random)
                    .set("domain", flags.domain)
                    .set("block_steps", flags.block_steps)
                    .set("block_lr", flags.block_lr)
                    .set("steps", flags.steps)
                    .set("temperature", s.teacher.temperature)
                    .set("kl_weight", s.teacher.weight)
                    .set("target_weight", s.teacher.target)
                    .set("stop_loss", s.logits.stop_loss ? json::Value(*s.logits.stop_loss) : json::Value())
                    .set("weights_trained", s.weights)
                    .set("end_token", s.end_token ? json::Value(int64_t{*s.end_token}) : json::Value())
                    .set("stop", records_hash(splits.stop))
                    .set("eval", records_hash(splits.report))
                    .set("eval_other", splits.other.empty() ? json::Value() : json::Value(records_hash(splits.other)));
  put_settings(inputs.work, flags.optimiser);
  Manifest manifest =
      manifest_of_records(flags.common, session, session, splits.calibrate, std::move(inputs), schema, argc, argv);
  json::Value counts = json::Value::object();
  counts.set("calibrate", static_cast<int64_t>(splits.calibrate.size()))
      .set("stop", static_cast<int64_t>(splits.stop.size()))
      .set("report", static_cast<int64_t>(splits.report.size()))
      .set("other", static_cast<int64_t>(splits.other.size()));
  manifest.info.set("records", std::move(counts));
  return manifest;
}

int run_distill(const CLI::App& app, DistillFlags& flags, int argc, char** argv) {
  check_flags(app, flags);
  const CommonOptions& options = flags.common;
  SplitFiles files = read_split_files(flags.data, flags.stop, flags.report);
  files.domain = flags.domain;
  Distillation work;
  work.splits = split_records(std::move(files), options.seed);
  WritableModel opened = open_writable(options);
  Session& session = opened.session;
  const loaders::Rewrite& rewrite = opened.rewrite;
  if (!session.backend->shares_host_memory())
    throw Error("--device", "expected cpu (nothing trains elsewhere yet), found " + session.backend->name());
  if (session.model.moe_layers().empty()) throw Error(session.path, "expected a model with experts, found a dense one");
  const bool several = flags.keep.size() > 1;
  for (const int64_t keep : flags.keep) block_width(session.model, keep);  // throws before there is a directory
  keep_date_of(flags.out, options, session, work.splits.calibrate,
               several ? distill_curve_schema : distillation_schema);
  flags.settings.end_token =
      end_token_of(session, flags.optimiser, {&work.splits.calibrate, &work.splits.stop, &work.splits.report});
  work.session = &session;
  work.rewrite = &rewrite;
  work.open = cpu_open_options(options);
  work.settings = flags.settings;
  if (!options.quiet && !session.unknown_tensors.empty())
    std::fprintf(stderr, "%zu stored tensors are not of the model and will not be written (%s, ...)\n",
                 session.unknown_tensors.size(), session.unknown_tensors.front().c_str());
  catch_signals();
  work.interrupted = &interrupted;
  StageProgress progress(options.quiet);
  tell_stages(work, progress, options.quiet);
  const auto distil_to = [&](int64_t keep, const fs::path& dir) {
    work.dir = dir;
    work.settings.keep = keep;
    work.manifest = manifest_of(flags, session, work.splits, keep, distillation_schema, argc, argv);
    return distil(work);
  };
  TrainingEnd ended;
  if (several) {
    json::Value sizes = json::Value::array();
    for (const int64_t keep : flags.keep) sizes.push_back(keep);
    DistillCurve curve;
    curve.dir = flags.out;
    curve.keep = flags.keep;
    curve.manifest = manifest_of(flags, session, work.splits, std::move(sizes), distill_curve_schema, argc, argv);
    curve.distil = [&](int64_t keep, const fs::path& dir) {
      work.on_note("keep " + std::to_string(keep));
      return distil_to(keep, dir);
    };
    ended = distil_curve(curve);
  } else {
    ended = distil_to(flags.keep.front(), flags.out);
  }
  progress.end();
  if (const int code = tell_training_end(ended, options, flags.out); code != 0) return code;
  if (several) {
    show_curve(flags.out, options.json);
  } else {
    show_quality(flags.out, options.json);
  }
  return 0;
}

}  // namespace

Subcommand add_train_distill(CLI::App& app) {
  auto flags = std::make_shared<DistillFlags>();
  CLI::App* added = add_distill_flags(app, *flags);
  return {added, [flags, added](int argc, char** argv) { return run_distill(*added, *flags, argc, argv); }};
}

}  // namespace signalbox::tools
