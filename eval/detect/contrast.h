// The counts behind a contrast of two conditions: how many tokens of each record selected each expert.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/contribution.h"
#include "eval/routing/trace_set.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// What is compared, and how it is resampled.
struct ContrastOptions {
  std::string a, b;  // values of the records' condition: A minus B
  std::string span;  // only tokens of this span; empty = all
  Phase phase = Phase::all;
  // Within each pair, only the first K counted tokens of each sample count, K being the number of the shortest sample
  // of the pair. Every record under A or B must have a partner.
  bool length_match = false;
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  int64_t stable_top = 50;   // the N of RiskDifference::stable
  bool family_wise = false;  // also RiskDifference::p_maxt
  int threads = 0;           // 0: as many as the machine has; results do not depend on it
  // Replicates done of n_replicates(); called from the calling thread. May throw to end the work.
  std::function<void(int64_t)> on_progress;
};

// A record that takes part: it has at least one token that counts.
struct ContrastRecord {
  std::string id;
  std::string pair;  // empty: none
  bool under_b = false;
  int64_t tokens = 0;                     // that count, all samples together
  std::vector<std::string> prompts = {};  // TraceRecord::prompts
  // Every token of these counts was given and none was cut: another record of the same prompt must have the same
  // counts.
  bool decided_by_prompt = false;
};

// Sums over the tokens of one condition; [row], as ContrastCounts::selected. Empty: not recorded.
struct PooledSums {
  std::vector<double> weight;  // applied weights where selected
  std::vector<double> logit;   // router logits, of all tokens; NaN for experts that a layer does not have
};

// What experts gave, summed over the tokens of a record. Empty: not recorded.
struct ContributionSums {
  std::vector<int64_t> tokens;  // [record] that count and of which it is defined
  std::vector<double> sums;     // [record][row]; tokens that did not select the expert add 0
};

struct ContrastCounts {
  std::vector<int32_t> layers;
  int32_t n_experts = 0;
  std::vector<ContrastRecord> records;  // in order of first appearance
  std::vector<uint32_t> selected;       // [record][layer][expert] tokens that selected the expert
  PooledSums a, b;
  std::array<ContributionSums, n_contributions> contributions;
  // For the summary.
  int64_t n_samples = 0;                 // behind the records
  int64_t n_records_without_tokens = 0;  // under A or B, but none of their tokens counts: they take no part
  int64_t n_tokens_cut = 0;              // by length_match

  bool has(Contribution which) const { return !contributions[static_cast<size_t>(which)].tokens.empty(); }
  size_t n_rows() const { return layers.size() * static_cast<size_t>(n_experts); }
};

// Counts a contrast. Throws Error when a == b, a condition that no record has, a span that a trace does not know, no
// token left under A or B, length_match and a record without a partner.
ContrastCounts count_contrast(const TraceSet& set, const ContrastOptions& options);

// Why detection by selection can find nothing in a contrast, and what to do instead: a sentence or two; empty where the
// share of some expert differs.
std::string no_difference(const ContrastCounts& counts, const ContrastOptions& options);

// What is resampled: records of a pair that has records on both sides are one unit, others each their own. Units whose
// records have the same prompt under the same condition are one: copies, and pairs that share a side (a question
// without its document), for what such records select is the same. Pairs are joined with pairs and others with others.
// Where counts are decided by the prompt and differ, the records are no copies, whatever their prompts say.
struct ContrastUnits {
  struct Pair {
    std::vector<size_t> a, b;  // indices of records
  };
  std::vector<Pair> pairs;                          // complete ones, in order of first appearance
  std::vector<std::vector<size_t>> only_a, only_b;  // records of each
  int64_t named_pairs = 0;                          // complete pairs before any were joined
};
ContrastUnits contrast_units(const ContrastCounts& counts);

}  // namespace signalbox::eval
