// signalbox compress: which experts a model can do without, or can share, and a checkpoint with those that stay.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>
#include <thread>

#include "base/display_width.h"
#include "eval/compress/study.h"
#include "eval/routing/recording_identity.h"
#include "eval/store/staged_files.h"
#include "loaders/model/load.h"
#include "loaders/model/rewrite.h"
#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/stage_progress.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

struct CompressOptions {
  CommonOptions common;
  StudyOptions study;
  std::string data, evaluation, out, write, method = "prune", score = score_names[0];
  bool no_protect = false;
};

void add_options(CLI::App& app, CompressOptions& o) {
  add_run_options(app, o.common);
  app.add_option("--data", o.data, "records that the experts are measured on; - = standard input")
      ->type_name("FILE")
      ->required();
  app.add_option("--eval", o.evaluation, "records that plans are judged by (default: half of --data, drawn by --seed)")
      ->type_name("FILE");
  app.add_option("--out", o.out, "directory of the results")->type_name("DIR")->required();
  app.add_option("--keep", o.study.keep,
                 "how many experts each layer keeps, from those active up to all; several sizes with commas")
      ->type_name("N")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--share", o.study.share, "instead: the share of them that stays, rounded up (0.5)")
      ->type_name("S")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(in_range(0.0, 1.0));
  app.add_option("--method", o.method, "prune | merge")->check(one_of({"prune", "merge"}))->capture_default_str();
  app.add_option("--score", o.score, "which stay: reap | frequency | output_norm | ablation")
      ->check(one_of({std::begin(score_names), std::end(score_names)}))
      ->capture_default_str();
  app.add_option("--write", o.write, "write the compressed checkpoint into this new directory")->type_name("MODELDIR");
  app.add_option("--pairs", o.study.pairs,
                 "pairs of a layer whose weights are compared (default: what 10^13 products allow)")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N");
  app.add_option("--output-sample", o.study.output_sample, "tokens on which the outputs of all experts are compared")
      ->check(in_range(0, 1 << 24))
      ->capture_default_str();
  app.add_option("--ablation", o.study.ablation, "ban each expert, one at a time, on so many of the records")
      ->check(in_range(1, 1 << 30))
      ->type_name("N");
  app.add_option("--random", o.study.random, "random plans of each size to compare with")
      ->check(in_range(0, 1000))
      ->capture_default_str();
  app.add_flag("--no-protect", o.no_protect, "super experts may go too");
}

void check_options(CompressOptions& o) {
  if (!o.study.keep.empty() && !o.study.share.empty())
    throw UsageError("--keep, --share", "expected one of the two, found both");
  if (o.study.keep.empty() && o.study.share.empty()) o.study.share = {0.5};
  for (const double share : o.study.share)
    if (share <= 0) throw UsageError("--share", "expected a number above 0, found 0");
  const size_t sizes = o.study.keep.size() + o.study.share.size();
  if (!o.write.empty() && sizes > 1)
    throw UsageError("--write", "expected one size beside it, found " + std::to_string(sizes));
  std::error_code code;
  if (!o.write.empty() && fs::exists(fs::symlink_status(o.write, code)))
    throw Error(o.write, "expected a new directory for --write, found that it exists");
  o.study.merges = o.method == "merge";
  for (size_t i = 0; i < std::size(score_names); ++i)
    if (o.score == score_names[i]) o.study.score = static_cast<KeepBy>(i);
  if (o.study.score == KeepBy::ablation && o.study.ablation == 0)
    throw UsageError("--score ablation", "expected --ablation N beside it, found none");
  o.study.protect = !o.no_protect;
  o.study.seed = o.common.seed;
  o.study.threads =
      o.common.threads > 0 ? o.common.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  o.study.isa = o.common.isa;
}

json::Value about(const CompressOptions& o, const Session& session, int argc, char** argv) {
  json::Value out = json::Value::object(), arguments = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  out.set("schema", "signalbox.compress/1").set("signalbox_version", SIGNALBOX_VERSION);
  out.set("argv", std::move(arguments)).set("model", session.path).set("model_hash", session.model_hash);
  out.set("device", session.backend->name()).set("isa", session.backend->isa()).set("numerics", session.numerics);
  if (!session.adapters.empty()) out.set("adapters", adapters_json(session));
  out.set("data", o.data).set("eval", o.evaluation.empty() ? json::Value() : json::Value(o.evaluation));
  out.set("written", o.write.empty() ? json::Value() : json::Value(o.write));
  json::Value unknown = json::Value::array();
  for (const std::string& name : session.unknown_tensors) unknown.push_back(name);
  return out.set("tensors_left_out", std::move(unknown));
}

}  // namespace

