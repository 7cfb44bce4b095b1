// What patching writes: patch.csv, flips.csv and summary.json.
#pragma once
#include <filesystem>
#include <functional>
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

// Whether a unit that pair `pair` has no row of is 0 in both of its runs, and counts as an effect of 0; else the pair
// takes no part in the unit's means.
using AbsentIsZero = std::function<bool(size_t pair, size_t point, const std::string& unit)>;
// Of expert.contribution: where the pair has rows of other experts, at the same position or at all.
AbsentIsZero absent_contributions(const std::vector<PatchedPair>& results, const PatchRequest& request);

// All pairs first, then pair by pair; units of a point in ascending order. results[i]: of selected.pairs[i].
std::vector<PatchEstimate> estimate_patches(const SelectedPairs& selected, const std::vector<PatchedPair>& results,
                                            bool denoising, const AbsentIsZero& absent_is_zero, uint64_t seed,
                                            int n_threads);

// Why ratios of so many rows are left out, for summary.json.
json::Value refused_ratios(int64_t rows);

// Into `dir`, which is there. `summary`: what else it says.
void write_patch_tables(const std::filesystem::path& dir, const std::vector<PatchEstimate>& rows,
                        const PatchRequest& request, json::Value summary);

}  // namespace signalbox::eval
