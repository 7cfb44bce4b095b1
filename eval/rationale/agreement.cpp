#include "eval/rationale/agreement.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/compress/assignment.h"

namespace signalbox::eval {

namespace {

double pairs_of(int64_t n) { return static_cast<double>(n) * static_cast<double>(n - 1) / 2; }

}  // namespace

Contingency::Contingency(std::span<const int32_t> a, std::span<const int32_t> b, int64_t rows, int64_t columns)
    : Contingency(rows, columns) {
  for (size_t i = 0; i < a.size(); ++i) ++at(a[i], b[i]);
}

int64_t Contingency::row_sum(int64_t row) const {
  int64_t sum = 0;
  for (int64_t c = 0; c < n_columns; ++c) sum += at(row, c);
  return sum;
}

int64_t Contingency::column_sum(int64_t column) const {
  int64_t sum = 0;
  for (int64_t r = 0; r < n_rows; ++r) sum += at(r, column);
  return sum;
}

int64_t Contingency::total() const { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

double adjusted_rand(const Contingency& table) {
  double same = 0, rows = 0, columns = 0;
  for (const int64_t n : table.counts) same += pairs_of(n);
  for (int64_t r = 0; r < table.n_rows; ++r) rows += pairs_of(table.row_sum(r));
  for (int64_t c = 0; c < table.n_columns; ++c) columns += pairs_of(table.column_sum(c));
  const double all = pairs_of(table.total());
  const double expected = all > 0 ? rows * columns / all : 0, most = (rows + columns) / 2;
  return most == expected ? 1 : (same - expected) / (most - expected);
}

InformationScores information_scores(const Contingency& table) {
  const auto n = static_cast<double>(table.total());
  std::vector<double> rows, columns;
  for (int64_t r = 0; r < table.n_rows; ++r) rows.push_back(static_cast<double>(table.row_sum(r)) / n);
  for (int64_t c = 0; c < table.n_columns; ++c) columns.push_back(static_cast<double>(table.column_sum(c)) / n);
  const auto entropy = [](const std::vector<double>& shares) {
    double sum = 0;
    for (const double p : shares)
      if (p > 0) sum -= p * std::log(p);
    return sum;
  };
  double information = 0;
  for (int64_t r = 0; r < table.n_rows; ++r)
    for (int64_t c = 0; c < table.n_columns; ++c)
      if (table.at(r, c) > 0) {
        const double p = static_cast<double>(table.at(r, c)) / n;
        information += p * std::log(p / (rows[static_cast<size_t>(r)] * columns[static_cast<size_t>(c)]));
      }
  const double of_rows = entropy(rows), of_columns = entropy(columns);
  InformationScores scores;
  scores.homogeneity = of_columns > 0 ? information / of_columns : 1;
  scores.completeness = of_rows > 0 ? information / of_rows : 1;
  const double sum = scores.homogeneity + scores.completeness;
  scores.v_measure = sum > 0 ? 2 * scores.homogeneity * scores.completeness / sum : 0;
  return scores;
}

double pair_f1(const Contingency& table, int64_t row, int64_t column) {
  const int64_t both = table.row_sum(row) + table.column_sum(column);
  return both == 0 ? 0 : 2 * static_cast<double>(table.at(row, column)) / static_cast<double>(both);
}

std::vector<int32_t> match_rows(const Contingency& table, int64_t first_column) {
  const int64_t wanted = table.n_columns - first_column, n = std::max(table.n_rows, wanted);
  std::vector<float> scores(static_cast<size_t>(n * n), 0.f);
  for (int64_t r = 0; r < table.n_rows; ++r)
    for (int64_t c = 0; c < wanted; ++c)
      scores[static_cast<size_t>(r * n + c)] = static_cast<float>(pair_f1(table, r, first_column + c));
  std::vector<int32_t> matched(static_cast<size_t>(table.n_rows), -1);
  if (n == 0) return matched;
  const std::vector<int32_t> best = best_assignment(scores, n);
  for (int64_t r = 0; r < table.n_rows; ++r) {
    const int32_t c = best[static_cast<size_t>(r)];
    if (c < wanted && table.at(r, first_column + c) > 0)
      matched[static_cast<size_t>(r)] = static_cast<int32_t>(first_column + c);
  }
  return matched;
}

std::vector<int32_t> majority_columns(const Contingency& table) {
  std::vector<int32_t> columns;
  for (int64_t r = 0; r < table.n_rows; ++r) {
    const auto row = table.counts.begin() + r * table.n_columns;
    const auto most = std::max_element(row, row + table.n_columns);
    columns.push_back(*most > 0 ? static_cast<int32_t>(most - row) : -1);
  }
  return columns;
}

BaseRates base_rates(double p, int64_t n_classes) {
  const auto k = static_cast<double>(n_classes);
  BaseRates rates;
  rates.all_tokens = 2 * p / (1 + p);
  rates.random = 2 * p / (k * p + 1);
  rates.best_balanced = 2 * std::min(p, 1 / k) / (p + 1 / k);
  return rates;
}

}  // namespace signalbox::eval
