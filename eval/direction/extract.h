// Directions of a contrast, one a layer, with the parts that the next router sees and does not see; and the layer at
// which they tell records best that gave none of them.
#pragma once
#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/direction/estimate.h"
#include "eval/direction/labelled.h"
#include "eval/direction/places.h"
#include "eval/direction/streams.h"

namespace signalbox::eval {

inline constexpr const char* directions_file = "directions.safetensors";
inline constexpr const char* streams_file = "streams.safetensors";
inline constexpr const char* selection_file = "selection.csv";
inline constexpr const char* validation_file = "validation.csv";
inline constexpr const char* steering_file = "steering.csv";
inline constexpr const char* direction_summary_file = "summary.json";
inline constexpr const char* direction_schema = "signalbox.direction/1";  // of the manifest and the summary
std::vector<std::string> direction_files();                               // all tables that a directory may hold
std::vector<std::string> extraction_files();                              // those of the extraction

struct ExtractRequest {
  ConditionPair contrast;
  SplitRule split = {"", direction_sets};
  Places places;
  Estimator estimator = Estimator::means;
  uint64_t seed = 0;    // of the split
  std::string input;    // for the summary
  json::Value weights;  // hashes of the model's, for the summary; null: not told
  StreamRun run;
};

// Of one layer; vectors are [d_model].
struct LayerDirection {
  std::vector<double> whole, router, rest;  // whole = router + rest; router 0 where no router reads the stream
  std::optional<int32_t> router_layer;      // whose router that is
  double relative = 0;                      // length, by the root mean square length of the streams it came from
  double auc = 0;                           // on the set that chooses
};

struct Extraction {
  bool interrupted = false;
  Labelled data;
  std::vector<std::vector<int64_t>> positions;  // of each record
  StreamMeans streams;                          // of each record
  std::vector<LayerDirection> layers;
  int64_t chosen = 0;  // the layer of the highest auc; of several the one with the largest relative length
};

Extraction extract_directions(const engine::Session& session, const Labelled& data, const ExtractRequest& request);

// directions.safetensors (layer.N.resid_out, .router, .rest: F32 [d_model]), streams.safetensors (layer.N.resid_out:
// F32 [records of the extracting set, d_model]), selection.csv and summary.json.
void write_extraction(const std::filesystem::path& dir, const Extraction& found, const ExtractRequest& request,
                      const engine::Session& session);

}  // namespace signalbox::eval
