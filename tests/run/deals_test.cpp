// Deals of a cross-fitted run, and findings over them.
#include "eval/experiment/deals.h"

#include <cmath>
#include <map>
#include <set>

#include "eval/findings/cross_fit.h"
#include "eval/findings/metrics_file.h"
#include "tests/run/experiment_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

std::string indices(const std::vector<int64_t>& list) {
  std::string text;
  for (int64_t i : list) text += std::to_string(i) + " ";
  return text;
}

// n pairs of condition A and B.
std::vector<Record> pairs(int64_t n) {
  std::vector<std::string> lines;
  for (int64_t i = 0; i < n; ++i)
    for (const char* side : {"A", "B"})
      lines.push_back("'id': '" + std::to_string(i) + side + "', 'prompt': '" + side + std::to_string(i) +
                      "', 'pair': '" + std::to_string(i) + "', 'condition': '" + side + "'");
  return records_of(lines);
}

}  // namespace

// Python: sorted(ids, key=lambda id: hashlib.sha256(f"5 {round} {id}".encode()).hexdigest()) with ids 0A, 1A, ... of
// the pairs' first records; the first four are tested, then the next four.
TEST_CASE("deals: in the order that hashes of seed, round and id give") {
  const std::vector<Deal> deals = deal_records({4, 0.5}, pairs(8), 5, "S.json");
  REQUIRE(deals.size() == 4);
  CHECK(indices(deals[0].test) == "2 3 6 7 10 11 12 13 ");
  CHECK(indices(deals[1].test) == "0 1 4 5 8 9 14 15 ");
  CHECK(indices(deals[2].test) == "2 3 6 7 10 11 12 13 ");
  CHECK(indices(deals[3].test) == "0 1 4 5 8 9 14 15 ");
}

TEST_CASE("deals: every example is whole, and tested once in a round") {
  for (const double share : {0.5, 0.25, 0.8}) {
    CAPTURE(share);
    const int64_t n = 21;
    const std::vector<Record> records = pairs(n);
    const std::vector<Deal> deals = deal_records({10, share}, records, 1, "S.json");
    const int64_t tested = n - std::llround(share * static_cast<double>(n)), per_round = n / tested;
    std::map<int64_t, int64_t> in_round;
    for (size_t d = 0; d < deals.size(); ++d) {
      if (static_cast<int64_t>(d) % per_round == 0) in_round.clear();
      CHECK(deals[d].test.size() == static_cast<size_t>(2 * tested));
      std::vector<int64_t> all = deals[d].test;
      all.insert(all.end(), deals[d].detect.begin(), deals[d].detect.end());
      CHECK(std::set<int64_t>(all.begin(), all.end()).size() == records.size());
      std::set<std::string> names;
      for (const int64_t r : deals[d].test) {
        names.insert(records[static_cast<size_t>(r)].pair);
        CHECK(++in_round[r] == 1);
      }
      CHECK(names.size() == static_cast<size_t>(tested));
    }
  }
}

TEST_CASE("deals: copies stay together, and conditions are spread") {
  std::vector<std::string> lines;
  for (int i = 0; i < 40; ++i)
    lines.push_back("'id': 'r" + std::to_string(i) + "', 'prompt': 'p" + std::to_string(i / 2) + "', 'condition': '" +
                    (i < 10 ? "A" : "B") + "'");
  const std::vector<Record> records = records_of(lines);  // 5 examples of A, 15 of B, two records each
  for (const Deal& deal : deal_records({6, 0.5}, records, 3, "S.json")) {
    const std::set<int64_t> test(deal.test.begin(), deal.test.end());
    int64_t a = 0;
    for (const int64_t r : deal.test) {
      CHECK(test.contains(r ^ 1));
      a += r < 10;
    }
    CHECK(test.size() == 20);
    CHECK((a == 4 || a == 6));
  }
  CHECK(error_of([&] {
          deal_records({2, 0.5}, records_of({lines[0], lines[1]}), 0, "S.json");
        }) == "S.json: cross_fit: expected at least two examples to deal, found 1");
}

