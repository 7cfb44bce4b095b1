// Trainings of a model's own weights, which end in a checkpoint (train full, train experts).
#pragma once
#include <filesystem>
#include <functional>

#include "base/namespaces.h"
#include "loaders/model/rewrite.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/training_flags.h"
#include "train/trained_weights.h"

namespace signalbox::tools {

struct CheckpointTraining {
  json::Value work = json::Value::object();  // what of the command decides which weights train
  bool in_out = false;                       // the checkpoint's files lie in --out itself, not in its model/
  // Writes more into --out, before the checkpoint; may be empty.
  std::function<void(const ChangedModel& changed, const loaders::Rewrite& rewrite)> beside;
};

// Moves a checkpoint's files into a directory that holds more, config.json last: with it the checkpoint is whole.
void move_checkpoint(const std::filesystem::path& from, const std::filesystem::path& to);

// `weights` of the session train. What is asked of the routing is in the flags. Returns the exit code.
int train_checkpoint(const TrainingFlags& flags, WritableModel& opened, TrainingRecords& records,
                     train::TrainedWeights& weights, CheckpointTraining what, int argc, char** argv);

}  // namespace signalbox::tools
