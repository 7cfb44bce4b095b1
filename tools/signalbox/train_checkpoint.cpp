#include "tools/signalbox/train_checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "base/files.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

constexpr const char* last_file = "config.json";  // with it the checkpoint is whole

}  // namespace

void move_checkpoint(const fs::path& from, const fs::path& to) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(from)) files.push_back(entry.path());
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    const auto key = [](const fs::path& x) { return std::pair(x.filename() == last_file, x); };
    return key(a) < key(b);
  });
  for (const fs::path& file : files) fs::rename(file, to / file.filename());
  sync_directory(to);
  fs::remove_all(from);
}

int train_checkpoint(const TrainingFlags& flags, WritableModel& opened, TrainingRecords& records,
                     TrainedWeights& weights, CheckpointTraining what, int argc, char** argv) {
  Session& session = opened.session;
  const Rewrite& rewrite = opened.rewrite;
  std::optional<RoutingTraining> routing;
  if (flags.tuning.any()) routing.emplace(session, flags.tuning, weights.before(), &weights);
  TrainingJob job;
  job.work = std::move(what.work);
  job.trained = &weights;
  job.before = &weights.before();
  if (routing) job.routing = &*routing;
  if (what.in_out) {
    job.result = last_file;
    job.where = flags.out;
  }
  job.write_result = [&] {
    const fs::path out = flags.out;
    ChangedModel changed = weights.changed([&](const TensorId& id) { return rewrite.stored_dtype(id); });
    if (routing) routing->put(changed);
    // Of a process that was killed while it wrote.
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(out))
      if (entry.is_directory() && entry.path().filename().string().starts_with(checkpoint_dir))
        fs::remove_all(entry.path(), code);
    if (what.beside) what.beside(changed, rewrite);
    rewrite.write(changed, out / checkpoint_dir);
    if (what.in_out) move_checkpoint(out / checkpoint_dir, out);
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
