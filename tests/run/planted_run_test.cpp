// The whole pipeline against planted truth: an experiment finds the experts that were built in, bans them, and finds
// nothing to ban when the labels mean nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>

#include "base/csv.h"
#include "base/json.h"
#include "tests/support.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::test;

namespace {

// Experts 3 of layer 1 and 5 of layer 2 fire on digits; 6 of layer 2 on question marks, which both conditions have.
constexpr const char* planted_model = R"({"family": "mixtral", "tokenizer": "bytes", "seed": 3,
  "planted": [{"layer": 1, "expert": 3, "tokens": [48, 49, 50, 51, 52, 53, 54, 55, 56, 57]},
              {"layer": 2, "expert": 5, "tokens": [48, 49, 50, 51, 52, 53, 54, 55, 56, 57]},
              {"layer": 2, "expert": 6, "tokens": [63]}]})";

// Pairs of texts of the same letters, one with digits among them. With `permuted` the labels are drawn by coin.
std::string records(int pairs, bool permuted) {
  std::mt19937 random(11);
  std::string text;
  for (int i = 0; i < pairs; ++i) {
    std::string letters;
    for (int n = 0; n < 24; ++n) letters += static_cast<char>('a' + random() % 26);
    std::string with = letters + "?", without = letters + "?";
    for (size_t at = 0; at < 16; ++at) with[at] = static_cast<char>('0' + random() % 10);
    const bool swap = permuted && random() % 2;
    const std::string split = i % 2 ? "a" : "b", pair = "p" + std::to_string(i);
    const auto line = [&](const std::string& id, const std::string& prompt, const char* condition) {
      return "{\"id\":\"" + id + "\",\"prompt\":\"" + prompt + "\",\"condition\":\"" + condition + "\",\"pair\":\"" +
             pair + "\",\"split\":\"" + split + "\"}\n";
    };
    text +=
        line(pair + "x", with, swap ? "letters" : "digits") + line(pair + "y", without, swap ? "digits" : "letters");
  }
  return text;
}

constexpr const char* spec_text = R"({"model": "model", "data": "data.jsonl",
  "detect": {"digits": {"contrast": "digits:letters", "held_out": true}},
  "interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban",
    "experts": {"from": "detect:digits", "top": 2, "sign": "+", "q_below": 0.05}}]}],
  "controls": {"random": 5}, "metrics": ["ppl", "kl"], "split": {"detect": "a", "test": "b"}, "resamples": 2000})";

}  // namespace

