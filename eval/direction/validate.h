// Directions held against records that had no part in them: do they tell these records apart, and does the model act on
// them? Both against control vectors of the same length.
#pragma once
#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/effects.h"
#include "eval/causal/metric.h"
#include "eval/direction/controls.h"
#include "eval/direction/extract.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// A directory of `direction extract`, read back.
struct StoredDirections {
  std::filesystem::path dir;
  json::Value summary;
  std::string model, model_hash;
  ConditionPair contrast;
  Places places;
  Estimator estimator = Estimator::means;
  int64_t chosen = 0, n_layers = 0, d = 0;
  std::vector<std::vector<float>> whole, router, rest;  // [layer][d]
  StreamMeans streams;                                  // of the records that gave them
  std::vector<int> labels;                              // of these
  std::vector<int64_t> examples;
  std::vector<std::string> used_prompts;  // hashes of the prompts of the extracting and the choosing set
};
// Throws Error naming the file and the key.
StoredDirections read_directions(const std::filesystem::path& dir);

// Records of the contrast whose prompt is in neither of these sets; `left_out` counts the others. Throws Error
// beginning with `where` when a condition has none.
Labelled held_out_records(const StoredDirections& stored, const std::vector<Record>& records, const std::string& where,
                          int64_t& left_out);

inline constexpr const char* validation_schema = "signalbox.validation/1";  // of the manifest of work at hand
inline constexpr const char* validation_folder = "validation";              // of that work; it goes when all is done

struct ValidateRequest {
  Metric metric = Metric::logit_diff;
  std::vector<int64_t> layers;                 // where effects are measured
  std::vector<double> doses;                   // not 0
  int64_t controls = 100;                      // of each kind
  int64_t resamples = 10000;                   // of intervals
  uint64_t seed = 0;                           // of controls and intervals
  int64_t step_tokens = 512, step_cells = 64;  // of one step, at most (a vector alone may have more tokens)
  int64_t batch = 8, batch_tokens = 1024;      // records of one step where nothing is added (StreamRun)
  // Where a stage keeps what it has finished; null: nowhere.
  std::function<Kept(const std::string& stage)> stage;
  std::string input;  // for the summary
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t done, int64_t of)> on_progress;  // vectors tried
};

// A row of validation.csv. `dose` empty: the row is about auc; a number: about adding that times the vector; "ablate":
// about taking the stream's share along the vector away.
struct ValidationRow {
  int64_t layer = 0;
  std::string part, kind, dose;
  double auc = undefined_number, effect = undefined_number;
  Interval ci{undefined_number, undefined_number};
  double p = undefined_number;
};

// Of one layer, part and dose, means over the records that it is tried on.
struct SteeringRow {
  int64_t layer = 0;
  std::string part, dose, condition;
  int64_t records = 0;
  double effect = 0, routes_held = undefined_number, routes_alone = undefined_number, interaction = undefined_number;
  double jaccard_next = undefined_number, jaccard = undefined_number;  // of the next router, mean over all later ones
  double kl = 0;        // unedited to edited, over the tokens from the first changed one on, in nats
  double opposite = 0;  // share of records whose effect has the other sign than the mean
};

struct Validation {
  bool interrupted = false;
  int64_t records = 0, left_out = 0;
  std::vector<ValidationRow> rows;
  std::vector<SteeringRow> steering;
  double auc_p = 1;  // of the highest auc of any layer, against the highest of each permuted draw
};

Validation validate_directions(const engine::Session& session, const StoredDirections& stored, const Labelled& data,
                               const ValidateRequest& request);

// validation.csv, steering.csv, and `validation` in summary.json.
void write_validation(const StoredDirections& stored, const Validation& found, const ValidateRequest& request);

}  // namespace signalbox::eval
