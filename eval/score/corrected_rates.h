// Rates that a rule or a judge finds, corrected by a sample that people have labelled: Rogan and Gladen's estimate, and
// prediction-powered inference.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "eval/score/confusion.h"

namespace signalbox::eval {

// One line of an intervention: what the rule says of it, and the label where a person gave one.
struct ScoredLine {
  int64_t cluster = 0;  // from 0; the same numbers in all interventions and in the labels
  double score = 0;     // 0 ... 1
  std::optional<bool> label;
};

// An estimate and how it moves with each cluster (its influence, summed over the cluster's lines): var = sum of
// squares. The difference of two estimates that share clusters has the difference of their influences.
struct LinearEstimate {
  double value = no_number;
  std::map<int64_t, double> influence;
  Share share() const;  // value -+ 1.96 standard errors; not cut to [0, 1]
};
LinearEstimate operator-(const LinearEstimate& a, const LinearEstimate& b);

struct CorrectedRate {
  int64_t n = 0, n_labels = 0, n_wrong = 0;  // lines; labels that correct it, and on how many of them the rule is wrong
  LinearEstimate rule;                       // mean score
  // Share p of scores >= threshold, corrected: (p + sp - 1) / (se + sp - 1) with sensitivity and specificity of
  // `pooled` (Rogan and Gladen 1978), delta method. Undefined where se + sp <= 1, or one of them is.
  LinearEstimate rogan_gladen;
  // Prediction-powered inference (Angelopoulos et al. 2023): mean score of the lines without a label, plus the mean of
  // label - score over the labels. Undefined for fewer than two clusters in either.
  LinearEstimate ppi;
  // Power-tuned (PPI++, Angelopoulos, Duchi and Zrnic 2023): mean of lambda score, plus the mean of label - lambda
  // score, with lambda = cov(label, score) / ((1 + n/N) var(score)) in [0, 1]; cov over the n labels with the
  // denominator n, var over labels and lines with the denominator n + N - 1. Where all lines are labelled, or all
  // scores equal, lambda is 0 and this is the mean of the labels.
  LinearEstimate tuned;
  double lambda = no_number;
};

struct RateOptions {
  double threshold = 0.5;
  // Weight of two labels that nobody gave, one of each kind of error, in the variances (not in the estimates): without
  // them a sample in which the rule was never wrong would prove it right, and the interval cover far less than 95 %
  // (Agresti and Min 2005 add as much to each cell of a table). 0: the intervals as published.
  double imagined = 0.5;
};

// The rates of several interventions (each the lines of one), corrected by their own labels where `own`, else by
// `pooled`, which then says that the rule errs alike under all of them. Sensitivity and specificity are always those of
// `pooled`. Influences of clusters within labels, and within lines, have Bessel's correction G/(G - 1).
std::vector<CorrectedRate> corrected_rates(std::span<const std::vector<ScoredLine>> interventions,
                                           std::span<const LabelledScore> pooled, bool own, const RateOptions& options);

// a - b, part by part; n, n_labels, n_wrong and lambda are those of a.
CorrectedRate rate_difference(const CorrectedRate& a, const CorrectedRate& b);

}  // namespace signalbox::eval
