// The routing tables against numpy and scipy (make_goldens.py), and their nulls where the answer is known.
#include "eval/routing/route_tables.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "eval/routing/expert_pairs.h"
#include "eval/routing/persistence.h"
#include "tests/detect/hand_trace.h"
#include "tests/routing/golden_tables.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

// How far a column that both sides resample, with draws of their own, may be from the other's: for p near one half the
// standard error of a difference of two estimates of 999 and 4999 replicates is 0.017. Two-sided p's of few neighbours
// are coarser: the null takes few values, and whether one on the other side of its mean is as far as the observed one
// hangs on the mean that was drawn.
double tolerance_of(const std::string& table, const std::string& column, double) {
  if (column == "expected") return table == "transitions" ? 0.2 : 0.005;
  if (column == "q") return 0.12;
  if ((column == "p" && table != "domains") || column == "p_permutation") return 0.07;
  if (column == "lag1_p" || column == "lag1_q") return 0.12;
  return 0;
}

// One sample of the hand model: each token's first expert, the second one always expert 3.
TraceSet hand_set(const TemporaryDirectory& scratch, const std::vector<std::vector<int32_t>>& samples) {
  std::vector<HandSample> made;
  for (size_t s = 0; s < samples.size(); ++s) {
    made.push_back({"{\"id\":\"r" + std::to_string(s) + "\",\"tokens\":[1]}", {}});
    for (const int32_t expert : samples[s]) {
      made.back().tokens.emplace_back();
      made.back().tokens.back().first = expert;
      made.back().tokens.back().second = 3;
    }
  }
  write_hand_trace(scratch / "t", made);
  return TraceSet({scratch / "t"});
}

}  // namespace

TEST_CASE("routing tables: every number as numpy and scipy find it") {
  const fs::path golden = source_dir() / "tests/goldens/routing";
  const TraceSet set({golden});
  RouteTableOptions options;
  options.tables = parse_route_tables("all");
  options.lags = 5;
  options.routes.threads = 2;
  TemporaryDirectory scratch;
  const json::Value summary = write_route_tables(set, usage_table(set, {}), options, scratch.path());
  const fs::path roles = source_dir() / "tests/goldens/routing_roles";  // role_tables_test.cpp
  for (const RouteTable& table : route_tables()) {
    CAPTURE(table.name);
    if (fs::exists(roles / (std::string(table.name) + ".csv"))) continue;
    CHECK(table_difference(scratch.path(), golden, table.name, tolerance_of) == "");
  }
  CHECK(summary.find("tables")->items().size() == route_tables().size());
  CHECK(summary.find("nulls")->find("persistence"));
  // The number of threads changes no bit.
  TemporaryDirectory alone;
  options.routes.threads = 1;
  options.tables = parse_route_tables("persistence,transitions,across_layers,vocabulary");
  write_route_tables(set, usage_table(set, {}), options, alone.path());
  for (const std::string& name : options.tables)
    CHECK(read_file(scratch / (name + ".csv")) == read_file(alone / (name + ".csv")));
  // Nor do the parts in which samples are read.
  options.routes.block_rows = 4;
  options.routes.resamples = 2;
  options.routes.filter.phase = Phase::given;
  options.tables = parse_route_tables("all");
  TemporaryDirectory whole;
  write_route_tables(set, usage_table(set, {}), options, alone.path());
  options.routes.block_rows = 1000;
  write_route_tables(set, usage_table(set, {}), options, whole.path());
  for (const RouteTable& table : route_tables()) {
    CAPTURE(table.name);
    CHECK(read_file(whole / (std::string(table.name) + ".csv")) ==
          read_file(alone / (std::string(table.name) + ".csv")));
  }
  options.routes.filter = {};
  options.vocabulary.top = 1;
  options.tables = {"vocabulary"};
  write_route_tables(set, usage_table(set, {}), options, alone.path());
  CHECK(CsvTable::read(alone / "vocabulary.csv").n_rows() == 18);  // 3 layers of 6 experts
}

TEST_CASE("routing tables: many lags are counted as few are") {
  const TraceSet set({source_dir() / "tests/goldens/routing"});
  RouteOptions options;
  options.threads = 1;
  options.block_rows = 7;
  const std::vector<Autocorrelation> few = autocorrelations(set, options, 6), many = autocorrelations(set, options, 70);
  for (size_t i = 0; i < few.size(); ++i) {
    const Autocorrelation &a = few[i], &b = many[i / 6 * 70 + i % 6];
    CHECK((a.r == b.r || (std::isnan(a.r) && std::isnan(b.r))));
    CHECK(a.lag == b.lag);
  }
}

