#include "train/student.h"

#include <algorithm>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/data/examples.h"
#include "eval/data/record_jobs.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

void move_to(const fs::path& from, const fs::path& to) {
  std::error_code code;
  fs::rename(from, to, code);
  if (code) throw Error(to.string(), "cannot move it there: " + code.message());
}

}  // namespace

bool train_student(const StudentStage& stage) {
  if (fs::exists(stage.dir / checkpoint_dir) && !fs::exists(stage.dir / state_file)) return true;
  Session student = loaders::open_session(stage.from.string(), stage.open);
  TrainedWeights weights(student, stage.wanted(student), stage.settings.threads);
  Forward teacher(*student.backend, stage.teacher->model, stage.teacher->weights, 0);
  const std::unique_ptr<Objective> objective = stage.objective(student, teacher);
  const loaders::Rewrite rewrite(loaders::resolve_model(stage.from.string(), stage.open.builtin).files, student.family,
                                 student.model);
  const std::string name = stage.dir.filename().string();
  Training training;
  training.session = &student;
  training.trained = &weights;
  training.data = *stage.data;
  training.stop = *stage.stop;
  training.objective = objective.get();
  training.dir = stage.dir;
  training.manifest.schema = training_schema;
  training.manifest.identity = stage.identity;
  training.manifest.identity.set("stage", name);
  training.settings = stage.settings;
  training.write_result = [&] {
    rewrite.write(weights.changed([&](const TensorId& id) { return rewrite.stored_dtype(id); }),
                  training.dir / training.result);
  };
  training.interrupted = stage.interrupted;
  const int64_t total = tokens_of_steps(*stage.data, stage.settings, stage.settings.steps());
  training.on_step = [&](int64_t, int64_t tokens, double) { stage.on_progress(tokens, total); };
  training.on_kept = [&](int64_t step, int64_t) {
    stage.on_note(stage.dir.string() + ": goes on behind step " + std::to_string(step));
  };
  training.on_look = [&](const Stopping::Look& look) {
    stage.on_note(name + ", step " + std::to_string(look.step) + ": loss " + short_number(look.loss) +
                  " on the stop split" + (look.best ? ", the lowest so far" : ""));
  };
  return train(training) != TrainingEnd::interrupted;
}

std::function<std::unique_ptr<Objective>(Session&, Forward&)> by_logits(const Teacher& like) {
  return [like](Session&, Forward& teacher) {
    Teacher of_stage = like;
    of_stage.forward = &teacher;
    return std::make_unique<TeacherObjective>(of_stage);
  };
}

StudentJudge::StudentJudge(const std::vector<const std::vector<Record>*>& records, const Session& original,
                           const fs::path& dir, const TrainingSettings& settings, OnProgress on_progress)
    : session_(original), on_progress_(std::move(on_progress)) {
  for (const std::vector<Record>* list : records) {
    if (list->empty()) continue;
    const RecordJobs jobs = make_jobs(original, *list, Generate{0, {}}, nullptr);
    std::vector<int64_t> examples;
    for (const size_t example : independent_examples(*list)) examples.push_back(static_cast<int64_t>(example));
    measures_.push_back(std::make_unique<QualityMeasure>(jobs.jobs, std::move(examples), original.model.n_vocab, dir,
                                                         settings.threads, settings.seed));
  }
  rows_.resize(measures_.size());
}

void StudentJudge::original(const loaders::Rewrite::Sizes& sizes, Forward& forward) {
  add("original", session_.model.n_experts(), std::nullopt, session_.model, sizes, forward);
}

void StudentJudge::add(const std::string& plan, int64_t keep, std::optional<uint64_t> seed, const Model& model,
                       const loaders::Rewrite::Sizes& sizes, Forward& forward) {
  const ParameterCount counted = count_parameters(model);
  RunOptions run = session_.options;
  run.interrupted = nullptr;  // on_progress ends the work
  for (size_t m = 0; m < measures_.size(); ++m) {
    QualityMeasure& measure = *measures_[m];
    QualityRow row;
    row.plan = plan;
    row.keep = keep;
    row.seed = seed;
    row.parameters = counted.total;
    row.active_parameters = counted.active;
    row.bytes = sizes.bytes;
    row.stored_bytes = sizes.stored_bytes;
    RunEvents events;
    const std::string stage = "judging " + plan + (seed ? ", seed " + std::to_string(*seed) : "");
    const int64_t total = measure.n_tokens();
    events.on_progress = [&](int64_t done) { on_progress_(stage, done, total, "tokens"); };
    row.quality = rows_[m].empty() ? measure.original(forward, run, events) : measure.compared(forward, run, events);
    rows_[m].push_back(std::move(row));
  }
}

void StudentJudge::checkpoint(const std::string& plan, int64_t keep, const fs::path& path,
                              const loaders::OpenOptions& open, const loaders::Rewrite::Sizes& sizes) {
  const Session student = loaders::open_session(path.string(), open);
  Forward forward = student.forward(0);
  add(plan, keep, std::nullopt, student.model, sizes, forward);
}

void StudentJudge::write(const fs::path& dir) const {
  if (rows_.size() > 1) write_file_atomically(dir / other_quality_file, quality_csv(rows_[1]));
  write_file_atomically(dir / quality_file, quality_csv(rows_[0]));
}

void publish_student(const fs::path& dir, const fs::path& checkpoint,
                     const std::vector<std::pair<std::string, std::string>>& logs,
                     const std::vector<std::string>& stages) {
  for (const auto& [stage, prefix] : logs)
    for (const char* file : {log_file, stop_file})
      if (fs::exists(dir / stage / file)) move_to(dir / stage / file, dir / (prefix + file));
  if (fs::exists(checkpoint)) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(checkpoint)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files)
      if (file.filename() != "config.json") move_to(file, dir / file.filename());
    if (fs::exists(checkpoint / "config.json")) move_to(checkpoint / "config.json", dir / "config.json");
  }
  sync_directory(dir);
  // And what a process that was killed while it wrote one has left.
  std::vector<fs::path> gone;
  for (const auto& entry : fs::directory_iterator(dir))
    for (const std::string& stage : stages)
      if (entry.is_directory() && entry.path().filename().string().starts_with(stage)) gone.push_back(entry.path());
  for (const fs::path& path : gone) {
    std::error_code code;
    fs::remove_all(path, code);
  }
}

}  // namespace signalbox::train
