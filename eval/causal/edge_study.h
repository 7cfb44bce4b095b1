// Direct edges between nodes, and what they do to a metric (docs/causal-edges.md): the receiver gets what it would have
// computed with the sender's value of the other run and everything between the two held, and the rest of the run
// follows from there. Path patching, of which only the last of three passes is run.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/node.h"
#include "eval/causal/pairs.h"
#include "eval/causal/patch_tables.h"
#include "eval/store/kept_work.h"

namespace signalbox::eval {

struct EdgeRequest {
  Metric metric = Metric::logit_diff;
  bool denoising = false;
  std::vector<CausalNode> senders, receivers;                                      // find_nodes
  bool by_position = false;                                                        // each token apart; else all at once
  int64_t first_position = 0, end_position = std::numeric_limits<int64_t>::max();  // of the clean record's tokens
  int64_t step_tokens = 512, step_cells = 64;  // of one step, at most (a cell alone may have more tokens)
  bool margins = false;                        // of every router that receives: which parts make its margin
  bool keep_all = false;
  std::string input;  // for messages
  uint64_t seed = 0;
  Kept kept;  // finished pairs
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t receivers)> on_progress;  // of pairs x receivers
};

// An edge in one pair, of one token or of all.
struct EdgeRow {
  size_t sender = 0, receiver = 0;  // of the request
  std::string position;             // of the target run's tokens; empty: all
  int64_t tokens = 0;               // at which what the receiver makes changes
  double change = 0;                // root of the mean over these tokens of |change|^2; of a router, of its logits
  int64_t flipped = 0;              // of a router: tokens whose set of experts becomes another
  double effect = 0;                // metric with the receiver's new value - metric
};

// What a sender gives to the logits between which the margin of a token's route lies (DirectEdges::route_shares), in
// the run that is changed; over all senders and the rest they add up to the two logits.
struct MarginRow {
  size_t pair = 0;
  int32_t position = 0, layer = 0, last_in = 0, first_out = 0;
  std::string sender;  // or "rest": biases
  double of_last_in = 0, of_first_out = 0;
};

struct EdgeStudy {
  bool interrupted = false;
  SelectedPairs selected;
  std::vector<std::vector<EdgeRow>> of_pairs;  // [pairs] edges along which nothing changes are left out
  std::vector<MarginRow> margins;
  std::vector<PatchEstimate> estimates;  // point: sender * receivers + receiver, unit: position
};

// Throws Error before anything is run: no sender comes before a receiver, or a pair has none of the positions.
void check_edges(const EdgeRequest& request, const std::vector<Record>& records, const std::vector<CausalPair>& pairs,
                 const ModelShape& shape);
// check_edges() has been called. Throws Error as select_pairs and the forward do.
EdgeStudy measure_edges(const engine::Session& session, const RecordJobs& made, std::vector<CausalPair> pairs,
                        const EdgeRequest& request);

inline constexpr const char* edges_schema = "signalbox.edges/1";  // of the manifest and the summary
std::vector<std::string> edge_files(const EdgeRequest& request);
// These, into `dir`, which is there: edges.csv, summary.json and, where they were asked for, margins.csv.
void write_edges(const std::filesystem::path& dir, const EdgeStudy& study, const EdgeRequest& request,
                 const engine::Session& session);

}  // namespace signalbox::eval
