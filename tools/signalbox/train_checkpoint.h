// Trainings of a model's own weights, which end in a checkpoint (train full, train experts).
#pragma once
#include <functional>

#include "base/namespaces.h"
#include "loaders/model/rewrite.h"
#include "tools/signalbox/training_flags.h"
#include "train/trained_weights.h"

namespace signalbox::tools {

struct CheckpointTraining {
  json::Value work = json::Value::object();  // what of the command decides which weights train
  bool in_out = false;                       // the checkpoint's files lie in --out itself, not in its model/
  // Writes more into --out, before the checkpoint; may be empty.
  std::function<void(const ChangedModel& changed, const loaders::Rewrite& rewrite)> beside;
};

// `weights` of `session` train. What is asked of the routing is in the flags. Returns the exit code.
int train_checkpoint(const TrainingFlags& flags, Session& session, TrainingRecords& records,
                     train::TrainedWeights& weights, CheckpointTraining what, int argc, char** argv);

}  // namespace signalbox::tools
