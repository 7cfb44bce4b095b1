// Attribution by gradients: how much of a metric each part of a forward answers for, to first order
// (docs/causal-attribute.md).
//
//   atp      delta_n . dM/d c_n at x, for the contribution c_n of every node (eval/causal/contributions.h)
//   ig       the integral of the gradient along the path of embeddings from x to x', and the jumps of the routes
//            (eval/causal/embedding_path.h)
//   eap      edges: sum over tokens of delta_u . dM/d in_v at x (eval/causal/edges.h)
//   eap_ig   the same with the gradient averaged over that path
//   gain     what every expert would have given, chosen or not, and other routes (eval/causal/expert_gain.h)
//
// Scores say how M would change if the part took the value that takes its place: of the pair's corrupt run x', nothing,
// or the mean over reference records.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/contributions.h"
#include "eval/causal/embedding_path.h"
#include "eval/causal/metric.h"
#include "eval/causal/pairs.h"
#include "eval/data/record_jobs.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

enum class AttributionMethod : uint8_t { atp, ig, eap, eap_ig, gain };
AttributionMethod parse_attribution_method(std::string_view name, const std::string& where);  // Error lists the names
std::string_view attribution_method_name(AttributionMethod method);

// What takes a part's place.
enum class InPlace : uint8_t { pairs, zero, mean };
std::string_view in_place_name(InPlace in_place);

struct AttributionRequest {
  std::filesystem::path dir;
  Manifest manifest;  // identity and info: what decides the bytes
  AttributionMethod method = AttributionMethod::atp;
  Metric metric = Metric::logit_diff;
  InPlace in_place = InPlace::zero;
  SelectedPairs pairs;               // of InPlace::pairs
  const NodeMeans* means = nullptr;  // of InPlace::mean
  std::string reference;             // what summary.json calls the records of the means
  bool drops = false;                // atp: grad drop
  bool query_keys = false;           // atp: queries and keys too, through the softmax (eval/causal/query_keys.h)
  int64_t steps = 32;                // of a path
  PathRule rule = PathRule::midpoint;
  bool holds_routes = false;         // ig
  int64_t most_crossings = 4096;     // ig
  bool holds_final_divisor = false;  // the final norm's; not of ig
  int64_t top = 0;                   // eap: edges of a record that are written, the largest; 0: all
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t records)> on_progress;  // of attribution_records()
  std::function<void(const std::string& what)> on_kept;
};

struct AttributionRow {
  std::string id;         // of the record, of a pair its clean one
  int64_t position = -1;  // -1: of the whole sequence
  int32_t layer = -1;     // -1: of none
  std::string point, unit;
  double score = 0;
  double flip_share = std::numeric_limits<double>::quiet_NaN();  // NaN: no later router, or nothing to test
  int trusted = -1;                                              // -1: nothing to test
  double integral = std::numeric_limits<double>::quiet_NaN(), jumps = integral, rest = integral;  // ig
};

// Means over records, of one point of one layer and unit.
struct AttributionTotal {
  int32_t layer = -1;
  std::string point, unit;
  int64_t records = 0;       // that have it
  double signed_mean = 0;    // of the sum over positions; records without it count as 0
  double absolute_mean = 0;  // of its absolute value
  double cells_mean = 0;     // of the sum over positions of absolute values
  double flip_share = std::numeric_limits<double>::quiet_NaN();  // mean over its rows that were tested
};

struct AttributionResult {
  bool interrupted = false;  // records that are done are kept
  int64_t records = 0, rows = 0;
  std::vector<AttributionTotal> totals;  // by |signed_mean|, the largest first
  // ig: means over records of M(x') - M(x), the integral, the jumps and what is left; and of |what fails without jumps|
  double change = 0, integral = 0, jumps = 0, rest = 0, missed_without_jumps = 0, largest_rest = 0;
  int64_t crossings = 0;
  int64_t dropped_edges = 0;  // by `top`
};

// What this method cannot do with these records: kl at its own base point, a path to nothing, or between sequences of a
// pair (all there are, before any is dropped) whose positions differ; and what metric_rows refuses. Throws Error; no
// forward is run.
void check_attribution(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                       const AttributionRequest& request, const std::vector<CausalPair>& pairs);

// Records that are run, for progress: pairs count once.
int64_t attribution_records(const RecordJobs& made, const AttributionRequest& request);

// Writes DIR/attribution.csv, totals.csv, crossings.csv (ig) and summary.json; until then, a line for each record that
// is done stands in DIR/stages, and a later process goes on behind them. Throws Error as check_attribution and the runs
// do.
AttributionResult attribute(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                            const AttributionRequest& request);

inline constexpr const char* attribution_schema = "signalbox.attribution/1";

}  // namespace signalbox::eval
