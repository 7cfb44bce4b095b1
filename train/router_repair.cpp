#include "train/router_repair.h"

#include "base/error.h"
#include "eval/store/work_directory.h"
#include "train/still_routers.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

constexpr const char* routers_dir = "routers";

std::vector<WantedWeight> routers_of(const Session& student) {
  std::vector<WantedWeight> routers;
  for (const WantedWeight& one : wanted_weights("*", student))
    if (of_router(one.id)) routers.push_back(one);
  return routers;
}

void check_student(const std::string& where, const Session& student, const Session& original) {
  if (student.model.n_vocab != original.model.n_vocab)
    throw Error(where, "expected the vocabulary of " + original.path + ", " + std::to_string(original.model.n_vocab) +
                           " tokens, found " + std::to_string(student.model.n_vocab));
  if (student.model.moe_layers().empty()) throw Error(where, "expected a model with experts, found a dense one");
  std::vector<TensorId> ids;
  for (const WantedWeight& one : routers_of(student)) ids.push_back(one.id);
  refuse_still_routers(where, student.model, ids);
}

TrainingEnd run(const RouterRepair& repair, WorkDirectory& work) {
  const fs::path checkpoint = repair.dir / routers_dir / checkpoint_dir;
  if (!fs::exists(repair.dir / quality_file)) {
    const Session before = loaders::open_session(repair.student.string(), repair.open);
    const std::vector<Example> data = make_examples(*repair.original, repair.splits.calibrate, repair.end_token),
                               stop = make_examples(*repair.original, repair.splits.stop, repair.end_token);
    StudentStage stage;
    stage.teacher = repair.original;
    stage.open = repair.open;
    stage.dir = repair.dir / routers_dir;
    stage.from = repair.student;
    stage.identity = repair.manifest.identity;
    stage.settings = repair.settings;
    stage.data = &data;
    stage.stop = &stop;
    stage.wanted = routers_of;
    stage.objective = by_logits(repair.teacher);
    stage.on_progress = [&](int64_t done, int64_t total) {
      repair.on_progress("training routers", done, total, "tokens");
    };
    stage.on_note = repair.on_note;
    stage.interrupted = repair.interrupted;
    if (!train_student(stage)) return TrainingEnd::interrupted;
    const loaders::Rewrite files(loaders::resolve_model(repair.student.string(), repair.open.builtin).files,
                                 before.family, before.model);
    const loaders::Rewrite::Sizes sizes = files.original_sizes();
    const int64_t keep = before.model.n_experts();
    StudentJudge judge({&repair.splits.report}, *repair.original, repair.dir, repair.settings, repair.on_progress);
    Forward original = repair.original->forward(0), compressed = before.forward(0);
    judge.original(repair.original_files->original_sizes(), original);
    judge.add("before", keep, std::nullopt, before.model, sizes, compressed);
    judge.checkpoint("after", keep, checkpoint, repair.open, sizes);
    judge.write(repair.dir);
  }
  publish_student(repair.dir, checkpoint, {{routers_dir, ""}}, {routers_dir});
  work.finish(RunStatus::complete);
  return TrainingEnd::complete;
}

}  // namespace

TrainingEnd repair_routers(const RouterRepair& repair) {
  const std::string student = repair.student.string();
  check_student(student, loaders::open_session(student, repair.open), *repair.original);
  WorkDirectory work(repair.dir, repair.manifest);
  if (work.complete()) return TrainingEnd::was_complete;
  const TrainingEnd end = run(repair, work);
  if (end == TrainingEnd::interrupted) work.finish(RunStatus::interrupted);
  return end;
}

}  // namespace signalbox::train