TEST_CASE("cross-fit: findings as files, and back") {
  RunFindings findings;
  findings.baseline = "baseline";
  findings.resamples = 10;
  findings.metrics = {"em"};
  findings.interventions.resize(2);
  findings.interventions[0].name = findings.interventions[0].entry = "baseline";
  findings.interventions[1].name = findings.interventions[1].entry = "off";
  findings.all.means.assign(2, std::vector<Estimate>(1, {0.5, 0.4, 0.6, 8}));
  findings.all.contrasts.assign(2, std::vector<Contrast>(1));
  findings.all.contrasts[1][0].difference = {-0.25, -0.5, 0, 8};
  findings.all.contrasts[1][0].p = 0.125;
  CrossFitFindings fit;
  fit.deals = 3;
  fit.share = 0.5;
  fit.effects = {{std::vector<DealEffect>(3)},
                 {{{{-0.5, -0.75, -0.25, 4}, 0.25}, {{0.25, 0, 0.5, 4}, 0.5}, DealEffect{}}}};
  fit.selection = {{"off", {1, 0}, 3, 0.125}, {"off", {1, 1}, 0, 0.0625}, {"off", {2, 5}, 1, no_number}};
  findings.cross_fit = fit;
  CHECK(cross_fit_csv(findings) ==
        "deal,intervention,metric,diff,ci_lo,ci_hi,p,n\r\n0,off,em,-0.5,-0.75,-0.25,0.25,4\r\n"
        "1,off,em,0.25,0,0.5,0.5,4\r\n2,off,em,,,,,0\r\nall,off,em,-0.25,-0.5,0,0.125,8\r\n");
  CHECK(selection_csv(findings) ==
        "intervention,layer,expert,deals,frequency,rd\r\noff,1,0,3,1,0.125\r\noff,1,1,0,0,0.0625\r\n"
        "off,2,5,1,0.3333333333333333,\r\n");
  const std::string table = table_text(cross_fit_table(findings));
  CHECK(table.find("least") != std::string::npos);
  const json::Value json = metrics_json(findings);
  const RunFindings back = read_findings(json::Ref(json, "metrics.json"));
  CHECK(metrics_json(back) == json);
  REQUIRE(back.cross_fit);
  CHECK(back.cross_fit->selection.size() == 2);  // the expert that no deal took is not in it
  CHECK(back.cross_fit->effects[1][0][1].difference.value == 0.25);
}

TEST_CASE("deals: a run that splits its own data gives every record its part, pairs and copies whole") {
  SplitSpec split;
  split.share = 0.5;
  split.seed = 5;
  split.detect = "detect";
  split.test = "test";
  std::vector<Record> records = pairs(8);
  deal_splits(split, records, "S.json");
  std::vector<int64_t> tested;
  for (size_t r = 0; r < records.size(); ++r) {
    CHECK(records[r].source.find("split")->string() == records[r].split);
    if (records[r].split == "test") tested.push_back(static_cast<int64_t>(r));
  }
  CHECK(indices(tested) == "2 3 6 7 10 11 12 13 ");  // the first deal above
  CHECK_THROWS_WITH_AS(deal_splits(split, records, "S.json"),
                       doctest::Contains("split: expected none, for the run deals the records out"), Error);
  // Another key, other names; records of one prompt are one example under any ids.
  std::vector<Record> same =
      records_of({"'id': '0', 'prompt': 'p'", "'id': '1', 'prompt': ' p '", "'id': '2', 'prompt': 'q'"});
  split.key = "part";
  split.test = "rest";
  deal_splits(split, same, "S.json");
  CHECK(same[0].source.find("part")->string() == same[1].source.find("part")->string());
  CHECK(same[0].source.find("part")->string() != same[2].source.find("part")->string());
  CHECK(same[0].split.empty());
  std::vector<Record> one = records_of({"'id': '0', 'prompt': 'p'"});
  CHECK_THROWS_WITH_AS(deal_splits(split, one, "S.json"),
                       doctest::Contains("S.json: split: expected at least two examples to deal, found 1"), Error);
}
