// Made-up counts for tests of detection, without a model.
#pragma once
#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "eval/detect/contrast.h"

namespace signalbox::test {

using namespace signalbox::eval;

// Empty counts of `n_layers` layers (numbered from 0) for records in pairs, or unpaired: record 2i is under A, 2i + 1
// under B.
inline ContrastCounts empty_counts(int32_t n_layers, int32_t n_experts, int64_t n_each, bool paired) {
  ContrastCounts counts;
  for (int32_t layer = 0; layer < n_layers; ++layer) counts.layers.push_back(layer);
  counts.n_experts = n_experts;
  for (int64_t i = 0; i < n_each; ++i)
    for (const bool b : {false, true}) {
      ContrastRecord record;
      record.id = (b ? "b" : "a") + std::to_string(i);
      if (paired) record.pair = "p" + std::to_string(i);
      record.under_b = b;
      counts.records.push_back(record);
    }
  counts.selected.assign(counts.records.size() * counts.n_rows(), 0);
  return counts;
}

// Fills in tokens and selections: each record has `low` to `high` tokens; in it, expert i is selected with a rate that
// varies around rate(i, under B) by a factor of the record and one of the pair (pair < 0: no pair), so that tokens of a
// record are no independent draws.
template <class Rate>
void draw_counts(ContrastCounts& counts, int64_t low, int64_t high, double spread, std::mt19937_64& generator,
                 Rate rate) {
  std::normal_distribution<double> normal;
  const size_t n_rows = counts.n_rows();
  std::vector<double> of_pair(n_rows, 0);
  std::string last_pair;
  for (size_t r = 0; r < counts.records.size(); ++r) {
    ContrastRecord& record = counts.records[r];
    if (record.pair.empty() || record.pair != last_pair)
      for (double& value : of_pair) value = record.pair.empty() ? 0 : normal(generator);
    last_pair = record.pair;
    record.tokens = std::uniform_int_distribution<int64_t>(low, high)(generator);
    for (size_t i = 0; i < n_rows; ++i) {
      const double z = spread * (0.7 * of_pair[i] + 0.7 * normal(generator));
      const double p = std::clamp(rate(i, record.under_b) * (1 + z), 0.0, 1.0);
      counts.selected[r * n_rows + i] =
          static_cast<uint32_t>(std::binomial_distribution<int64_t>(record.tokens, p)(generator));
    }
  }
}

}  // namespace signalbox::test
