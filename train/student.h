// A checkpoint that learns from another model: one stage of training, how it is judged, and how what came out takes its
// place in a directory that goes on where an earlier process ended.
#pragma once
#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "eval/compress/study.h"
#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "train/teacher_loss.h"
#include "train/trained_weights.h"
#include "train/training.h"

namespace signalbox::train {

inline constexpr const char *quality_file = "quality.csv", *other_quality_file = "quality_other.csv";

struct StudentStage {
  const Session* teacher = nullptr;  // on a CPU
  loaders::OpenOptions open;         // for the student, on a CPU
  std::filesystem::path dir, from;   // the stage's own directory; the checkpoint that learns
  json::Value identity;              // of the manifest
  TrainingSettings settings;
  const std::vector<Example>*data = nullptr, *stop = nullptr;
  std::function<std::vector<WantedWeight>(const Session& student)> wanted;
  std::function<std::unique_ptr<Objective>(Session& student, Forward& teacher)> objective;
  std::function<void(int64_t done, int64_t total)> on_progress;  // tokens
  std::function<void(const std::string& line)> on_note;
  const std::atomic<bool>* interrupted = nullptr;
};
// Fills stage.dir as train() does; its model/ is the checkpoint. False where it was interrupted.
bool train_student(const StudentStage& stage);
// An objective of a stage: the teacher's logits.
std::function<std::unique_ptr<Objective>(Session&, Forward&)> by_logits(const Teacher& like);

// quality.csv, on one or two sets of records (empty ones are left out).
class StudentJudge {
 public:
  using OnProgress = std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)>;
  StudentJudge(const std::vector<const std::vector<Record>*>& records, const Session& original,
               const std::filesystem::path& dir, const TrainingSettings& settings, OnProgress on_progress);

  void original(const loaders::Rewrite::Sizes& sizes, Forward& forward);  // first
  void add(const std::string& plan, int64_t keep, std::optional<uint64_t> seed, const Model& model,
           const loaders::Rewrite::Sizes& sizes, Forward& forward);
  void checkpoint(const std::string& plan, int64_t keep, const std::filesystem::path& path,
                  const loaders::OpenOptions& open, const loaders::Rewrite::Sizes& sizes);
  // quality.csv, and quality_other.csv of the second set, which is written first.
  void write(const std::filesystem::path& dir) const;

 private:
  const Session& session_;
  OnProgress on_progress_;
  std::vector<std::unique_ptr<QualityMeasure>> measures_;
  std::vector<std::vector<QualityRow>> rows_;
};

// The files of a stage's checkpoint become those of `dir`, config.json last; of the stages, by name and prefix, the
// logs stay as PREFIX + log.csv and PREFIX + stop.csv; then the directories `stages` go. What an earlier process has
// moved already is left.
void publish_student(const std::filesystem::path& dir, const std::filesystem::path& checkpoint,
                     const std::vector<std::pair<std::string, std::string>>& logs,
                     const std::vector<std::string>& stages);

}  // namespace signalbox::train
