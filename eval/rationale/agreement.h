// Two divisions of the same units (tokens, words) held against each other: by pairs, by information, by matching.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// How often the two say what: counts [n_rows, n_columns].
struct Contingency {
  int64_t n_rows = 0, n_columns = 0;
  std::vector<int64_t> counts;

  Contingency(int64_t rows, int64_t columns)
      : n_rows(rows), n_columns(columns), counts(static_cast<size_t>(rows * columns)) {}
  // Labels are below n_rows and n_columns.
  Contingency(std::span<const int32_t> a, std::span<const int32_t> b, int64_t rows, int64_t columns);
  int64_t& at(int64_t row, int64_t column) { return counts[static_cast<size_t>(row * n_columns + column)]; }
  int64_t at(int64_t row, int64_t column) const { return counts[static_cast<size_t>(row * n_columns + column)]; }
  int64_t row_sum(int64_t row) const;
  int64_t column_sum(int64_t column) const;
  int64_t total() const;
};

// The Rand index corrected for chance (Hubert and Arabie 1985), as scikit-learn's adjusted_rand_score: 1 for the same
// division under other names, 0 on average for independent ones; 1 where both have one class, or only classes of one.
double adjusted_rand(const Contingency& table);

// Rosenberg and Hirschberg 2007, natural logarithms; rows are the found division, columns the true one. v_measure is
// also the mutual information divided by the mean of the two entropies (NMI). An entropy of 0 gives 1.
struct InformationScores {
  double homogeneity = 0, completeness = 0, v_measure = 0;
};
InformationScores information_scores(const Contingency& table);

// F1 of a row as a prediction of a column: 2 n / (row sum + column sum); 0 where that is 0/0.
double pair_f1(const Contingency& table, int64_t row, int64_t column);

// [n_rows] the column that goes with each row, -1: none, so that the sum of F1 is the largest; columns before
// `first_column` take no part, and a pair without a common unit is none.
std::vector<int32_t> match_rows(const Contingency& table, int64_t first_column);
// [n_rows] the column that each row has most units of (the first of equals; -1 for a row without units).
std::vector<int32_t> majority_columns(const Contingency& table);

// What F1 a division of K classes reaches for a label of which a share p of all units is, knowing nothing or all.
struct BaseRates {
  double all_tokens = 0;     // one class takes every unit: 2p / (1 + p)
  double random = 0;         // a random class of mass 1/K: 2p / (Kp + 1)
  double best_balanced = 0;  // the best class of mass 1/K: 2 min(p, 1/K) / (p + 1/K)
};
BaseRates base_rates(double p, int64_t n_classes);

}  // namespace signalbox::eval
