// signalbox train experts, train apply-experts: chosen experts of a model trained whole, and such experts put into a
// model (docs/expert-tuning.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/store/work_directory.h"
#include "loaders/families/family.h"
#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/arguments.h"
#include "tools/signalbox/expert_list.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/train.h"
#include "tools/signalbox/train_checkpoint.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "train/expert_files.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

constexpr const char *scores_file = "scores.csv", *expert_dir = "esft";

struct ExpertFlags {
  TrainingFlags training;
  std::string select, config, experts;
  std::optional<double> p;
};

// --select as it was meant.
struct Selection {
  bool token = false;            // else gate
  std::optional<uint64_t> seed;  // as many experts at random
  double p = 0;
};

Selection parse_selection(const ExpertFlags& flags) {
  Selection selection;
  std::string kind = flags.select;
  if (kind.starts_with("random:")) {
    std::string rest = kind.substr(7);
    const size_t colon = rest.find(':');
    kind = colon == std::string::npos ? "gate" : rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    uint64_t seed = 0;
    const auto [at, error] = std::from_chars(rest.data(), rest.data() + rest.size(), seed);
    if (error != std::errc() || at != rest.data() + rest.size())
      throw UsageError("--select", "expected random:SEED with a whole number, found " + in_quotes(flags.select));
    selection.seed = seed;
  }
  if (kind != "gate" && kind != "token")
    throw UsageError("--select",
                     "expected gate, token, random:SEED or random:SEED:token, found " + in_quotes(flags.select));
  selection.token = kind == "token";
  selection.p = flags.p.value_or(selection.token ? 0.2 : 0.1);
  return selection;
}

void check_choice(const ExpertFlags& flags) {
  const int ways = !flags.select.empty() + !flags.config.empty() + !flags.experts.empty();
  if (ways != 1)
    throw UsageError("--select, --config, --experts",
                     "expected one of them, found " + std::string(ways == 0 ? "none" : "several"));
  if (flags.p && flags.select.empty()) throw UsageError("--p", "expected --select beside it, found none");
  if (flags.p && *flags.p == 0) throw UsageError("--p", "expected a number above 0, found 0: no expert would train");
  if (!flags.select.empty()) parse_selection(flags);
}

ExpertConfig listed_experts(const std::string& list, const Model& model) {
  ExpertConfig config;
  for (const auto& [layer, expert] : parse_expert_list("--experts", list, model))
    config.experts[layer].push_back(expert);
  return config;
}

// The experts that --select takes, and scores.csv's text.
ExpertConfig selected(const ExpertFlags& flags, const Session& session, const std::vector<Record>& data,
                      std::string& table) {
  const TrainingFlags& common = flags.training;
  const Selection selection = parse_selection(flags);
  const std::vector<Example> examples = make_examples(session, data, end_token_of(session, common.optimiser, {&data}));
  std::vector<const Example*> samples;
  int64_t n_tokens = 0;
  for (const Example& example : examples) {
    samples.push_back(&example);
    n_tokens += example.n_tokens();
  }
  Progress progress("scoring experts", n_tokens, common.common.quiet, "tokens");
  int64_t done = 0;
  Forward forward = session.forward(0);
  const std::vector<LayerScores> scores =
      expert_scores(forward, samples, common.settings.groups, [&](int64_t tokens) { progress.update(done += tokens); });
  progress.done();
  ExpertConfig config;
  for (const LayerScores& of : scores)
    config.experts[of.layer] = choose_experts(selection.token ? of.token : of.gate, selection.p);
  if (selection.seed) config.experts = random_experts(config.experts, session.model, *selection.seed);
  CsvWriter csv({"layer", "expert", "gate", "token", "chosen"});
  for (const LayerScores& of : scores)
    for (size_t e = 0; e < of.gate.size(); ++e) {
      const std::vector<int32_t>& ids = config.experts[of.layer];
      const auto expert = static_cast<int32_t>(e);
      csv.cell(int64_t{of.layer}).cell(int64_t{expert}).cell(of.gate[e]).cell(of.token[e]);
      csv.cell(int64_t{std::binary_search(ids.begin(), ids.end(), expert)});
      csv.end_row();
    }
  table = csv.text();
  return config;
}

CLI::App* add_flags(CLI::App& app, ExpertFlags& flags) {
  CLI::App* experts =
      app.add_subcommand("experts", "the experts that a task uses most, and nothing else (docs/expert-tuning.md)");
  experts->footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox train experts "
      "builtin --data - --select token --steps 3 --lr 1e-4 --out /tmp/experts");
  add_training_flags(*experts, flags.training, "directory of the checkpoint, expert_cfg.json, esft/ and the logs");
  add_adapter_option(*experts, flags.training.common);
  experts
      ->add_option(
          "--select", flags.select,
          "experts by their score on --data: gate (mean weight), token (share of tokens), or as many at random "
          "instead: random:SEED, random:SEED:token")
      ->type_name("HOW");
  experts
      ->add_option("--p", flags.p, "of --select: experts are taken until their scores reach this (gate 0.1, token 0.2)")
      ->check(in_range(0.0, 1e9))
      ->type_name("SUM");
  experts->add_option("--config", flags.config, "the experts that an expert_cfg.json names")->type_name("FILE");
  experts->add_option("--experts", flags.experts, "these: L:E,L:E-E")->type_name("LIST");
  return experts;
}

