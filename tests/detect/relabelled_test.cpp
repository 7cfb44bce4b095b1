// p under relabelling: by enumeration where all labels can be listed, and what few examples allow.
#include "eval/detect/relabelled.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "base/no_number.h"
#include "eval/detect/risk_difference.h"
#include "eval/detect/studentised.h"
#include "tests/detect/count_data.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

struct Share {
  uint32_t selected = 0;
  int64_t tokens = 0;
};

// One layer and two experts: a token that does not select expert 0 selects expert 1. Pairs where `paired`, in order.
ContrastCounts counts_of(const std::vector<Share>& a, const std::vector<Share>& b, bool paired) {
  ContrastCounts counts;
  counts.layers = {0};
  counts.n_experts = 2;
  for (const bool under_b : {false, true})
    for (size_t i = 0; i < (under_b ? b : a).size(); ++i) {
      const Share& share = (under_b ? b : a)[i];
      ContrastRecord record;
      record.id = (under_b ? "b" : "a") + std::to_string(i);
      if (paired) record.pair = "p" + std::to_string(i);
      record.under_b = under_b;
      record.tokens = share.tokens;
      counts.records.push_back(record);
      counts.selected.push_back(share.selected);
      counts.selected.push_back(static_cast<uint32_t>(share.tokens) - share.selected);
    }
  return counts;
}

ContrastOptions drawn(int64_t resamples) {
  ContrastOptions options;
  options.a = "a";
  options.b = "b";
  options.resamples = resamples;
  options.threads = 1;
  return options;
}

// |t| of two sides by their residuals; `paired`: over pairs.
double by_residuals(const std::vector<Share>& a, const std::vector<Share>& b, bool paired) {
  std::vector<double> residuals[2];
  double rate[2];
  for (const int side : {0, 1}) {
    double selected = 0, tokens = 0;
    for (const Share& share : side ? b : a) {
      selected += share.selected;
      tokens += static_cast<double>(share.tokens);
    }
    rate[side] = selected / tokens;
    for (const Share& share : side ? b : a)
      residuals[side].push_back((share.selected - rate[side] * static_cast<double>(share.tokens)) / tokens);
  }
  const auto variance = [](const std::vector<double>& values) {
    double sum = 0;
    for (double value : values) sum += value * value;
    return values.size() < 2 ? 0 : sum * static_cast<double>(values.size()) / static_cast<double>(values.size() - 1);
  };
  double error = variance(residuals[0]) + variance(residuals[1]);
  if (paired) {
    for (size_t i = 0; i < a.size(); ++i) residuals[0][i] -= residuals[1][i];
    error = variance(residuals[0]);
  }
  const double difference = std::abs(rate[0] - rate[1]);
  return difference < 1e-13 ? 0 : error < 1e-28 ? INFINITY : difference / std::sqrt(error);
}

// The share of all labellings whose |t| is at least the observed one.
double exact_p(const std::vector<Share>& a, const std::vector<Share>& b, bool paired) {
  const double observed = by_residuals(a, b, paired);
  int hits = 0, all = 0;
  std::vector<Share> pool = a;
  pool.insert(pool.end(), b.begin(), b.end());
  for (uint32_t bits = 0; bits < 1u << (paired ? a.size() : pool.size()); ++bits) {
    std::vector<Share> one, two;
    if (paired) {
      for (size_t i = 0; i < a.size(); ++i) {
        one.push_back(bits >> i & 1 ? b[i] : a[i]);
        two.push_back(bits >> i & 1 ? a[i] : b[i]);
      }
    } else {
      if (std::popcount(bits) != static_cast<int>(a.size())) continue;
      for (size_t i = 0; i < pool.size(); ++i) (bits >> i & 1 ? one : two).push_back(pool[i]);
    }
    const double t = by_residuals(one, two, paired);
    ++all;
    hits += t == observed || t >= observed * (1 - 1e-9);
  }
  return static_cast<double>(hits) / all;
}

const std::vector<Share> some_a = {{3, 5}, {4, 5}, {9, 12}, {2, 5}, {30, 31}},
                         some_b = {{20, 60}, {9, 40}, {2, 5}, {11, 50}, {7, 20}};

}  // namespace

TEST_CASE("p is the share of labellings with as large a statistic") {
  const std::vector<Share> long_b = {{20, 60}, {9, 40}, {2, 5}, {11, 50}, {7, 20}, {30, 90}, {1, 10}};
  struct Case {
    std::vector<Share> a, b;
    bool paired;
  };
  const Case cases[] = {{some_a, some_b, true},
                        {some_a, some_b, false},
                        {some_a, long_b, false},
                        {{{1, 2}}, long_b, false},                                          // one record on a side
                        {{{3, 10}, {3, 10}, {3, 10}}, {{1, 10}, {1, 10}, {1, 10}}, false},  // x / 0 in two of 20
                        {{{3, 10}, {3, 10}, {3, 10}}, {{1, 10}, {1, 10}, {1, 10}}, true},   // x / 0 in two of 8
                        {{{3, 10}, {3, 10}, {3, 10}}, {{6, 20}, {6, 20}, {3, 10}}, true},   // 0 / 0 in all
                        {{{0, 9}, {0, 4}, {0, 5}, {1, 5}}, {{0, 7}, {0, 3}, {0, 5}, {0, 5}}, true}};
  for (const Case& one : cases) {
    const double expected = exact_p(one.a, one.b, one.paired);
    const Detection found = detect(counts_of(one.a, one.b, one.paired), drawn(20000));
    CAPTURE(expected);
    CHECK(std::abs(found.rows[0].p - expected) < 4 * std::sqrt(expected * (1 - expected) / 20000) + 1e-4);
    // The error that divides is the column se.
    const double se = found.rows[0].se;
    if (std::isfinite(se) && se > 0)
      CHECK(std::abs(found.rows[0].value()) / se == doctest::Approx(by_residuals(one.a, one.b, one.paired)));
    CHECK(found.rows[1].p == found.rows[0].p);  // what one expert gains, the other loses
    const Relabelled null = relabel_contrast(counts_of(one.a, one.b, one.paired), drawn(1), nullptr);
    const double t = by_residuals(one.a, one.b, one.paired);
    if (std::isinf(t)) {
      CHECK(std::isinf(null.squared_t[0]));
    } else {
      CHECK(std::sqrt(null.squared_t[0]) == doctest::Approx(t).epsilon(1e-12));
    }
  }
}

