// What speaks for and against a circuit that was found, on pairs that had no part in finding it (hypotheses.h).
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/circuit/circuit_scores.h"
#include "eval/circuit/discover.h"
#include "eval/circuit/hypotheses.h"

namespace signalbox::eval {

// What a test must know of DIR/circuit.json.
struct KnownCircuit {
  std::string model_hash;
  json::Value weights;  // hashes; null: not told
  Metric metric = Metric::logit_diff;
  CircuitAblation ablation = CircuitAblation::corrupt;
  int64_t n_positions = 0;    // by which parts are told apart; 0: they are of all tokens
  std::vector<NodeId> parts;  // ascending
  // Of a circuit of edges, which the tests are then of; ascending. None: they are of its parts.
  std::optional<std::vector<EdgeId>> edges;
  std::vector<std::string> names() const;  // of what is tested: parts or edges
  std::vector<std::string> used;           // names of pairs that found it or chose its size
  std::vector<std::string> held_out;       // those kept for a test
};
// Throws Error naming the file and the key.
KnownCircuit read_known_circuit(const std::filesystem::path& dir);

struct VerifyRequest {
  json::Value weights;  // hashes of the model's; null: not compared
  uint64_t seed = 0;
  int64_t random = 100, permutations = 1000, resamples = 10000, subsets = 4;
  double epsilon = 0.1, quantile = 0.9, alpha = 0.05;
  bool keep_all = false;
  int64_t batch = 8, batch_tokens = 1024;
  const std::atomic<bool>* interrupted = nullptr;
  StudyProgress progress;
};

struct Verification {
  bool interrupted = false;
  SelectedPairs pairs;            // those that take part
  std::vector<std::string> used;  // left out: they had a part in finding it
  SetScores scores;
  Completeness completeness;
  EquivalenceTest equivalence;
  IndependenceTest independence;
  MinimalityTest minimality;
  std::vector<double> changes;  // [part or edge] of the circuit's distance from the model, when it is taken out
  // The same of random parts that were added; of edges of random circuits that were, when one of theirs is taken out.
  std::vector<double> reference;
  RandomCircuits random;
  double distance = 0;             // mean |m(C) - m(M)|
  double complement_distance = 0;  // mean |m(M without C) - m(M)|
  RandomCircuitTest sufficiency, necessity;
};

// Throws Error: another model, no pair that had no part in finding it, and what discover_circuit throws.
Verification verify_circuit(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                            const KnownCircuit& circuit, const VerifyRequest& request, const std::string& input);

// DIR/test.json.
void write_verification(const std::filesystem::path& dir, const Verification& tested, const KnownCircuit& circuit,
                        const VerifyRequest& request, const engine::Session& session);

}  // namespace signalbox::eval
