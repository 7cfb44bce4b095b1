// Does a model treat a*b and b*a alike, and where? (docs/commutativity.md)
//
// Pairs of records with one answer (the same target) are the two orders of one question. What stands at the answer's
// position, the token that predicts the answer's first one, is compared in every layer with that of control pairs:
//
//   same_answer   a record of the pair and one of another pair with the same answer: other operands
//   one_token     a record of the pair and one of another answer whose prompt differs in one token
//   other_order   pairs of the input whose targets differ: the same tokens in both orders, and the order matters
//
// And causally: the residual stream of one order at the answer's position takes the place of that of the other, behind
// one layer; what becomes of the log p of the answer?
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/estimates.h"
#include "eval/data/record_jobs.h"
#include "eval/store/kept_work.h"

namespace signalbox::eval {

struct CommutativityRequest {
  Resamples resamples;
  int64_t step_tokens = 512, step_cells = 64;  // of one step, at most (a run alone may have more tokens)
  Kept kept;                                   // finished comparisons
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t runs)> on_progress;  // of commutativity_runs()
};

// A row of similarity.csv. The AUC of a pair: the share of its controls that are less alike than it is, ties a half.
struct SimilarityRow {
  int32_t layer = 0;
  std::string measure, control;  // cosine (centred over all records) or jaccard (of routes)
  int64_t pairs = 0, controls = 0;
  double commuted = 0, of_controls = 0;  // means over pairs
  PairedEstimate auc;                    // less one half, for p and interval; q over the layers
};
// A row of swaps.csv.
struct SwapRow {
  int32_t layer = 0;
  std::string donor;  // commuted or a kind of control
  int64_t pairs = 0;
  double logprob = 0;           // unedited
  PairedEstimate effect;        // log p with the donor's stream - unedited
  double changed = 0;           // share of runs whose likeliest answer is another
  PairedEstimate over_control;  // effect of the commuted donor - that of this one, same pairs; undefined for others
};
// A row of pairs.csv: one pair, one layer.
struct CommutedPair {
  std::string pair;
  int32_t layer = 0;
  double cosine = 0, jaccard = 0;                // jaccard: NaN for layers without a router
  double logprob_first = 0, logprob_second = 0;  // unedited
  double effect_first = 0, effect_second = 0;    // of the other one's stream, on each
};
struct Commutativity {
  bool interrupted = false;
  int64_t commuted = 0, other_order = 0;  // pairs
  std::vector<SimilarityRow> similarity;
  std::vector<SwapRow> swaps;
  std::vector<CommutedPair> pairs;
};

// The products 2*3= to 8*9= in both orders, 28 pairs with their answers, and the differences 3-2= to 9-8= in both
// orders, whose answers differ.
std::vector<Record> product_records();

// Throws Error naming the record's place: no target, no pair, a pair of other than two records; fewer than two pairs
// with one answer.
void require_commuted_pairs(const std::vector<Record>& records);
int64_t commutativity_runs(const engine::Session& session, const std::vector<Record>& records);  // for progress
// Records as require_commuted_pairs() takes them.
Commutativity study_commutativity(const engine::Session& session, const std::vector<Record>& records,
                                  const RecordJobs& made, const CommutativityRequest& request);

inline constexpr const char* commutativity_schema = "signalbox.commutativity/1";  // of the manifest and the summary
// The files of a study: similarity.csv, swaps.csv, pairs.csv and summary.json.
std::vector<std::string> commutativity_files();
void write_commutativity(const std::filesystem::path& dir, const Commutativity& study,
                         const CommutativityRequest& request, const engine::Session& session, const std::string& input);

}  // namespace signalbox::eval