TEST_CASE("routing tables: names") {
  CHECK(parse_route_tables("none").empty());
  CHECK(parse_route_tables("vocabulary, balance,balance") == std::vector<std::string>{"balance", "vocabulary"});
  CHECK_THROWS_WITH_AS(parse_route_tables("balance,persistance"), doctest::Contains("found \"persistance\""),
                       UsageError);
}

TEST_CASE("routing tables: shuffles of five tokens give the exact p") {
  // Experts 0 0 0 1 1, once: of the 10 distinct orders of 0s and 1s, lag 1 of expert 0 by hand below.
  TemporaryDirectory scratch;
  const TraceSet set = hand_set(scratch, {{0, 0, 0, 1, 1}});
  std::vector<double> all;
  const std::vector<int> seen = {1, 1, 1, 0, 0};
  const auto lag1 = [](const std::vector<int>& x) {
    double a = 0, b = 0, ab = 0;
    for (size_t i = 0; i < 4; ++i) {
      a += x[i];
      b += x[i + 1];
      ab += x[i] * x[i + 1];
    }
    return (4 * ab - a * b) / std::sqrt((4 * a - a * a) * (4 * b - b * b));
  };
  std::vector<int> order = {0, 0, 1, 1, 1};
  double mean = 0;
  do {
    const double r = lag1(order);
    all.push_back(std::isnan(r) ? INFINITY : r);
    if (!std::isnan(r)) mean += r;
  } while (std::next_permutation(order.begin(), order.end()));
  int64_t defined = 0;
  for (const double r : all) defined += std::isfinite(r);
  mean /= static_cast<double>(defined);
  double exact = 0;
  for (const double r : all) exact += std::abs(r - mean) >= std::abs(lag1(seen) - mean) - 1e-12;
  exact /= static_cast<double>(all.size());
  RouteOptions options;
  options.resamples = 4000;
  const PersistenceTables found = persistence_tables(set, options);
  REQUIRE(found.experts.size() == 4);
  CHECK(found.experts[0].lag1 == doctest::Approx(lag1(seen)));
  CHECK(found.experts[0].lag1_p == doctest::Approx(exact).epsilon(0.05));
  CHECK(found.experts[0].dwell_mean == 3);
  CHECK(found.experts[0].p_stay == doctest::Approx(2.0 / 3));
  CHECK(found.experts[1].dwell_mean == 2);
  // Never selected, and always selected: no correlation, no p.
  CHECK(found.experts[2].rate == 0);
  CHECK(std::isnan(found.experts[2].lag1_p));
  CHECK(std::isnan(found.experts[3].lag1));
  CHECK(found.experts[3].dwell_mean == 5);
}

TEST_CASE("routing tables: one token, no neighbours, one layer") {
  TemporaryDirectory scratch;
  const TraceSet set = hand_set(scratch, {{0}, {1}});
  RouteOptions options;
  options.resamples = 9;
  const PersistenceTables found = persistence_tables(set, options);
  CHECK(std::isnan(found.experts[0].lag1));
  CHECK(std::isnan(found.experts[0].p_stay));
  CHECK(found.experts[0].dwell_mean == 1);
  CHECK(std::isnan(found.layers[0].consistency));
  CHECK(transitions(set, options).empty());
  CHECK(across_layers(set, options).empty());
  CHECK(coactivations(set, options).size() == 2);
}

TEST_CASE("routing tables: neighbours are tokens that count and stand side by side") {
  TemporaryDirectory scratch;
  std::vector<HandSample> samples = {{R"({"id":"a","tokens":[1]})", std::vector<HandToken>(5)}};
  for (const size_t t : {size_t{0}, size_t{1}, size_t{3}, size_t{4}}) samples[0].tokens[t].spans = 1;
  write_hand_trace(scratch / "t", samples);
  const TraceSet set({scratch / "t"});
  RouteOptions options;
  options.filter.span = "question";
  options.resamples = 9;
  const PersistenceTables found = persistence_tables(set, options);
  CHECK(found.layers[0].neighbours == 2);
  CHECK(found.layers[0].consistency == 1);
  CHECK(found.experts[0].dwell_mean == 2);
  // Lag 3 joins the first with the fourth and the second with the fifth.
  const std::vector<Autocorrelation> lags = autocorrelations(set, options, 3);
  CHECK(lags.size() == 12);
}
