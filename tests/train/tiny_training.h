// Trainings of the models of tests/goldens, a few steps long, and what comes out of them.
#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "train/training.h"

namespace signalbox::test {

std::vector<double> numbers(const json::Ref& list);

// record(i) of training_goldens.py: its tokens, and with its last ones for targets.
std::vector<int32_t> record_tokens(int64_t i);
train::Example example(int64_t i);

// Every weight of a checkpoint, by the names of engine/weight_slopes.h.
using WeightValues = std::map<std::string, std::vector<float>>;
WeightValues values_of(const std::filesystem::path& model);

struct TrainingRun {
  std::string model, globs = "*";
  train::TrainingSettings settings;
  std::optional<train::RoutingTuning> routing;
  int64_t n_records = 6, n_held_out = 2, n_stop = 0, first_stop = 20;
  bool only_last = false;  // one target a record
  explicit TrainingRun(const std::string& name);
  // Trains into `dir`, at most `stop_after` steps in this process.
  train::TrainingEnd run(const std::filesystem::path& dir, int64_t stop_after = 1000) const;
};

// The files of a training are those of another, and no state is left.
void check_equal(const std::filesystem::path& a, const std::filesystem::path& b);

// What the tensors that `changes` names changed by, as training_goldens.py has it: norms to the larger of 5e-4 and
// `tolerance`, all projections together to `tolerance`.
void check_changes(const json::Ref& changes, const std::filesystem::path& before, const std::filesystem::path& after,
                   double tolerance);

}  // namespace signalbox::test