int compress_command(int argc, char** argv) {
  CLI::App app(
      "Which experts a model can do without, or can share: scores of experts, alikeness of pairs, plans of several "
      "sizes held against random choice and choice by frequency, and the compressed checkpoint (docs/compression.md).",
      "signalbox compress");
  app.footer(
      "Example:\n  signalbox compress builtin --data tools/builtin/heldout/two_hop.jsonl --share 0.5 --out "
      "/tmp/compressed --write /tmp/half");
  CompressOptions o;
  add_options(app, o);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  check_options(o);

  std::vector<Record> data = read_records(o.data);
  check_edits(o.common, data, "the experts are measured on given tokens");
  std::optional<std::vector<Record>> evaluation;
  if (!o.evaluation.empty()) evaluation = read_records(o.evaluation);
  const StudyRecords records = study_records(std::move(data), std::move(evaluation), o.study.seed);
  const ResolvedModel resolved = resolve_model(o.common.model, builtin_files());
  study_sizes(load_config(resolved).model, o.study);  // what can be refused before weights are loaded
  WritableModel opened = open_writable(o.common, !o.write.empty());
  Session& session = opened.session;
  const Rewrite& rewrite = opened.rewrite;
  std::shared_ptr<const EditPlan> edits;
  if (!o.common.edits.empty()) edits = session.load_edits(o.common.edits, o.common.seed);
  // A device with memory of its own has its own copy of the weights: plans are made from the files.
  LoadedModel loaded;
  const bool shared = session.backend->shares_host_memory();
  if (!shared) loaded = load_model(resolved);

  catch_signals();
  tell_cpu_fallback(o.common, session);
  const bool quiet = o.common.quiet;
  if (!quiet && records.in_common > 0)
    std::fprintf(stderr, "%ld of the records of --eval have a prompt of --data: they judge plans that they made\n",
                 static_cast<long>(records.in_common));
  if (!quiet && !o.write.empty() && !session.unknown_tensors.empty())
    std::fprintf(stderr, "%zu stored tensors are not of the model and will not be written (%s, ...)\n",
                 session.unknown_tensors.size(), session.unknown_tensors.front().c_str());
  StageProgress progress(quiet);
  StudyHooks hooks;
  hooks.original_bytes = [&] {
    const Rewrite::Sizes sizes = rewrite.original_sizes();
    return StudyHooks::Bytes{sizes.bytes, sizes.stored_bytes};
  };
  hooks.bytes = [&](const ChangedModel& changed) {
    const Rewrite::Sizes sizes = rewrite.sizes(changed);
    return StudyHooks::Bytes{sizes.bytes, sizes.stored_bytes};
  };
  hooks.stored_dtype = [&](const TensorId& id) { return rewrite.stored_dtype(id); };
  hooks.on_progress = [&](const std::string& stage, int64_t done, int64_t total, const char* unit) {
    progress.update(stage, done, total, unit);
  };
  hooks.on_note = [&](const std::string& line) {
    progress.end();
    if (!quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
  hooks.on_plan = [&](const Plan& plan, const ChangedModel& changed) {
    if (o.write.empty() || plan.name != "plan") return;
    rewrite.write(changed, o.write, [&](uint64_t done, uint64_t total) {
      constexpr uint64_t megabyte = 1'000'000;
      progress.update("writing " + o.write, static_cast<int64_t>(done / megabyte),
                      static_cast<int64_t>(total / megabyte), "MB");
    });
  };
  StagedFiles files(o.out, {std::begin(study_files), std::end(study_files)});
  const StudyResult result =
      run_study(session, shared ? session.weights : loaded.weights, records, edits, o.study, hooks, files.path());
  progress.end();
  write_study(result, records, session.model, o.study, about(o, session, argc, argv), files.path());
  files.commit();

  if (o.common.json) {
    write_stdout(json::dump(json::parse_file(fs::path(o.out) / "summary.json")) + "\n");
  } else if (!quiet) {
    const int width = terminal_width(STDOUT_FILENO);
    std::string text = study_table(result, width) + "\n";
    for (const std::string& sentence : study_sentences(result, o.study))
      text += (width > 0 ? wrapped(sentence, width) : sentence) + "\n";
    write_stdout(text);
    write_stdout(o.out + ": experts.csv, pairs.csv, plan.json, quality.csv, summary.json\n");
    if (!o.write.empty()) write_stdout(o.write + ": the checkpoint\n");
  }
  return 0;
}

}  // namespace signalbox::tools