TEST_CASE("an experiment finds planted experts and bans them" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  TemporaryDirectory temporary;
  write_file(temporary / "model.json", planted_model);
  REQUIRE(run_command(test::binary() + " make-model " + (temporary / "model.json").string() + " --out " +
                      (temporary / "model").string() + " --quiet")
              .code == 0);
  write_file(temporary / "data.jsonl", records(60, false));
  write_file(temporary / "spec.json", spec_text);
  const std::string run = test::binary() + " run " + (temporary / "spec.json").string() + " --quiet --out ";
  const Ran ran = run_command(run + (temporary / "out").string());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  // The same contrast on the test records: what analyze finds in their trace.
  const fs::path detect = temporary / "out/detect";
  REQUIRE(run_command(test::binary() + " analyze " + (detect / "trace-test").string() + " --contrast digits:letters " +
                      "--phase given --resamples 2000 --quiet --out " + (temporary / "analysis").string())
              .code == 0);
  const CsvTable held_out = CsvTable::read(detect / "digits/held_out.csv"),
                 analyzed = CsvTable::read(temporary / "analysis/rd.csv"),
                 rd = CsvTable::read(detect / "digits/rd.csv");
  CHECK(held_out.header() == std::vector<std::string>{"layer", "expert", "rd", "ci_lo", "ci_hi"});
  REQUIRE(held_out.n_rows() == analyzed.n_rows());
  REQUIRE(held_out.n_rows() == rd.n_rows());
  int other = 0;
  for (size_t i = 0; i < held_out.n_rows(); ++i) {
    for (const char* column : {"layer", "expert", "rd", "ci_lo", "ci_hi"})
      CHECK(held_out.text(i, held_out.column(column)) == analyzed.text(i, analyzed.column(column)));
    other += held_out.text(i, 2) != rd.text(i, rd.column("rd"));
    if (held_out.integer(i, 0) == 1 && held_out.integer(i, 1) == 3) CHECK(held_out.number(i, 3) > 0);
  }
  CHECK(other > 0);
  CHECK(read_file(temporary / "out/report.html").find("rd on test records") != std::string::npos);
  CHECK(read_file(temporary / "out/log.txt").find("detect digits: the first experts") != std::string::npos);

  const json::Value plan = json::parse(read_file(temporary / "out/plan.json"), "plan.json");
  std::set<std::string> names;
  for (const json::Value& one : plan.find("interventions")->items()) {
    const std::string& name = one.find("name")->string();
    names.insert(name);
    if (name == "baseline") continue;
    const json::Value* experts = one.find("edits")->items()[0].find("experts");
    REQUIRE(experts);
    if (name == "off") {
      CHECK(json::dump(*experts) == R"({"1":[3],"2":[5]})");
      continue;
    }
    // Controls: one expert of each of the same layers, and not the planted one.
    REQUIRE(experts->members().size() == 2);
    CHECK(experts->find("1")->items().size() == 1);
    CHECK(experts->find("2")->items().size() == 1);
    CHECK(experts->find("1")->items()[0].integer() != 3);
    CHECK(experts->find("2")->items()[0].integer() != 5);
  }
  CHECK(names.size() == 7);
  const json::Value metrics = json::parse(read_file(temporary / "out/metrics.json"), "metrics.json");
  const json::Value* by_condition = metrics.find("conditions");
  REQUIRE(by_condition);
  const auto kl = [&](const char* condition) {
    return by_condition->find(condition)->find("interventions")->find("off")->find("kl")->find("mean")->real();
  };
  // Texts without a digit never use the banned experts: nothing changes but the rounding of the router's softmax.
  CHECK(kl("letters") < 1e-12);
  CHECK(kl("digits") > 1e-3);
}

TEST_CASE("an experiment finds nothing where labels mean nothing") {
  TemporaryDirectory temporary;
  write_file(temporary / "model.json", planted_model);
  REQUIRE(run_command(test::binary() + " make-model " + (temporary / "model.json").string() + " --out " +
                      (temporary / "model").string() + " --quiet")
              .code == 0);
  write_file(temporary / "data.jsonl", records(60, true));
  write_file(temporary / "spec.json", spec_text);
  const Ran ran = run_command(test::binary() + " run " + (temporary / "spec.json").string() + " --quiet --out " +
                              (temporary / "out").string());
  CHECK(ran.code == 1);
  CHECK_MESSAGE(ran.err.find("experts") != std::string::npos, ran.err);
  CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
}

