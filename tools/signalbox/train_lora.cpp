// signalbox train lora: low-rank adapters of a model, trained on records (docs/adapters.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "loaders/families/family.h"
#include "loaders/model/load.h"
#include "loaders/peft/config.h"
#include "loaders/peft/write.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/lora_targets.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/train.h"
#include "tools/signalbox/training_flags.h"
#include "train/still_routers.h"
#include "train/trained_adapters.h"

namespace signalbox::tools {

using namespace train;

namespace {

struct LoraFlags {
  TrainingFlags training;
  LoraTargets targets;
  AdapterSettings adapters;
  bool per_expert = false;
};

CLI::App* add_flags(CLI::App& app, LoraFlags& flags) {
  CLI::App* lora = app.add_subcommand("lora", "low-rank adapters, written as PEFT reads them (docs/adapters.md)");
  lora->footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox train lora "
      "builtin --data - --rank 4 --steps 3 --lr 1e-3 --out /tmp/adapter");
  flags.training.optimiser.settings.lr = 1e-4;
  add_training_flags(
      *lora, flags.training,
      "directory of log.csv, eval.csv, adapter_config.json and adapter_model.safetensors, for --adapter");
  refuse_adapter_option(*lora,
                        "a model as it is, for what is written goes by itself on that one (train full --adapter "
                        "writes a model with an adapter in it), found one");
  lora->add_option("--targets", flags.targets.parts,
                   "parts that get adapters: router,experts,attention,shared,dense,lm_head (default: all but routers "
                   "and the head)")
      ->type_name("PARTS");
  lora->add_option(
          "--experts", flags.targets.experts,
          "only these: L:E,L:E-E, or a file: rd.csv of analyze, expert_cfg.json of ESFT, scores.csv of train experts")
      ->type_name("LIST|FILE");
  lora->add_option("--top", flags.targets.top,
                   "of rd.csv: so many experts of the largest rd (default: all with rd > 0 and q < 0.05)")
      ->check(in_range(int64_t{1}, int64_t{1} << 30))
      ->type_name("N");
  lora->add_option("--rank", flags.adapters.rank, "of each pair")
      ->check(in_range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  lora->add_option("--alpha", flags.adapters.alpha, "a pair counts alpha / rank")
      ->check(in_range(0.0, 1e9))
      ->capture_default_str();
  lora->add_flag("--rslora", flags.adapters.rslora, "alpha / sqrt(rank) instead");
  lora->add_flag("--per-expert", flags.per_expert,
                 "modules for each expert, as in transformers 4; gate and up then have an A each");
  return lora;
}

int run_lora(LoraFlags& flags, int argc, char** argv) {
  TrainingFlags& common = flags.training;
  check_training_flags(common);
  if (flags.adapters.alpha == 0)
    throw UsageError("--alpha", "expected a number above 0, found 0: no adapter would count, or learn");
  TrainingRecords records = read_training_records(common);
  Session session = open_session(common.common);
  const loaders::families::Family& family = *loaders::families::find_family(session.family);
  loaders::peft::check_form(family, session.model, flags.per_expert);
  const std::vector<TensorId> targets = lora_targets(flags.targets, session.model);
  flags.adapters.seed = common.common.seed;
  flags.adapters.shares_gate_up = !flags.per_expert;
  if (!common.tuning.terms.any()) {  // these reach the routers by themselves
    refuse_still_routers("--targets router", session.model, targets);
    const std::string why = why_routers_stay(session.model, targets);
    if (!why.empty() && !common.common.quiet) std::fprintf(stderr, "--targets router: %s\n", why.c_str());
  }
  if (common.tuning.bias_rate != 0)
    throw UsageError("--balance bias", "expected something that an adapter can hold, found selection biases");
  const Weights before = session.weights;
  std::optional<RoutingTraining> routing;
  if (common.tuning.any()) routing.emplace(session, common.tuning, before, nullptr);
  TrainedAdapters adapters(session, targets, flags.adapters, common.settings.threads);

  TrainingJob job;
  json::Value names = json::Value::array();
  for (const std::string& name : adapters.names()) names.push_back(name);
  job.work.set("training", "lora")
      .set("adapters", std::move(names))
      .set("rank", flags.adapters.rank)
      .set("alpha", flags.adapters.alpha)
      .set("rslora", flags.adapters.rslora)
      .set("per_expert", flags.per_expert);
  job.trained = &adapters;
  job.before = &before;
  if (routing) job.routing = &*routing;
  loaders::peft::WriteSettings settings;
  settings.rank = flags.adapters.rank;
  settings.alpha = flags.adapters.alpha;
  settings.rslora = flags.adapters.rslora;
  settings.per_expert = flags.per_expert;
  settings.base_model = session.name;
  settings.base_weights = hash_of_weights(model_facts(session, common.common.quiet).weight_hashes);
  job.write_result = [&] {
    loaders::peft::write_adapter(common.out, family, session.model, adapters.matrices(), settings);
  };
  job.result = loaders::peft::weights_name;
  job.what = "adapter";
  job.where = common.out;
  job.told = [&] {
    return std::to_string(adapters.n_values()) + " values trained, in adapters of rank " +
           std::to_string(flags.adapters.rank) + " of " + std::to_string(targets.size()) + " matrices\n";
  };
  return run_training(common, session, records, job, argc, argv);
}

}  // namespace

Subcommand add_train_lora(CLI::App& app) {
  auto flags = std::make_shared<LoraFlags>();
  CLI::App* added = add_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_lora(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
