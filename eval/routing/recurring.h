// Regime profiles and recurring experts: who is used more than under the baseline regime, in several regimes, and in
// most of the sampled trajectories. Descriptive: what an expert does for the answer is for interventions to show.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/routing/profiles.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

struct RegimeOptions {
  std::string baseline = "R0";
  // The regime whose trajectories show constancy; empty: the one with the most per prompt among those that ask in other
  // words than the baseline (among all, where none is sampled).
  std::string sampled;
  // The baseline's own wording, sampled; empty: another regime than `sampled` that asks in the baseline's words, with
  // several trajectories a prompt (the most), if there is one.
  std::string sampled_baseline;
  double level = 0.05;  // of q
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  int threads = 1;
};

// An expert under a regime. Means over base prompts of the mean over a prompt's trajectories, so that neither long nor
// often sampled prompts weigh more.
struct RegimeExpert {
  MeanEstimate share;
  double weight = 0;  // mean applied weight over all tokens
  // Against the baseline, over the base prompts that both regimes have; absent for the baseline itself.
  MeanEstimate difference;
  double p = 0, q = 0;  // sign flip over base prompts; Benjamini-Hochberg over all experts, layers and regimes
};

struct RegimeProfile {
  std::string name;
  int64_t n_prompts = 0, n_trajectories = 0;
  int64_t n_paired = 0;               // base prompts that the baseline has too
  MeanEstimate length;                // generated tokens: mean over prompts of the mean over trajectories
  int64_t shortest = 0, longest = 0;  // of a trajectory
  std::vector<RegimeExpert> experts;  // [layers, experts]
};

// An expert over all regimes.
//
// constancy (the column "persistence" of recurring.csv; persistence.csv of an analysis is about neighbouring tokens):
// used_more (equal_lengths.h) of a trajectory of the sampled regime against one of the prompt's baseline, the mean over
// all pairs of a prompt's trajectories, then over prompts. 0.5 where nothing differs, whatever the share and the
// lengths; 0.5 for an unused expert.
// sampled_baseline: the same of the baseline's own wording, sampled; over_baseline: the difference of the two, over
// prompts that have both.
//
// rise: the second largest difference to the baseline over the other regimes but the sampled baseline (the only one,
// where there is one): what at least two regimes reach.  score = max(rise, 0) * constancy. Its interval is a percentile
// bootstrap over base prompts in which all differences, their order and the constancy are taken anew. Experts are
// ranked by the interval's lower end: what the data support, not what chance may have lifted; then by score, layer and
// expert.
struct RecurringExpert {
  size_t row = 0;    // in [layers, experts]
  int64_t n_up = 0;  // regimes but the sampled baseline with a difference above 0 and q below the level
  double rise = 0;
  // The same over wordings: regimes that ask in words of their own, neither the baseline's nor those of an earlier one.
  int64_t n_up_wordings = 0;
  double rise_wordings = 0;                      // NaN where there is no such regime
  MeanEstimate constancy;                        // NaN without a sampled regime: the score is then max(rise, 0)
  MeanEstimate sampled_baseline, over_baseline;  // NaN without one
  double score = 0;
  Interval score_ci;
};

// Trend with the prompts' difficulty under a regime: sum over levels k of w_k * (mean share of the prompts of level k),
// w_k = (d_k - mean d) / sum (d - mean d)^2, so that the w_k sum to 0 and the trend is the slope of the level means.
struct DifficultyTrend {
  std::string regime;
  std::vector<double> slope;   // [layers, experts], share per unit of difficulty
  std::vector<Interval> ci;    // bootstrap over the prompts within each level
  std::vector<double> levels;  // ascending
};

struct RegimeAnalysis {
  std::vector<int32_t> layers;
  int32_t n_experts = 0;
  std::vector<RegimeProfile> regimes;       // the baseline first, then in order of appearance
  std::string sampled;                      // empty: no regime has a prompt with two trajectories
  std::string sampled_baseline;             // empty: there is none
  std::vector<std::string> wordings;        // the regimes that n_up_wordings and rise_wordings go over
  std::vector<RecurringExpert> recurring;   // all experts, best first
  std::vector<DifficultyTrend> difficulty;  // empty unless every base prompt has a difficulty, on two levels or more
};

// Throws Error: no trajectories of the baseline or of another regime, a regime that shares no base prompt with the
// baseline, a sampled regime that is absent, a sampled baseline that is absent or has other words.
RegimeAnalysis analyze_regimes(const RoutingProfiles& profiles, const RegimeOptions& options);

// regimes.csv, recurring.csv, lengths.csv, difficulty.csv (where there is a trend), summary.json; `where_from` goes
// into the summary. They replace those of an earlier analysis together (StagedFiles), one process at a time.
void write_regimes(const RegimeAnalysis& analysis, const RoutingProfiles& profiles, const RegimeOptions& options,
                   const json::Value& where_from, const std::filesystem::path& dir);

// For people: the regimes, and the first `top` recurring experts.
std::string regimes_text(const RegimeAnalysis& analysis, const RegimeOptions& options, size_t top, int width = 0);

}  // namespace signalbox::eval
