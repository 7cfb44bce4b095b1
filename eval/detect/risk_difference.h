// Risk difference: how much more often an expert is selected under one condition than under another, with intervals and
// p-values by resampling of examples (docs/detection.md).
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/detect/contrast.h"

namespace signalbox::eval {

// The difference of one of the numbers of what experts give; no_number where it is not recorded or not defined.
struct ContributionDifference {
  double value = no_number;  // mean per token, A - B; 0 where the expert is not selected
  Interval ci = {no_number, no_number};
  double p = no_number, q = no_number;
};

// One expert of one recorded layer: a line of rd.csv. Counts are tokens: under A (1) and B (2), that selected the
// expert (a) or not (d). no_number where undefined, an empty cell.
struct RiskDifference {
  int32_t layer = 0, expert = 0;
  int64_t a1 = 0, d1 = 0, a2 = 0, d2 = 0;
  Interval ci = {};                       // 95 %, of value(); no_number where a side has one unit
  double p = 1, q = 1;                    // two-sided; Benjamini-Hochberg over all rows
  double rd_example = no_number;          // mean share of records under A - under B
  double rd_weight = no_number;           // mean applied weight (0 where not selected), A - B
  double log_odds = no_number;            // natural log, 1/2 added to each cell
  double t = no_number, t_p = no_number;  // on shares: paired over complete pairs; Welch over records without any pair
  double logit_diff = no_number;          // mean router logit, A - B
  double stable = no_number;              // share of bootstrap replicates with the expert among the top N by |rd|
  double se = no_number;                  // standard error of value() (difference_errors)
  double rd_shrunk = no_number;           // value() shrunk by what all rows show (shrink_effects)
  double lfsr = no_number;                // local false sign rate of rd_shrunk
  double p_maxt = no_number;              // family-wise, step-down max-T; only when asked for
  std::array<ContributionDifference, n_contributions> contributions = {};  // by Contribution

  // a1 / (a1 + d1) - a2 / (a2 + d2)
  double value() const;
};

// What took part, for summaries and for refusals to test on the same data.
struct DetectionFacts {
  std::vector<std::string> records;               // ids
  std::vector<std::vector<std::string>> prompts;  // [records] TraceRecord::prompts
  int64_t records_a = 0, records_b = 0, pairs = 0;
  int64_t unpaired_a = 0, unpaired_b = 0;  // records outside complete pairs
  // Examples: what is resampled. Fewer than pairs and records where these have prompts in common (contrast_units).
  int64_t pair_examples = 0, examples_a = 0, examples_b = 0;
  int64_t tokens_a = 0, tokens_b = 0, samples = 0;
  int64_t records_without_tokens = 0, tokens_cut = 0;
  int64_t stable_top = 0;         // the N that was used: at most the number of rows
  double null_share = no_number;  // weight of no difference in the prior of rd_shrunk
  std::string no_difference;      // contrast.h's; of detect() alone
  double smallest_p = 1;          // that the number of resamples and that of distinct relabellings allow
};

struct Detection {
  std::vector<RiskDifference> rows;  // every expert of every recorded layer, ascending by layer and expert
  DetectionFacts facts;
  std::vector<std::string> warnings;  // what numbers of examples and of resamples do not allow; a sentence each
};

// The statistics of counted contrasts. Of the options only seed, resamples, stable_top, family_wise, threads and
// on_progress matter. The bootstrap draws complete pairs, other records under A and other records under B, each among
// their kind. p and p_maxt compare the risk difference, divided by its own standard error, with its values under
// relabelling (relabel_contrast): over complete pairs where there are any, else over records. What experts give is
// compared in the same way where it is recorded (add_contribution_differences). Throws Error when resamples < 1,
// stable_top < 1, or no record is left under A or under B.
Detection detect(const ContrastCounts& counts, const ContrastOptions& options);

// The same without the test: p, q, p_maxt, se, rd_shrunk and lfsr are undefined, there are no warnings, and on_progress
// counts to `resamples`.
Detection measure(const ContrastCounts& counts, const ContrastOptions& options);

// What on_progress of detect counts to.
int64_t n_replicates(const TraceSet& set, const ContrastOptions& options);

// count_contrast and detect in one.
Detection detect(const TraceSet& set, const ContrastOptions& options);

// rd.csv as in the contract, then t, t_p, logit_diff, stable, se, rd_shrunk, lfsr, and p_maxt where some row has it;
// then rd_norm, rd_norm_lo, rd_norm_hi, p_norm, q_norm where some row has them, and the same of update and direct.
// Written under another name and renamed.
void write_rd_csv(const std::filesystem::path& file, const std::vector<RiskDifference>& rows);

// The "contrast" object of summary.json: conditions, filters, tests, resampling unit, B, seed and the facts.
json::Value contrast_summary(const Detection& detection, const ContrastOptions& options);

// summary.json of a detection alone, for whoever calls detect() in-process and writes rd.csv beside it: `traces`,
// `contrast`, `warnings`, `records` (ids that took part), and the prompts of these as PromptList writes them; in
// "not_in_contrast" those of the pool's other records.
json::Value detection_summary(const TraceSet& set, const Detection& detection, const ContrastOptions& options);

}  // namespace signalbox::eval
