// Rankings by what experts give, and audits of every expert, through the command: a model in which each token selects
// every expert, so that use sees nothing, and one expert weighs nothing but under one condition.
#include "eval/findings/audit.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "base/csv.h"
#include "base/json.h"
#include "eval/findings/metrics_file.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;
namespace fs = std::filesystem;

// Four experts, of which a token selects two until the config says four; expert 2 of layer 1 then has all the weight on
// digits and none elsewhere.
constexpr const char* every_expert_model = R"({"family": "mixtral", "tokenizer": "bytes", "seed": 3, "dtype": "f32",
  "config": {"num_local_experts": 4, "num_experts_per_tok": 2},
  "planted": [{"layer": 1, "expert": 2, "tokens": [48, 49, 50, 51, 52, 53, 54, 55, 56, 57]}]})";

std::string digit_records() {
  std::mt19937 random(11);
  std::string text;
  for (int i = 0; i < 24; ++i) {
    std::string letters;
    for (int n = 0; n < 10; ++n) letters += static_cast<char>('a' + random() % 26);
    std::string digits = letters;
    for (size_t at = 0; at < 6; ++at) digits[at] = static_cast<char>('0' + random() % 10);
    const std::string end = ",\"pair\":\"p" + std::to_string(i) + "\",\"split\":\"" + (i % 2 ? "a" : "b") + "\"}\n";
    text += "{\"id\":\"d" + std::to_string(i) + "\",\"prompt\":\"" + digits + "\",\"condition\":\"digits\"" + end;
    text += "{\"id\":\"l" + std::to_string(i) + "\",\"prompt\":\"" + letters + "\",\"condition\":\"letters\"" + end;
  }
  return text;
}

struct EveryExpertRun {
  EveryExpertRun() {
    write_file(dir / "model.json", every_expert_model);
    const Ran made = command("make-model " + (dir / "model.json").string() + " --out " + (dir / "model").string());
    REQUIRE_MESSAGE(made.code == 0, made.err);
    std::string config = read_file(dir / "model/config.json");
    const std::string key = "\"num_experts_per_tok\":";
    const size_t at = config.find_first_of("0123456789", config.find(key) + key.size());
    REQUIRE(config.at(at) == '2');
    config[at] = '4';
    write_file(dir / "model/config.json", config);
    write_file(dir / "data.jsonl", digit_records());
  }
  static Ran command(const std::string& arguments) { return run_command(binary() + " " + arguments + " --quiet"); }
  Ran deactivate(const std::string& more) const {
    return command(
        "deactivate " + (dir / "model").string() + " --data " + (dir / "data.jsonl").string() +
        " --contrast digits:letters --detect a --test b --top 1 --max-tokens 0 --metrics kl,nll --controls 3 " + more +
        " --out " + (dir / "out").string());
  }
  TemporaryDirectory dir;
};

}  // namespace

