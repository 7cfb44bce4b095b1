// Specialists, pipelines, kinds of tokens, groups, margins and phases against numpy and scipy (make_role_goldens.py),
// and traces that have nothing to show.
#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "eval/routing/communities.h"
#include "eval/routing/margins.h"
#include "eval/routing/phases.h"
#include "eval/routing/pipelines.h"
#include "eval/routing/route_tables.h"
#include "eval/routing/specialists.h"
#include "eval/routing/taxonomy.h"
#include "tests/detect/hand_trace.h"
#include "tests/routing/golden_tables.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

// Both sides resample with draws of their own, 999 and 4999: p as in route_tables_test.cpp; ends of an interval move by
// 0.03 of themselves or so.
double role_tolerance_of(const std::string&, const std::string& column, double value) {
  if (column == "p" || column == "p_link" || column == "p_partial" || column == "domain_p") return 0.07;
  if (column == "q" || column == "domain_q") return 0.12;
  if (column == "ci_lo" || column == "ci_hi") return 0.1 * std::abs(value);
  return 0;
}
double exact(const std::string&, const std::string&, double) { return 0; }

const std::vector<std::string> role_tables = {"specialists", "pipelines", "taxonomy", "communities", "modularity",
                                              "margins",     "phases",    "drift",    "handoffs"};

// All role tables of hand-made samples; the files' rows.
std::vector<size_t> rows_of(const TemporaryDirectory& scratch, const std::vector<HandSample>& samples,
                            const std::string& points = "*.router.ids") {
  write_hand_trace(scratch / "t", samples, points);
  const TraceSet set({scratch / "t"});
  RouteTableOptions options;
  options.tables = role_tables;
  options.routes.resamples = 19;
  options.routes.threads = 1;
  fs::create_directories(scratch / "a");
  write_route_tables(set, {}, options, scratch / "a");
  std::vector<size_t> out;
  for (const std::string& name : role_tables) out.push_back(CsvTable::read(scratch / ("a/" + name + ".csv")).n_rows());
  return out;
}

}  // namespace

TEST_CASE("role tables: every number as numpy and scipy find it") {
  const fs::path golden = source_dir() / "tests/goldens/routing_roles";
  const TraceSet set({golden});
  RouteTableOptions options;
  options.tables = role_tables;
  options.routes.threads = 2;
  TemporaryDirectory scratch, alone;
  const json::Value summary = write_route_tables(set, {}, options, scratch.path());
  for (const std::string& name : role_tables) {
    CAPTURE(name);
    const bool drawn = name != "taxonomy" && name != "handoffs" && name != "margins" && name != "communities";
    CHECK(table_difference(scratch.path(), golden, name, drawn ? role_tolerance_of : exact) == "");
  }
  CHECK(summary.find("notes")->find("pipelines")->string() ==
        "links in one half of the records: 3; chains of them: 1; confirmed in the other half: 1");
  options.routes.threads = 1;
  write_route_tables(set, {}, options, alone.path());
  for (const std::string& name : role_tables)
    CHECK(read_file(scratch / (name + ".csv")) == read_file(alone / (name + ".csv")));
}

TEST_CASE("role tables: nothing, one token, no domain, one domain") {
  // Rows of: specialists, pipelines, taxonomy, communities, modularity, margins, phases, drift, handoffs.
  TemporaryDirectory a, b, c, d;
  CHECK(rows_of(a, {}) == std::vector<size_t>{4, 0, 0, 4, 1, 0, 0, 0, 0});
  CHECK(rows_of(b, {{R"({"id":"a","tokens":[1]})", {{}}}}) == std::vector<size_t>{4, 0, 0, 4, 1, 0, 0, 0, 0});
  std::vector<HandSample> samples;
  for (int s = 0; s < 6; ++s) {
    samples.push_back(
        {"{\"id\":\"r" + std::to_string(s) + "\",\"domain\":\"law\",\"tokens\":[1]}", std::vector<HandToken>(9)});
    for (size_t t = 0; t < 9; ++t) {
      samples.back().tokens[t].phase = 1;
      if (t >= 6) samples.back().tokens[t].first = 2;
    }
  }
  CHECK(rows_of(c, samples, "*.router.ids,*.router.logits") == std::vector<size_t>{4, 0, 0, 4, 1, 2, 4, 1, 2});
  const CsvTable handed = CsvTable::read(c / "a/handoffs.csv");
  // In all six samples 0 leads two parts, and then 1, which is in every route and stands before 2: of the orders of 0,
  // 0 and 1 a third hand over from 0 to 1.
  CHECK(handed.text(0, handed.column("from")) == "0");
  CHECK(handed.number(0, handed.column("count")) == 6);
  CHECK(handed.number(0, handed.column("p")) == doctest::Approx(std::pow(3.0, -6)));
  CHECK(handed.number(1, handed.column("p")) == doctest::Approx(1));
  samples[0].record = R"({"id":"r0","domain":"poems","tokens":[1]})";
  CHECK(rows_of(d, samples) == std::vector<size_t>{4, 0, 0, 4, 1, 0, 4, 1, 2});
  const CsvTable alone = CsvTable::read(c / "a/specialists.csv"), two = CsvTable::read(d / "a/specialists.csv");
  CHECK(alone.text(0, alone.column("label")) == "undecided");
  CHECK(alone.text(0, alone.column("rate_ratio")).empty());
  CHECK(two.number(0, two.column("rate_ratio")) == 1);
  CHECK(two.text(3, two.column("domain")).empty());  // never selected
  CHECK(two.text(0, two.column("ci_lo")).empty());   // one record on a side has no spread
  // Logits 10 + 0, 10 + 1 (or 10 + 2), 2 (or 0) and 3: the second is 7 above the third.
  const CsvTable near = CsvTable::read(c / "a/margins.csv");
  CHECK(near.number(0, near.column("median")) == 7);
  CHECK(near.number(0, near.column("below_0.1")) == 0);
  CHECK(near.text(1, near.column("domain")) == "law");
}
