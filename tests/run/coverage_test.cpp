// The intervals of metrics.json cover at their rate, and agree with the test beside them. SIGNALBOX_LONG_TESTS=1 draws
// twenty times as many data sets: of 12,000 the worst, exponential values of 20 records, are covered in 93.1 %.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>

#include "eval/findings/intervals.h"
#include "eval/statistics/binary.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

const int scale = std::getenv("SIGNALBOX_LONG_TESTS") ? 20 : 1;

// 93 %, less three standard errors of so many data sets.
double least_rate(int sets) { return 0.93 - 3 * std::sqrt(0.93 * 0.07 / sets); }

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double uniform() { return (static_cast<double>(engine_() >> 11) + 0.5) * 0x1p-53; }
  double exponential() { return -std::log(uniform()); }
  double normal() { return std::sqrt(2 * exponential()) * std::cos(2 * M_PI * uniform()); }

 private:
  std::mt19937_64 engine_;
};

// A value beside the baseline's, for one record of a unit; `shared` is drawn once a unit.
using Draw = std::function<std::pair<double, double>(Random&, double shared)>;

struct Design {
  std::string name;
  int units, records_a_unit;
  double difference;  // the true one
  Draw draw;
};

struct Counts {
  int covered = 0, contradictions = 0, found = 0, sets = 0;
  double rate() const { return static_cast<double>(covered) / sets; }
};

Counts simulate(const Design& design, int sets) {
  Random random(7);
  std::vector<DifferenceQuestion> questions;
  for (int set = 0; set < sets; ++set) {
    Column column;
    for (int u = 0; u < design.units; ++u) {
      const double shared = random.uniform();
      for (int r = 0; r < design.records_a_unit; ++r) {
        const auto [mine, base] = design.draw(random, shared);
        column.values.push_back(mine - base);
        column.units.push_back(u);
        for (const double value : {mine, base}) column.zero_one = column.zero_one && (value == 0 || value == 1);
      }
    }
    questions.push_back({column, {}, {}});
  }
  Counts out;
  out.sets = sets;
  const auto found = difference_findings(questions, 1, 1000, 1);
  for (size_t q = 0; q < found.size(); ++q) {
    const Estimate& estimate = found[q].difference;
    out.covered += estimate.lo <= design.difference && design.difference <= estimate.hi;
    const bool excludes = estimate.lo > 0 || estimate.hi < 0;
    const bool exact =
        questions[q].differences.zero_one && exact_sign_flip_p(questions[q].differences.clustered().sums) > 0.05;
    out.contradictions += excludes && (exact || found[q].p > 0.05);
    out.found += found[q].p <= 0.05;
  }
  return out;
}

Draw changes(double up, double down) {
  return [up, down](Random& random, double) {
    const double at = random.uniform();
    return at < up ? std::pair(1.0, 0.0) : at < up + down ? std::pair(0.0, 1.0) : std::pair(1.0, 1.0);
  };
}

// Both records of a pair change together half of the time.
Draw shared_changes(double up, double down) {
  return [up, down](Random& random, double shared) {
    const double at = random.uniform() < 0.5 ? shared : random.uniform();
    return at < up ? std::pair(1.0, 0.0) : at < up + down ? std::pair(0.0, 1.0) : std::pair(1.0, 1.0);
  };
}

}  // namespace

TEST_CASE("coverage: intervals of differences hold the true one in at least 93 of 100 data sets of 20 units or more" *
          doctest::test_suite("repeats: statistics at length")) {
  const std::vector<Design> designs = {
      {"normal, 20", 20, 1, 0.3, [](Random& r, double) { return std::pair(0.3 + r.normal(), 0.0); }},
      {"uniform, 20", 20, 1, 0.3, [](Random& r, double) { return std::pair(0.3 + 2 * r.uniform() - 1, 0.0); }},
      {"exponential, 20", 20, 1, 1, [](Random& r, double) { return std::pair(r.exponential(), 0.0); }},
      {"no difference, skewed, 20", 20, 1, 0, [](Random& r, double) { return std::pair(r.exponential(), 1.0); }},
      {"f1, 30", 30, 1, -0.1,
       [](Random& r, double) { return std::pair(r.uniform() < 0.3 ? 0.5 : 1.0, r.uniform() < 0.1 ? 0.5 : 1.0); }},
      {"pairs that share half, 20", 20, 2, 0,
       [](Random& r, double shared) { return std::pair(std::log(shared / (1 - shared)) + r.normal(), 0.0); }},
      {"changes 10 and 5 %, 20", 20, 1, 0.05, changes(0.1, 0.05)},
      {"changes 30 and 5 %, 30", 30, 1, 0.25, changes(0.3, 0.05)},
      {"changes 1 and 0 %, 100", 100, 1, 0.01, changes(0.01, 0)},
      {"changes 0 and 2 %, 100", 100, 1, -0.02, changes(0, 0.02)},
      {"changes 2 and 1 %, 200", 200, 1, 0.01, changes(0.02, 0.01)},
      {"changes of pairs 2 and 4 %, 100", 100, 2, -0.02, shared_changes(0.02, 0.04)},
      {"changes of pairs 20 and 5 %, 20", 20, 2, 0.15, shared_changes(0.2, 0.05)},
      {"no changes, 20", 20, 1, 0, changes(0, 0)}};
  for (const Design& design : designs) {
    const Counts counts = simulate(design, 600 * scale);
    INFO(design.name);
    CHECK(counts.rate() >= least_rate(counts.sets));
    CHECK(counts.contradictions == 0);
    // Of skewed values of mean 0 signs are no fair test: nearly one in ten is rejected (docs/reading-results.md).
    if (design.difference == 0 && design.name.find("skewed") == std::string::npos)
      CHECK(counts.found <= 0.07 * counts.sets);
  }
}

TEST_CASE("coverage: intervals of rates do too") {
  for (const auto& design : {std::pair(0.9, 20), {0.5, 20}, {0.02, 100}, {0.97, 40}}) {
    const double rate = design.first;
    const int n = design.second;
    Random random(3);
    std::vector<Column> columns(static_cast<size_t>(600 * scale));
    for (Column& column : columns)
      for (int u = 0; u < n; ++u) {
        column.values.push_back(random.uniform() < rate);
        column.units.push_back(u);
      }
    int covered = 0;
    for (const Estimate& estimate : mean_estimates(columns, 1, 200, 1))
      covered += estimate.lo <= rate && rate <= estimate.hi;
    INFO(rate, " ", n);
    CHECK(covered >= least_rate(static_cast<int>(columns.size())) * static_cast<double>(columns.size()));
  }
}
