// signalbox train full: chosen weights of a model, or all of them, trained on records (docs/training.md).
#include <CLI/CLI.hpp>
#include <memory>

#include "eval/causal/weight_gradients.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/train.h"
#include "tools/signalbox/train_checkpoint.h"
#include "train/still_routers.h"

namespace signalbox::tools {

using namespace train;

namespace {

struct FullFlags {
  TrainingFlags training;
  std::string weights = "*";
};

CLI::App* add_flags(CLI::App& app, FullFlags& flags) {
  CLI::App* full = app.add_subcommand("full", "weights themselves, all or chosen ones (docs/training.md)");
  full->footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox train full "
      "builtin "
      "--data - --weights 'expert.*' --steps 3 --lr 1e-4 --out /tmp/trained");
  add_training_flags(*full, flags.training, "directory of log.csv, eval.csv and the checkpoint model/");
  add_adapter_option(*full, flags.training.common);
  full->add_option("--weights", flags.weights,
                   "weights that change, globs separated by commas (router, layer.3.expert.5.*, ...); all others stay "
                   "bit by bit")
      ->type_name("GLOBS")
      ->capture_default_str();
  return full;
}

int run_full(FullFlags& flags, int argc, char** argv) {
  TrainingFlags& common = flags.training;
  check_training_flags(common);
  TrainingRecords records = read_training_records(common);
  WritableModel opened = open_writable(common.common);
  Session& session = opened.session;
  const std::vector<WantedWeight> wanted = wanted_weights(flags.weights, session);
  std::vector<TensorId> ids;
  for (const WantedWeight& of : wanted) ids.push_back(of.id);
  if (!common.tuning.terms.any()) refuse_still_routers("--weights", session.model, ids);
  TrainedWeights weights(session, wanted, common.settings.threads);
  json::Value names = json::Value::array();
  for (const std::string& name : weights.names()) names.push_back(name);
  CheckpointTraining what;
  what.work.set("training", "full").set("weights", std::move(names));
  return train_checkpoint(common, opened, records, weights, std::move(what), argc, argv);
}

}  // namespace

Subcommand add_train_full(CLI::App& app) {
  auto flags = std::make_shared<FullFlags>();
  CLI::App* added = add_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_full(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