TEST_CASE("records without a partner take no part in p beside pairs") {
  const ContrastCounts pairs = counts_of(some_a, some_b, true);
  ContrastCounts more = pairs;
  for (int i = 0; i < 3; ++i) {
    ContrastRecord record;
    record.id = "alone" + std::to_string(i);
    record.tokens = 40;
    more.records.push_back(record);
    more.selected.push_back(38);
    more.selected.push_back(2);
  }
  const Detection with = detect(more, drawn(500)), without = detect(pairs, drawn(500));
  CHECK(with.rows[0].p == without.rows[0].p);
  CHECK(with.rows[0].value() != without.rows[0].value());
  CHECK(with.facts.unpaired_a == 3);
  const json::Value summary = contrast_summary(with, drawn(500));
  CHECK(summary.find("unpaired_a")->integer() == 3);
  CHECK(summary.find("tests")->find("p")->string().find("no part") != std::string::npos);
  CHECK(with.warnings.at(1) ==
        "3 records outside complete pairs: counted in rd and its interval, no part of p and q. Complete their pairs, "
        "or leave them out (signalbox data check finds them)");
}

TEST_CASE("one unit has no interval, and few are told") {
  const auto has_interval = [](const std::vector<Share>& a, const std::vector<Share>& b, bool paired) {
    const Detection found = detect(counts_of(a, b, paired), drawn(100));
    for (const RiskDifference& row : found.rows) {
      CHECK(std::isnan(row.ci.lo) == std::isnan(row.ci.hi));
      CHECK(std::isnan(row.ci.lo) == std::isnan(row.stable));
    }
    return !std::isnan(found.rows[0].ci.lo);
  };
  const std::vector<Share> one = {{3, 9}}, three = {{2, 5}, {4, 8}, {1, 9}};
  CHECK(!has_interval(one, one, true));
  CHECK(!has_interval(one, three, false));
  CHECK(!has_interval(three, one, false));
  CHECK(has_interval(three, three, false));
  CHECK(has_interval(three, three, true));
  // One pair and other records under A only: B stands on one record.
  ContrastCounts mixed = counts_of(three, one, false);
  mixed.records[0].pair = mixed.records[3].pair = "p";
  CHECK(std::isnan(detect(mixed, drawn(100)).rows[0].ci.lo));

  const auto warnings = [](int n, bool paired, int64_t resamples) {
    const std::vector<Share> a(static_cast<size_t>(n), Share{2, 5}), b(static_cast<size_t>(n), Share{3, 5});
    std::string out;
    for (const std::string& line : detect(counts_of(a, b, paired), drawn(resamples)).warnings) out += line + "\n";
    return out;
  };
  CHECK(warnings(1, true, 100) ==
        "1 pair: the spread between examples cannot be told from one; intervals and `stable` need two. Record more\n"
        "the smallest p is 1 (1 pair): q < 0.05 over 2 rows cannot be reached; only more examples lower it\n");
  CHECK(warnings(6, true, 100) ==
        "6 pairs: with fewer than 20 examples a side intervals are too narrow. Take it for a first look, and add "
        "records before you conclude\n"
        "the smallest p is 0.031 (6 pairs): q < 0.05 over 2 rows needs 2 experts at that p at once; only more examples "
        "lower it\n");
  CHECK(warnings(7, true, 100) ==
        "7 pairs: with fewer than 20 examples a side intervals are too narrow. Take it for a first look, and add "
        "records before you conclude\n");
  CHECK(warnings(4, false, 100) ==
        "4 records under \"a\" and 4 under \"b\": with fewer than 20 examples a side intervals are too narrow. Take it "
        "for a first look, and add records before you conclude\n"
        "the smallest p is 0.029 (4 records under \"a\" and 4 under \"b\"): q < 0.05 over 2 rows needs 2 experts at "
        "that p "
        "at once; only more examples lower it\n");
  CHECK(warnings(20, false, 30) ==
        "the smallest p is 0.032 (30 resamples): q < 0.05 over 2 rows needs 2 experts at that p at once; 40 resamples "
        "allow one alone (--resamples)\n");
  CHECK(warnings(20, true, 40).empty());
  CHECK(detect(counts_of(three, three, false), drawn(100)).facts.smallest_p == 0.1);  // two of 20
  CHECK(detect(counts_of(three, {{1, 4}, {2, 4}}, false), drawn(100)).facts.smallest_p == 0.1);
  CHECK(detect(counts_of(three, three, true), drawn(3)).facts.smallest_p == 0.25);
}
