#include "tools/signalbox/train_checkpoint.h"

#include <cstdio>

#include "loaders/model/rewrite.h"
#include "tools/builtin/builtin_files.h"

namespace signalbox::tools {

using namespace train;

int train_checkpoint(const TrainingFlags& flags, Session& session, TrainingRecords& records, TrainedWeights& weights,
                     json::Value work, const std::function<void()>& beside, int argc, char** argv) {
  std::optional<RoutingTraining> routing;
  if (flags.tuning.any()) routing.emplace(session, flags.tuning, weights.before(), &weights);
  const Rewrite rewrite(resolve_model(flags.common.model, builtin_files()).files, session.family, session.model);
  TrainingJob job;
  job.work = std::move(work);
  job.trained = &weights;
  if (routing) job.routing = &*routing;
  job.write_result = [&] {
    if (beside) beside();
    ChangedModel changed = weights.changed([&](const TensorId& id) { return rewrite.stored_dtype(id); });
    if (routing) routing->put(changed);
    rewrite.write(changed, std::filesystem::path(flags.out) / checkpoint_dir);
  };
  job.told = [&] {
    return std::to_string(weights.n_values()) + " of the model's values trained, in " +
           std::to_string(weights.names().size()) + " tensors\n";
  };
  if (!flags.common.quiet && !session.unknown_tensors.empty())
    std::fprintf(stderr, "%zu stored tensors are not of the model and will not be written (%s, ...)\n",
                 session.unknown_tensors.size(), session.unknown_tensors.front().c_str());
  return run_training(flags, session, records, job, argc, argv);
}

}  // namespace signalbox::tools