int run_experts(ExpertFlags& flags, int argc, char** argv) {
  TrainingFlags& common = flags.training;
  check_training_flags(common);
  check_choice(flags);
  TrainingRecords records = read_training_records(common);
  WritableModel opened = open_writable(common.common);
  Session& session = opened.session;
  keep_training_date(common, session, records);
  std::string scores;
  const ExpertConfig config = !flags.config.empty()   ? read_expert_config(flags.config, session.model)
                              : !flags.select.empty() ? selected(flags, session, records.data, scores)
                                                      : listed_experts(flags.experts, session.model);
  TrainedWeights weights(session, wanted_of(config, session), common.settings.threads);
  CheckpointTraining what;
  const std::string text = expert_config_json(config);
  what.work.set("training", "experts")
      .set("select", flags.select.empty() ? json::Value() : json::Value(flags.select))
      .set("p", flags.select.empty() ? json::Value() : json::Value(parse_selection(flags).p))
      .set("trained", json::parse(text, expert_config_file));
  what.in_out = true;
  what.beside = [&](const ChangedModel& changed, const Rewrite& rewrite) {
    const fs::path out = common.out;
    fs::remove_all(out / expert_dir);
    // Of a model with adapters they alone, in the model without, would be another one.
    const bool written = session.adapters.empty() &&
                         write_expert_directory(out / expert_dir, config, *families::find_family(session.family),
                                                changed, [&](const TensorId& id) { return rewrite.stored_dtype(id); });
    if (!written && !common.common.quiet)
      std::fprintf(stderr, "no %s/: %s\n", expert_dir,
                   session.adapters.empty() ? "hub checkpoints of this family keep the experts of a layer in one tensor"
                                            : "put into the model without --adapter they would be another one");
    if (!scores.empty()) write_file_atomically(out / scores_file, scores);
    write_file_atomically(out / expert_config_file, text);
  };
  return train_checkpoint(common, opened, records, weights, std::move(what), argc, argv);
}

struct ApplyFlags {
  CommonOptions common;
  std::string from, out;
};

// What decides the result: the model and the files of the experts.
Manifest manifest_of_applied(const ApplyFlags& flags, const Session& session, int argc, char** argv) {
  std::set<fs::path> files;
  for (const fs::path& file : expert_files(flags.from)) files.insert(file);
  Manifest manifest;
  manifest.schema = training_schema;
  manifest.identity.set("training", "apply-experts")
      .set("signalbox_version", SIGNALBOX_VERSION)
      .set("hashes", model_hashes(model_facts(session, flags.common.quiet)))
      .set("experts", file_hashes(files, flags.from));
  manifest.info = work_info(flags.common, session, argc, argv);
  manifest.info.set("experts_path", fs::absolute(flags.from).string());
  return manifest;
}

int run_apply(ApplyFlags& flags, int argc, char** argv) {
  const Session session = open_session(flags.common);
  const Rewrite rewrite(resolve_model(flags.common.model, builtin_files()).files, session.family, session.model);
  const ChangedModel changed = apply_expert_directory(flags.from, *families::find_family(session.family), session,
                                                      [&](const TensorId& id) { return rewrite.stored_dtype(id); });
  const fs::path out = flags.out;
  WorkDirectory work(out, manifest_of_applied(flags, session, argc, argv));
  if (!work.complete()) {
    std::error_code code;
    fs::remove_all(out / checkpoint_dir, code);  // of a process that was killed while it moved the files
    rewrite.write(changed, out / checkpoint_dir);
    move_checkpoint(out / checkpoint_dir, out);
    work.finish(RunStatus::complete);
  } else if (!flags.common.quiet) {
    std::fprintf(stderr, "%s: was complete\n", flags.out.c_str());
  }
  int64_t experts = 0;
  for (const ExpertChange& change : changed.changes)
    for (const uint8_t replaced : change.replaced) experts += replaced;
  if (flags.common.json) {
    write_stdout(json::dump(json::Value::object()
                                .set("model", flags.out)
                                .set("experts", experts)
                                .set("other_tensors", static_cast<int64_t>(changed.replaced.size()))) +
                 "\n");
    return 0;
  }
  write_stdout(std::to_string(experts) + " experts and " + std::to_string(changed.replaced.size()) +
               " other tensors are those of " + flags.from + "\nthe model: " + flags.out + "\n");
  return 0;
}

}  // namespace

Subcommand add_train_experts(CLI::App& app) {
  auto flags = std::make_shared<ExpertFlags>();
  CLI::App* added = add_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_experts(*flags, argc, argv); }};
}

Subcommand add_train_apply_experts(CLI::App& app) {
  auto flags = std::make_shared<ApplyFlags>();
  CLI::App* apply = app.add_subcommand("apply-experts", "fine-tuned experts of a directory put into their model");
  apply->footer("Example:\n  signalbox train apply-experts builtin /tmp/experts/esft --out /tmp/applied");
  apply->add_option("MODEL", flags->common.model, "the model that the experts were made for")->required();
  apply->add_option("DIR", flags->from, "expert_cfg.json and safetensors, as train experts writes them")->required();
  refuse_adapter_option(*apply,
                        "a model as the experts were made for it (--adapter goes with what is written), found one");
  apply->add_option("--out", flags->out, "directory of the checkpoint and manifest.json")->type_name("DIR")->required();
  apply->add_flag("--json", flags->common.json, "print the result as JSON");
  apply->add_flag("--quiet", flags->common.quiet, "no progress");
  return {apply, [flags](int argc, char** argv) { return run_apply(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
