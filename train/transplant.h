// An expert of one model in the place of an expert of another, judged beside what else could stand there
// (docs/transplants.md).
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/changed_model.h"
#include "eval/compress/quality.h"
#include "eval/data/records.h"
#include "train/basis_map.h"
#include "train/expert_similarity.h"
#include "train/router_row.h"

namespace signalbox::train {

struct ExpertAt {
  int32_t layer = 0, expert = 0;
};

struct TransplantOptions {
  ExpertAt donor, host;
  Basis basis = Basis::automatic;
  double ridge = 0.01;
  bool rescale_router = false;  // the donor's row, scaled; else the host's stays
  int64_t states = 0;           // LikenessOptions::states
  uint64_t seed = 0;
  int threads = 1;
  std::string isa = "auto";
  std::function<DType(const TensorId&)> stored_dtype;  // of the host's checkpoint (loaders/model/rewrite.h)
  std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)> on_progress;
  std::function<void(const std::string&)> on_note;  // a line for people
};

struct TransplantRecords {
  std::vector<Record> calibration, evaluation;
  std::vector<Record> donor_task, host_task;  // may be empty
};

struct TransplantRow {
  std::string variant, metric;
  double value = no_number;
  Interval ci = {no_number, no_number};
};

struct TransplantResult {
  std::vector<TransplantRow> rows;
  BasisMap map;
  std::optional<int32_t> random_expert;  // of the donor's layer
  std::optional<RouterCalibration::Row> router;
  int64_t tokens = 0, states = 0, predicted = 0;  // paired; of these aligned by; of evaluation
  // What transplants are judged by, and the verdict. NaN: there was nothing to judge by.
  MeanEstimate donor_gain;  // nll of the mean control minus nll of the transplant, on the donor's task
  MeanEstimate host_gain;   // nll under the ban minus nll of the transplant, on the host's task, else on the evaluation
  std::optional<bool> works;  // both intervals above 0; none: no donor task
  ChangedModel model;         // to be written
};

// Where the device has memory of its own, the sessions' weights leave it on the way. `scratch`: a directory for the
// original's logits. Throws Error naming what does not fit.
TransplantResult transplant(Session& donor, const Weights& donor_host, Session& host, const Weights& host_host,
                            const TransplantRecords& records, const TransplantOptions& options,
                            const std::filesystem::path& scratch);

// What can be refused before weights are run. Throws Error.
void check_transplant(const Model& donor, const Model& host, const TransplantOptions& options);

std::string transplant_csv(const TransplantResult& result);
json::Value transplant_json(const TransplantResult& result, const TransplantOptions& options, json::Value about);
std::string transplant_table(const TransplantResult& result, int width);
// What may be said of it, in one line.
std::string transplant_verdict(const TransplantResult& result);

}  // namespace signalbox::train
