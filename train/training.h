// Training on records: the loop, what it leaves behind, and going on after an end of any kind.
//
// Step s takes the next `batch` records of an endless list: the data in the order of a shuffle for each pass over it, a
// function of the seed. Its loss is the mean of -log p, or of another objective, over all tokens of these records that
// count. Bits depend on the data, the models and the settings alone: not on threads, on how many records share a
// forward, or on interruptions.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/statistics/resampling.h"
#include "eval/store/manifest.h"
#include "train/adamw.h"
#include "train/examples.h"
#include "train/namespaces.h"
#include "train/objective.h"
#include "train/routing_training.h"
#include "train/schedule.h"
#include "train/stopping.h"
#include "train/target_loss.h"
#include "train/trained.h"

namespace signalbox::train {

inline constexpr const char* training_schema = "signalbox.train/1";  // of manifest.json
inline constexpr const char *log_file = "log.csv", *eval_file = "eval.csv", *state_file = "state.safetensors",
                            *checkpoint_dir = "model",  // of a training of weights
                                *stop_file = "stop.csv", *best_file = "best.safetensors";

struct TrainingSettings {
  int64_t batch = 8;  // records of a step
  double lr = 1e-5;
  Schedule schedule;  // with the number of steps
  AdamW adam;
  double clip = 1;                  // largest norm of the gradient; 0: any
  int64_t save_every = 0;           // steps; 0: only at the end
  std::optional<double> stop_loss;  // of the records to stop by: end at this
  uint64_t seed = 0;
  Groups groups;  // changes no bit
  int threads = 1;
  int64_t steps() const { return schedule.steps; }
};

struct Training {
  Session* session = nullptr;
  Trained* trained = nullptr;                 // of that session
  std::vector<Example> data, held_out, stop;  // stop: to stop by (train/stopping.h); none: every step is taken
  Objective* objective = nullptr;             // null: -log p of the targets
  RoutingTraining* routing = nullptr;         // what is asked of the routing too; null: nothing
  std::filesystem::path dir;
  Manifest manifest;
  TrainingSettings settings;
  // Writes what came out into `dir`, at once or not at all; `result`, of that directory, is the last of it.
  std::function<void()> write_result;
  std::string result = checkpoint_dir;

  std::function<void(int64_t step, int64_t tokens)> on_kept;               // where an earlier process got to
  std::function<void(int64_t step, int64_t tokens, double loss)> on_step;  // tokens of all steps so far
  std::function<void(int64_t step, const MeanEstimate& change, double loss)> on_eval;
  std::function<void(const Stopping::Look& look)> on_look;
  const std::atomic<bool>* interrupted = nullptr;
};

// The records of step `step` (from 1), by index.
std::vector<int64_t> records_of_step(int64_t n_records, int64_t batch, uint64_t seed, int64_t step);
// Tokens of steps 1 ... `steps`.
int64_t tokens_of_steps(const std::vector<Example>& data, const TrainingSettings& settings, int64_t steps);

enum class TrainingEnd : uint8_t { complete, was_complete, interrupted };

// Fills `dir`: log.csv (a row a step; its loss is that of the records, each routing term has a column), with held-out
// records eval.csv (before the first step, at every save, at the end; change: against the first, with a 95 % interval
// over records), with records to stop by stop.csv (the same steps; change: against the kept weights), the result, then
// that of the best of these steps, and manifest.json; until it is complete also state.safetensors. A second call with
// the same inputs goes on from there, to the same bytes. Throws Error as WorkDirectory does, and where a loss or a
// gradient is not finite, naming step and records: the state before that step is kept.
TrainingEnd train(const Training& training);

}  // namespace signalbox::train
