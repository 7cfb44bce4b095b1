// Pairs of a clean and a corrupt record, between whose runs values are exchanged.
//
// Records of a pair share "pair" and have the "condition" clean or corrupt. Position t of the clean sequence stands for
// position t of the corrupt one where both have as many tokens (those of a target included), or as "map" says: a list
// of [clean position, corrupt position] in either record. What is in no entry of a map is never exchanged.
//
// Both runs are measured by one metric: the two records have the same target, or the same answer and foil.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/metric.h"
#include "eval/data/record_jobs.h"

namespace signalbox::eval {

struct CausalPair {
  std::string name;                         // the key "pair"
  size_t clean = 0, corrupt = 0;            // indices of records, encoded records and jobs
  MetricRows clean_rows, corrupt_rows;      // of one metric
  std::vector<std::array<int32_t, 2>> map;  // [clean, corrupt] positions, ascending by the clean one, one to one
};

// The pairs of all records, in order of first appearance. `made`: a job of each record. Throws Error naming the
// record's place: a record without "pair" or with another condition, a pair with one side or with one side twice,
// unequal lengths without a map, a map that is empty, out of range or not one to one, or that the other record
// contradicts, what the metric needs and a record lacks (metric_rows), a target, answer or foil that is not the other
// record's; for nll a pair without a target, whose texts differ in what is predicted.
std::vector<CausalPair> causal_pairs(Metric metric, const std::vector<Record>& records, const RecordJobs& made,
                                     const engine::EncodeSetup& setup);

// Whether the clean run prefers the answer and the corrupt one does not. logit_diff: above 0 on clean, below 0 on
// corrupt; logprob, nll: the target is more probable on clean. kl, of the clean run and this one, prefers nothing:
// true.
bool prefers_answer(Metric metric, double clean, double corrupt);

// The metric of both unedited runs; `kl` is that of the clean run and the corrupt one.
struct PairValues {
  double clean = 0, corrupt = 0;
  bool operator==(const PairValues&) const = default;
};

struct SelectedPairs {
  std::vector<CausalPair> pairs;     // those that take part
  std::vector<PairValues> values;    // of each of them
  std::vector<std::string> dropped;  // names of those that do not
  bool interrupted = false;
};
// Runs both records of every pair, and drops the pairs that do not prefer their answer, unless `keep_all`. Throws Error
// that begins with `where` (the input) when none is left, unless there `may_be_none`.
SelectedPairs select_pairs(const engine::Session& session, const RecordJobs& made, std::vector<CausalPair> pairs,
                           bool keep_all, const std::string& where, const std::atomic<bool>* interrupted = nullptr,
                           bool may_be_none = false);
// That Error.
void require_a_pair(const SelectedPairs& selected, const std::string& where);

// {"read", "kept", "dropped": [names], "dropped_because"} for summary.json.
json::Value pairs_summary(const SelectedPairs& selected);
// "2 of 10 pairs dropped: ...: a, b", for people; empty where none is.
std::string dropped_pairs_text(const SelectedPairs& selected);

}  // namespace signalbox::eval
