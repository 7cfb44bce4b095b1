// How well factors of tokens agree with labels: matched on one part of the data, scored on another.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/rationale/agreement.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// Units of sentences, in order: the factor (0 ... K-1) and the label (0: none, then 1 ... C) of each.
struct FactorUnits {
  std::vector<int32_t> factor, label;
  std::vector<int64_t> sentence;  // not falling
  size_t n() const { return factor.size(); }
};

struct FactorScore {
  int32_t factor = -1, label = -1;  // -1: none goes with the other
  int64_t hits = 0, predicted = 0, gold = 0;
  double precision = 0, recall = 0, f1 = 0;  // of pooled counts; 0 where 0/0
  double f1_sentences = 0;                   // mean over the sentences that have one of gold or predicted units
  Interval ci;                               // 95 % of f1, by bootstrap over these sentences
  BaseRates base;                            // of a label's share of all units
};

struct FactorReport {
  std::vector<FactorScore> rows;      // matched and unmatched factors, then labels without a factor
  double macro_f1 = 0, micro_f1 = 0;  // mean over labels, those without a factor 0; of pooled counts
  double many_to_one_f1 = 0;          // macro; each factor stands for the label it has most of where it was matched
  InformationScores information;
  double adjusted_rand = 0;
  // macro_f1 under labels whose sentences changed places, in both parts: mean, what 95 % do not exceed, and the
  // one-sided p.
  double permuted_mean = 0, permuted_high = 0, permuted_p = 1;
  int64_t permutations = 0;
};

// Factors go with labels as `fitted` on says (match_rows); everything else is of `units`. `n_labels`: C.
FactorReport score_factors(const FactorUnits& fitted_on, const FactorUnits& units, int64_t n_factors, int64_t n_labels,
                           uint64_t seed, int64_t resamples, int64_t permutations, int threads);

}  // namespace signalbox::eval
