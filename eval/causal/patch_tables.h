// What patching writes: patch.csv, flips.csv and summary.json.
#pragma once
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/causal/patch.h"

namespace signalbox::eval {

// A row of patch.csv. Of a pair: its effect, and that over M(clean) - M(corrupt) of the pair. Of all pairs (`pair`
// empty): the mean effect, and the ratio of the means over the pairs that have the unit, with its 95 % percentile
// bootstrap interval (pairs drawn with replacement). Undefined where |mean of M(clean) - M(corrupt)| is below twice its
// standard error; the interval with fewer than two pairs.
struct PatchEstimate {
  std::string pair;
  size_t point = 0;
  std::string unit;
  double effect = 0;
  double normalised = std::numeric_limits<double>::quiet_NaN();
  double ci_lo = std::numeric_limits<double>::quiet_NaN(), ci_hi = std::numeric_limits<double>::quiet_NaN();
  int64_t routes = 0, flipped = 0;
  bool refused = false;  // for its denominator
};

// All pairs first, then pair by pair; units of a point in ascending order. An expert's contribution that neither run of
// a pair has is 0 and counts as an effect of 0. results[i]: of selected.pairs[i].
std::vector<PatchEstimate> estimate_patches(const SelectedPairs& selected, const std::vector<PatchedPair>& results,
                                            const PatchRequest& request, uint64_t seed, int n_threads);

// Into `dir`, which is there. `about`: more members of summary.json.
void write_patch_tables(const std::filesystem::path& dir, const std::vector<PatchEstimate>& rows,
                        const PatchRequest& request, json::Value summary);

}  // namespace signalbox::eval