TEST_CASE("rankings: what experts give finds a planted expert where each token selects every expert" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  const EveryExpertRun scratch;
  const Ran by_use = scratch.deactivate("--mode zero");
  CHECK(by_use.code == 1);
  CHECK_MESSAGE(by_use.err.find("select all 4 experts for every token (k = E)") != std::string::npos, by_use.err);
  fs::remove_all(scratch.dir / "out");
  const Ran banned = scratch.deactivate("--rank-by norm");
  CHECK(banned.code == 1);
  CHECK_MESSAGE(banned.err.find("\"op\": \"scale_expert\", \"by\": 0") != std::string::npos, banned.err);
  fs::remove_all(scratch.dir / "out");

  for (const char* const by : {"norm", "update_share"}) {
    CAPTURE(std::string(by));
    const Ran ran = scratch.deactivate("--mode zero --audit all --rank-by " + std::string(by));
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    const fs::path out = scratch.dir / "out";
    const CsvTable rd = CsvTable::read(out / "detect/contrast/rd.csv");
    for (size_t r = 0; r < rd.n_rows(); ++r) {
      CHECK(rd.number(r, rd.column("rd")) == 0);
      const bool planted = rd.integer(r, 0) == 1 && rd.integer(r, 1) == 2;
      if (planted) CHECK(rd.number(r, rd.column("rd_norm_lo")) > 0.1);
      if (planted) CHECK(rd.number(r, rd.column("q_norm")) < 0.05);
    }
    const json::Value plan = json::parse(read_file(out / "plan.json"), "plan.json");
    int audited = 0;
    for (const json::Value& one : plan.find("interventions")->items()) {
      const std::string& name = one.find("name")->string();
      if (name == "off") CHECK(json::dump(*one.find("edits")->items()[0].find("experts")) == R"({"1":[2]})");
      audited += name.starts_with("audit/");
    }
    const CsvTable trace = CsvTable::read(out / "audit.csv");
    std::set<std::pair<int64_t, int64_t>> experts;
    for (size_t r = 0; r < trace.n_rows(); ++r) experts.insert({trace.integer(r, 0), trace.integer(r, 1)});
    CHECK(static_cast<int>(experts.size()) == audited);
    CHECK(audited % 4 == 0);
    // The planted expert has the largest effect on texts of digits and none on others, which its weight does not reach.
    double planted_digits = 0, largest_digits = 0, planted_letters = 1;
    for (size_t r = 0; r < trace.n_rows(); ++r) {
      if (trace.text(r, trace.column("metric")) != "kl" || trace.integer(r, 0) != 1) continue;
      const double effect = trace.number(r, trace.column("effect"));
      const std::string condition = trace.text(r, trace.column("condition"));
      const bool planted = trace.integer(r, 1) == 2;
      if (condition == "digits") largest_digits = std::max(largest_digits, effect);
      if (condition == "digits" && planted) planted_digits = effect;
      if (condition == "letters" && planted) planted_letters = effect;
    }
    CHECK(planted_digits == largest_digits);
    CHECK(planted_digits > 1e-3);
    CHECK(std::abs(planted_letters) < 1e-9);
    // Correlations of each ranking: all but that of use, which does not differ between experts.
    const CsvTable correlations = CsvTable::read(out / "audit_correlations.csv");
    std::set<std::string> seen;
    for (size_t r = 0; r < correlations.n_rows(); ++r)
      seen.insert(correlations.text(r, 1) + "/" + correlations.text(r, 3));
    for (const char* const condition : {"digits", "letters", ""})
      for (const char* const ranked : {"rd", "norm", "update_share", "direct"})
        CHECK_MESSAGE(seen.contains(std::string(condition) + "/" + ranked), condition << ranked);
    CHECK(read_file(out / "log.txt").find("audit: " + std::to_string(audited) + " experts by themselves") !=
          std::string::npos);
    // Ranked by effects: one metric, one condition.
    if (std::string(by) == "norm") {
      write_file(scratch.dir / "effects.json", R"([{"op": "scale_expert", "by": 0, "layers": "1", "experts":
        {"from": "out/audit.csv", "by": "effect", "metric": "kl", "condition": "digits", "top": 1}}])");
      const auto described = EveryExpertRun::command("score " + (scratch.dir / "model").string() + " --input " +
                                                     (scratch.dir / "data.jsonl").string() + " --edits " +
                                                     (scratch.dir / "effects.json").string() + " --json");
      CHECK_MESSAGE(described.code == 0, described.err);
    }
    fs::remove_all(out);
  }
}

TEST_CASE("audit: correlations of each ranking by condition, by hand") {
  RunFindings findings;
  findings.metrics = {"em"};
  findings.baseline = "baseline";
  const double digits[] = {-0.5, -0.1, -0.2}, all[] = {-0.25, -0.05, -0.1};
  findings.conditions = {{"digits", {}}};
  for (int32_t e = 0; e < 3; ++e) {
    Intervention one;
    one.name = "audit/L1E" + std::to_string(e);
    one.audited = ExpertId{1, e};
    findings.interventions.push_back(one);
    Contrast contrast;
    contrast.difference.value = digits[e];
    findings.conditions[0].found.contrasts.push_back({contrast});
    contrast.difference.value = all[e];
    findings.all.contrasts.push_back({contrast});
  }
  std::vector<RankedExpert> ranking(3);
  const double rd[] = {0.1, 0.3, 0.2}, norm[] = {3, -1, 2};
  for (int32_t e = 0; e < 3; ++e) {
    ranking[static_cast<size_t>(e)] = {1, e, rd[e]};
    ranking[static_cast<size_t>(e)].given[0] = norm[e];
  }
  const auto found = ranking_correlations(findings, {{"memory", ranking}});
  REQUIRE(found.size() == 4);  // of digits and of all records: use, norm
  CHECK((found[0].condition == "digits" && found[0].by == "rd" && found[0].stage == "memory"));
  CHECK(found[0].found.spearman.value() == doctest::Approx(-1));
  CHECK((found[1].by == "norm" && found[1].found.n == 3));
  CHECK(found[1].found.spearman.value() == doctest::Approx(1));
  CHECK(found[1].found.spearman_signed.value() == doctest::Approx(-1));
  CHECK(found[2].condition.empty());
  CHECK(audit_correlations_csv(found).starts_with(
      "metric,condition,stage,by,spearman,spearman_signed,n\r\nem,digits,memory,rd,-1,1,3\r\n"));
  const std::string csv = audit_csv(audit_rows_by_condition(findings, ranking));
  CHECK(
      csv.starts_with("layer,expert,rd,q,rd_norm,metric,condition,effect,ci_lo,ci_hi,p,q_effect,n\r\n"
                      "1,1,0.3,,-1,em,digits,-0.1,"));
  CHECK(csv.find("1,0,0.1,,3,em,,-0.25,") != std::string::npos);
  const std::string text = audit_text(audit_rows_by_condition(findings, ranking), found);
  CHECK(text.find("\nem, digits\n") != std::string::npos);
  CHECK(text.find("rank correlation with |effect|: |rd, norm| +1.00\n") != std::string::npos);
}