TEST_CASE("a cross-fitted run finds planted experts in every deal, and averages what the deals test" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  TemporaryDirectory temporary;
  write_file(temporary / "model.json", planted_model);
  REQUIRE(run_command(test::binary() + " make-model " + (temporary / "model.json").string() + " --out " +
                      (temporary / "model").string() + " --quiet")
              .code == 0);
  write_file(temporary / "data.jsonl", records(18, false));
  write_file(temporary / "spec.json", R"({"model": "model", "data": "data.jsonl",
    "detect": {"digits": {"contrast": "digits:letters", "grid": {"length_match": [false, true]}}},
    "interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban",
      "experts": {"from": "detect:digits", "top": 2, "sign": "+"}}]}],
    "audit": {"from": "detect:digits/length_match=false", "top": 1},
    "controls": {"random": 2}, "metrics": ["ppl", "kl"], "cross_fit": {"deals": 4}, "resamples": 200})");
  const fs::path out = temporary / "out";
  const std::string run =
      test::binary() + " run " + (temporary / "spec.json").string() + " --quiet --out " + out.string();
  const Ran ran = run_command(run);
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const json::Value metrics = json::parse(read_file(out / "metrics.json"), "metrics.json");
  const std::string point = "off/length_match=false";

  // The mean of each record over the deals that tested it, from the samples of the deals.
  std::map<std::string, std::pair<double, int>> sums;
  for (int deal = 0; deal < 4; ++deal) {
    const fs::path dir = out / "deals" / std::to_string(deal);
    std::istringstream samples(read_file(dir / "samples.jsonl"));
    int64_t lines = 0;
    for (std::string line; std::getline(samples, line); ++lines) {
      const json::Value sample = json::parse(line, "sample");
      if (sample.find("intervention")->string() != point) continue;
      auto& [sum, n] = sums[sample.find("id")->string()];
      sum += sample.find("scores")->find("kl")->real();
      ++n;
    }
    CHECK(lines ==
          18 * (1 + 2 + 2 * 2 + 1));  // 18 records: baseline, two points, their controls, the audit of one expert
  }
  CHECK(sums.size() == 36);
  double mean = 0;
  for (const auto& [id, sum] : sums) {
    CHECK(sum.second == 2);
    mean += sum.first / sum.second / 36;
  }
  const json::Value& contrast = *metrics.find("contrasts")->find(point)->find("kl");
  CHECK(contrast.find("diff")->real() == doctest::Approx(mean).epsilon(1e-12));
  CHECK(contrast.find("n")->integer() == 36);
  CHECK(contrast.find("control_rank")->is_null());
  const json::Value& fit = *metrics.find("cross_fit");
  CHECK(fit.find("deals")->integer() == 4);
  CHECK(fit.find("effects")->find(point)->find("kl")->items().size() == 4);
  CHECK(json::dump(*fit.find("selection")->find(point)).find(R"({"layer":1,"expert":3,"deals":4,)") !=
        std::string::npos);
  CHECK(json::dump(*fit.find("selection")->find(point)).find(R"({"layer":2,"expert":5,"deals":4,)") !=
        std::string::npos);
  CHECK(metrics.find("specification_curves")->find("off")->find("kl")->find("points")->integer() == 2);
  for (const char* file :
       {"cross_fit.csv", "selection.csv", "specification_curve.csv", "table.md", "report.html", "audit.csv",
        "audit/rd.csv", "deals/3/report.html", "deals/3/detect/digits/length_match=true/rd.csv"})
    CHECK_MESSAGE(fs::exists(out / file), file);
  CHECK(!fs::exists(out / "samples.jsonl"));

  // What is missing is made again, to the same bytes; what is there is not touched.
  std::map<std::string, std::string> before;
  for (const char* file : {"metrics.json", "cross_fit.csv", "selection.csv", "table.csv", "deals/2/samples.jsonl"})
    before[file] = read_file(out / file);
  const auto kept = fs::last_write_time(out / "deals/1/samples.jsonl");
  fs::remove_all(out / "deals/2");
  fs::remove(out / "metrics.json");
  REQUIRE(run_command(run).code == 0);
  for (const auto& one : before) CHECK_MESSAGE(read_file(out / one.first) == one.second, one.first);
  CHECK(fs::last_write_time(out / "deals/1/samples.jsonl") == kept);

  const Ran again = run_command(test::binary() + " analyze " + out.string() + " --resamples 200 --quiet");
  REQUIRE_MESSAGE(again.code == 0, again.err);
  CHECK(read_file(out / "analysis/metrics.json") == before.at("metrics.json"));
  const Ran shard = run_command(test::binary() + " run " + (temporary / "spec.json").string() +
                                " --quiet --shard 0/2 --out " + (temporary / "shard").string());
  CHECK(shard.code == 2);
  CHECK_MESSAGE(shard.err.find("--shard: expected none for a run with \"cross_fit\"") != std::string::npos, shard.err);
  CHECK(!fs::exists(temporary / "shard"));
}
