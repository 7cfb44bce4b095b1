#include "eval/compress/assignment.h"

#include <algorithm>
#include <limits>

namespace signalbox::eval {

namespace {

// Costs are the negated scores. Prices u (of rows) and v (of columns) keep cost - u - v at 0 or above, and at 0 where a
// row has its column.
class Assignment {
 public:
  Assignment(std::span<const float> scores, int64_t n)
      : scores_(scores), n_(n), u_(n), v_(n), column_of_(n, -1), row_of_(n, -1) {}

  std::vector<int32_t> run() {
    begin();
    for (int64_t row = 0; row < n_; ++row)
      if (column_of_[row] < 0) augment(row);
    return column_of_;
  }

 private:
  double cost(int64_t row, int64_t column) const { return -static_cast<double>(scores_[row * n_ + column]); }

  // Prices that are feasible, and the rows that their cheapest columns can be given to at once.
  void begin() {
    for (int64_t j = 0; j < n_; ++j) v_[j] = cost(0, j);
    for (int64_t i = 1; i < n_; ++i)
      for (int64_t j = 0; j < n_; ++j) v_[j] = std::min(v_[j], cost(i, j));
    for (int64_t i = 0; i < n_; ++i) {
      int64_t best = 0;
      double least = std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < n_; ++j)
        if (const double left = cost(i, j) - v_[j]; left < least) {
          least = left;
          best = j;
        }
      u_[i] = least;
      if (row_of_[best] < 0) {
        row_of_[best] = static_cast<int32_t>(i);
        column_of_[i] = static_cast<int32_t>(best);
      }
    }
  }

  // The cheapest path of columns from a row without one to a column without a row.
  void augment(int64_t start) {
    std::vector<double> distance(n_, std::numeric_limits<double>::infinity());
    std::vector<int32_t> from(n_, -1), open(n_);  // the row before each column; columns not yet reached for good
    for (int64_t j = 0; j < n_; ++j) open[j] = static_cast<int32_t>(j);
    std::vector<int32_t> rows, columns;  // scanned; columns[s] led to rows[s + 1]
    double reached = 0;
    int64_t row = start, sink = -1;
    while (sink < 0) {
      rows.push_back(static_cast<int32_t>(row));
      size_t nearest = 0;
      double least = std::numeric_limits<double>::infinity();
      for (size_t o = 0; o < open.size(); ++o) {
        const int32_t j = open[o];
        const double through = reached + cost(row, j) - u_[row] - v_[j];
        if (through < distance[j]) {
          distance[j] = through;
          from[j] = static_cast<int32_t>(row);
        }
        // Among equals a free column, which ends the search.
        if (distance[j] < least || (distance[j] == least && row_of_[j] < 0)) {
          least = distance[j];
          nearest = o;
        }
      }
      reached = least;
      const int32_t column = open[nearest];
      open[nearest] = open.back();
      open.pop_back();
      columns.push_back(column);
      if (row_of_[column] < 0) {
        sink = column;
      } else {
        row = row_of_[column];
      }
    }
    u_[start] += reached;
    for (size_t s = 1; s < rows.size(); ++s) u_[rows[s]] += reached - distance[columns[s - 1]];
    for (const int32_t column : columns) v_[column] -= reached - distance[column];
    for (int64_t column = sink;;) {
      const int32_t taker = from[column];
      row_of_[column] = taker;
      const int32_t left = column_of_[taker];
      column_of_[taker] = static_cast<int32_t>(column);
      if (taker == start) return;
      column = left;
    }
  }

  std::span<const float> scores_;
  const int64_t n_;
  std::vector<double> u_, v_;
  std::vector<int32_t> column_of_, row_of_;
};

}  // namespace

std::vector<int32_t> best_assignment(std::span<const float> scores, int64_t n) {
  if (n == 0) return {};
  return Assignment(scores, n).run();
}

std::vector<int32_t> greedy_assignment(std::span<const int32_t> order, int64_t block,
                                       const std::function<void(int64_t, int64_t, float*)>& rows) {
  const auto n = static_cast<int64_t>(order.size());
  std::vector<int32_t> columns(order.size(), -1);
  std::vector<uint8_t> taken(order.size(), 0);
  std::vector<float> scores(static_cast<size_t>(std::min(block, n) * n));
  for (int64_t first = 0; first < n; first += block) {
    const int64_t count = std::min(block, n - first);
    rows(first, count, scores.data());
    for (int64_t i = 0; i < count; ++i) {
      int64_t best = -1;
      for (int64_t j = 0; j < n; ++j)
        if (!taken[j] && (best < 0 || scores[i * n + j] > scores[i * n + best])) best = j;
      taken[best] = 1;
      columns[order[first + i]] = static_cast<int32_t>(best);
    }
  }
  return columns;
}

}  // namespace signalbox::eval
