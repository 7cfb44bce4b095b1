// What all commands that train share: their flags, their records, how a training runs and what is printed of it.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/data/records.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/optimiser_flags.h"
#include "tools/signalbox/routing_flags.h"
#include "tools/signalbox/teacher_flags.h"
#include "train/training.h"

namespace CLI {
class App;
}

namespace signalbox::tools {

struct TrainingFlags {
  CommonOptions common;
  std::string data, held_out, stop, drift, out;
  std::optional<double> stop_loss;
  int64_t steps = 0;
  OptimiserFlags optimiser;
  train::TrainingSettings settings;  // by check_training_flags
  RoutingFlags routing;
  train::RoutingTuning tuning;  // by check_training_flags
  TeacherFlags teacher;
};

// MODEL and all flags but those of what trains. `out`: what --out is.
void add_training_flags(CLI::App& command, TrainingFlags& flags, const std::string& out);
// Before anything is read. Throws UsageError.
void check_training_flags(TrainingFlags& flags);

struct TrainingRecords {
  std::vector<Record> data, held_out, stop, drift;
};
// Throws Error: a file without a record, one record in two of the files where that would deceive (--stop and another).
TrainingRecords read_training_records(const TrainingFlags& flags);

// keep_date_of for all of them.
void keep_training_date(const TrainingFlags& flags, Session& session, const TrainingRecords& records);

// What a command trains, and what it makes of it.
struct TrainingJob {
  json::Value work = json::Value::object();  // for the manifest: what trains
  train::Trained* trained = nullptr;
  train::RoutingTraining* routing = nullptr;  // null: nothing is asked of the routing
  std::function<void()> write_result;         // train::Training
  std::string result = train::checkpoint_dir;
  const Weights* before = nullptr;    // what the model's weights were, for drift.csv
  std::string what = "model", where;  // what is told of the result; where: empty: it lies in --out
  std::function<std::string()> told;  // lines to print above the result's place; may be empty
};

// Runs it: returns the exit code. Prints losses, what `told` says and where the result is, or one JSON object.
int run_training(const TrainingFlags& flags, Session& session, TrainingRecords& records, const TrainingJob& job,
                 int argc, char** argv);

}  // namespace signalbox::tools
