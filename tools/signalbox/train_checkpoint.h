// Trainings of a model's own weights, which end in a checkpoint (train full, train experts).
#pragma once
#include "base/namespaces.h"
#include "tools/signalbox/training_flags.h"
#include "train/trained_weights.h"

namespace signalbox::tools {

// `weights` of `session` train; `work`: what of the command decides which. What the training asks of the routing is in
// the flags. `beside`: writes more into --out before the checkpoint; may be empty. Returns the exit code.
int train_checkpoint(const TrainingFlags& flags, Session& session, TrainingRecords& records,
                     train::TrainedWeights& weights, json::Value work, const std::function<void()>& beside, int argc,
                     char** argv);

}  // namespace signalbox::tools
