// Size and coverage of rd.csv in simulated designs without any difference. SIGNALBOX_LONG_TESTS=1 makes the table of
// docs/statistics.md: 2,000 rows a design, B = 2,000; otherwise a part of it, in a second.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "eval/detect/risk_difference.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

struct Lengths {
  int64_t low, high;
};

struct Design {
  const char* name;
  bool paired;
  int64_t n_a, n_b;
  Lengths a, b;      // tokens of a record
  double share;      // mean share of tokens that select the expert
  double most;       // bound of the size at 0.05
  bool full = true;  // no ties and at least 8 units of equal lengths: not below 0.03 either
};

constexpr Lengths even = {40, 40};
const Design designs[] = {
    {"5 pairs", true, 5, 5, even, even, 0.3, 0.06, false},
    {"8 pairs", true, 8, 8, even, even, 0.3, 0.06},
    {"12 pairs", true, 12, 12, even, even, 0.3, 0.06},
    {"20 pairs", true, 20, 20, even, even, 0.3, 0.06},
    {"60 pairs", true, 60, 60, even, even, 0.3, 0.06},
    {"20 pairs, 5 to 200 tokens", true, 20, 20, {5, 200}, {5, 200}, 0.3, 0.06},
    {"20 pairs, A 10 tokens, B 100", true, 20, 20, {10, 10}, {100, 100}, 0.3, 0.06},
    {"60 pairs, A 10 tokens, B 100", true, 60, 60, {10, 10}, {100, 100}, 0.3, 0.06},
    {"60 pairs, A 2 to 300 tokens, B 20", true, 60, 60, {2, 300}, {20, 20}, 0.3, 0.06},
    {"20 pairs, share 0.01", true, 20, 20, even, even, 0.01, 0.06, false},
    {"60 pairs, share 0.003", true, 60, 60, even, even, 0.003, 0.06, false},
    {"30 : 30 records, share 0.003", false, 30, 30, even, even, 0.003, 0.06, false},
    {"20 : 20 records", false, 20, 20, even, even, 0.3, 0.06},
    {"8 : 8 records", false, 8, 8, even, even, 0.3, 0.06},
    {"5 : 40 records", false, 5, 40, even, even, 0.3, 0.06},
    {"20 : 20 records, 2 to 500 tokens", false, 20, 20, {2, 500}, {2, 500}, 0.3, 0.06},
    {"20 : 20 records, A 5 tokens, B 200", false, 20, 20, {5, 5}, {200, 200}, 0.3, 0.06},
    {"20 : 100 records, A 8 tokens, B 80", false, 20, 100, {8, 8}, {80, 80}, 0.3, 0.06},
    // Ten records of 5 tokens: their own spread is told badly, and badly skewed where few tokens select the expert.
    {"10 : 60 records, A 5 tokens, B 200", false, 10, 60, {5, 5}, {200, 200}, 0.3, 0.07},
    // The other way round a relabelling leaves one long record or two among short ones, which then carry their side.
    {"60 : 10 records, A 5 tokens, B 200", false, 60, 10, {5, 5}, {200, 200}, 0.3, 0.06, false},
    {"50 : 200 records", false, 50, 200, even, even, 0.3, 0.06},
    {"100 : 100 records, A 10 tokens, B 100", false, 100, 100, {10, 10}, {100, 100}, 0.3, 0.06},
};

// Rows are independent: each draws a share for every record, and a token keeps the choice of the last one with
// probability 0.7. Shares have a standard deviation of 0.2; small ones are log-normal.
ContrastCounts draw(const Design& design, int32_t n_rows, std::mt19937_64& generator) {
  ContrastCounts counts;
  for (int32_t row = 0; row < n_rows; ++row) counts.layers.push_back(row);
  counts.n_experts = 1;
  std::normal_distribution<float> normal;
  const auto chance = [&] { return static_cast<float>(generator() >> 40) * 0x1p-24f; };
  for (const bool b : {false, true})
    for (int64_t i = 0; i < (b ? design.n_b : design.n_a); ++i) {
      ContrastRecord record;
      record.id = (b ? "b" : "a") + std::to_string(i);
      if (design.paired) record.pair = "p" + std::to_string(i);
      record.under_b = b;
      const Lengths& lengths = b ? design.b : design.a;
      record.tokens = std::uniform_int_distribution<int64_t>(lengths.low, lengths.high)(generator);
      for (int32_t row = 0; row < n_rows; ++row) {
        const auto mean = static_cast<float>(design.share);
        const float z = normal(generator);
        const float share = design.share < 0.05 ? std::min(1.0f, mean * std::exp(z - 0.5f))
                                                : std::clamp(mean + 0.2f * z, 0.001f, 0.999f);
        uint32_t selected = 0;
        bool now = chance() < share;
        for (int64_t t = 0; t < record.tokens; ++t) {
          selected += now;
          if (chance() >= 0.7f) now = chance() < share;
        }
        counts.selected.push_back(selected);
      }
      counts.records.push_back(std::move(record));
    }
  return counts;
}

}  // namespace

TEST_CASE("p holds its level and intervals cover, whatever the numbers and lengths of records") {
  const char* asked = std::getenv("SIGNALBOX_LONG_TESTS");
  const bool is_long = asked && std::string(asked) == "1";
  std::mt19937_64 generator(17);
  std::string table = "| design | p <= .05 | p <= .01 | interval covers |\n|---|---:|---:|---:|\n";
  double hits = 0, rows = 0;
  for (const Design& design : designs) {
    // The designs in which labels dealt out at random know least get the most rows.
    const int32_t n_rows = is_long ? 2000 : !design.paired && design.a.high < design.b.high ? 150 : 40;
    ContrastOptions options;
    options.a = "a";
    options.b = "b";
    options.resamples = is_long ? 2000 : 199;
    options.threads = 1;
    const Detection found = detect(draw(design, n_rows, generator), options);
    double at_05 = 0, at_01 = 0, covered = 0;
    for (const RiskDifference& row : found.rows) {
      at_05 += row.p <= 0.05;
      at_01 += row.p <= 0.01;
      covered += row.ci.lo <= 0 && 0 <= row.ci.hi;
    }
    char line[160];
    std::snprintf(line, sizeof line, "| %s | %.3f | %.3f | %.3f |\n", design.name, at_05 / n_rows, at_01 / n_rows,
                  covered / n_rows);
    table += line;
    CAPTURE(design.name);
    const auto slack = [&](double rate) { return 3.3 * std::sqrt(rate * (1 - rate) / n_rows); };
    CHECK(at_05 / n_rows <= design.most + slack(design.most));
    if (design.full) {
      CHECK(at_05 / n_rows >= 0.03 - slack(0.03));
      hits += at_05;
      rows += n_rows;
    }
    CHECK(covered / n_rows > 0.8 - slack(0.8));
  }
  MESSAGE("\n" << table);
  CHECK(std::abs(hits / rows - 0.05) < 0.01 + 3.3 * std::sqrt(0.05 * 0.95 / rows));
}
