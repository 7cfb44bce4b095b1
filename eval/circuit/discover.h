// A study that finds a circuit: parts one by one, nested circuits on one set of pairs, their size on a second, what
// they are worth on a third; then edges among the parts that are left (docs/circuits.md).
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/pairs.h"
#include "eval/circuit/circuit_scores.h"
#include "eval/circuit/edge_circuit.h"
#include "eval/circuit/edges.h"
#include "eval/circuit/forecast.h"
#include "eval/circuit/graph.h"
#include "eval/circuit/paraphrases.h"
#include "eval/circuit/random_circuits.h"
#include "eval/circuit/search.h"
#include "eval/circuit/splits.h"

namespace signalbox::eval {

// What a long study tells of its way.
struct StudyProgress {
  std::function<void(const std::string& stage, int64_t runs)> begin;  // a stage of about so many runs of a record
  std::function<void(int64_t runs)> add;                              // so many more are done
};

struct DiscoverRequest {
  Metric metric = Metric::logit_diff;
  CircuitAblation ablation = CircuitAblation::corrupt;
  NodeLevel level = NodeLevel::node;
  SplitRule split = {"", circuit_sets};
  json::Value weights;  // hashes of the model's, for circuit.json; null: not told
  uint64_t seed = 0;
  std::optional<size_t> size;  // of the circuit; none: chosen on the second set
  SearchRule rule;
  // Parts, and edges among those that are left, that get runs of their own: those of the largest forecast (forecast.h).
  // Forecasts are made where there are more, or always (`forecast`), and then compared with what the runs say.
  ForecastRule rank;
  bool forecast = false;
  size_t filter = 512, edge_filter = 4096;
  bool keep_all = false;  // pairs that do not prefer their answer too
  int64_t random = 100, stability = 10, subsets = 4, resamples = 10000;
  // An edge is in the circuit where q is below alpha, its size above the 95th percentile of its controls, and, of
  // feeds, at least this share of the gap between the whole model and nothing.
  double alpha = 0.05, edge_floor = 0.01;
  int64_t edge_controls = 2;  // draws of either kind for each pair
  // Instead a search says which edges are in the circuit: shares of that gap, ascending (edge_circuit.h). Of parts of
  // all tokens. Empty: none.
  std::vector<double> acdc;
  Kept kept = {};  // results of runs, for the next time
  int threads = 1;
  int64_t batch = 8, batch_tokens = 1024;
  const std::atomic<bool>* interrupted = nullptr;
  StudyProgress progress;
};

struct SizeScores {
  size_t size = 0;
  NodeId added;                        // the part that the next smaller circuit lacks; of size 0 embed
  std::array<double, 3> faithfulness;  // on each set; NaN: undefined
  double completeness = not_measured, minimality = not_measured;  // on the third set; of the least of its parts
  double random_mean = not_measured, random_lo = not_measured, random_hi = not_measured;  // 95 % of random circuits
};

struct Discovery {
  bool interrupted = false;
  CircuitGraph graph;
  SelectedPairs pairs;
  std::shared_ptr<const CircuitPositions> positions;  // null: parts are of all tokens
  std::array<std::vector<size_t>, 3> sets;            // indices of pairs.pairs
  std::vector<NodeId> circuit;                        // ascending
  double usage = 0;                                   // expert slots a token that the circuit takes up, of
  double usage_of_all = 0;                            // all experts
  bool chosen = true;                                 // a size was faithful enough on the second set, or was given
  std::vector<SizeScores> sizes;                      // ascending; the circuit's own among them
  std::array<SetScores, 3> scores;
  SizeCurve curve;  // on the third set
  Completeness completeness;
  std::vector<double> minimality;  // [circuit]
  RandomCircuits random;
  std::vector<double> random_faithfulness;  // on the third set
  struct Stability {
    int64_t samples = 0;
    std::vector<std::pair<NodeId, double>> inclusion;  // parts that any sample's circuit of that size has
    double jaccard = not_measured;                     // median over pairs of samples
  } stability;
  ParaphraseStability paraphrases;
  std::optional<EdgeCircuit> edges;  // of a search
  // What was forecast of parts and of edges, beside the runs of those that got some.
  struct Agreement {
    int64_t forecast = 0, run = 0;
    std::optional<double> spearman;  // of their sizes; none: nothing was forecast, or fewer than three were run
  } parts_agreement, edges_agreement;
  struct Redundant {
    NodeId one, two;
    double without_one = 0, without_two = 0, without_both = 0;
  };
  std::vector<Redundant> redundant;
  // Parts that write anything, in whose place something else would stand in some pair, and that got runs of their own.
  int64_t active_parts = 0, differing_parts = 0, tested_parts = 0, tested_edges = 0;
  // Over how many hypotheses q is (Benjamini-Hochberg): all that were candidates, whether they were run or not.
  struct Family {
    int64_t parts = 0;   // differing_parts
    int64_t edges = 0;   // feeds and selects of all edges among the parts that are left
    int64_t inputs = 0;  // query, key and value of those to a head that are large enough, or were not run
  } family;
};

// What discover_circuit refuses before the first forward.
void check_discover(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                    const DiscoverRequest& request, const std::string& input);

// `made`: jobs of the records, without edits. `input`: for messages. Throws Error before the first forward where pairs,
// splits or the request cannot be used, and what the forward throws.
Discovery discover_circuit(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                           const DiscoverRequest& request, const std::string& input);

// DIR/graph.json, circuit.json (the test of an old circuit goes) and the files that such a directory may hold. Each
// file is whole or not there; that both are is the caller's to say (KeptWork).
void write_discovery(const std::filesystem::path& dir, const Discovery& found, const DiscoverRequest& request,
                     const engine::Session& session);
inline constexpr const char* circuit_study_schema = "signalbox.circuit_study/1";  // of the manifest
inline constexpr const char *graph_file = "graph.json", *circuit_file = "circuit.json", *test_file = "test.json";

}  // namespace signalbox::eval
