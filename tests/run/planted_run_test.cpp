// The whole pipeline against planted truth: an experiment finds the experts that were built in, bans them, and finds
// nothing to ban when the labels mean nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>

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
  "detect": {"digits": {"contrast": "digits:letters"}},
  "interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban",
    "experts": {"from": "detect:digits", "top": 2, "sign": "+", "q_below": 0.05}}]}],
  "controls": {"random": 5}, "metrics": ["ppl", "kl"], "split": {"detect": "a", "test": "b"}, "resamples": 2000})";

}  // namespace

TEST_CASE("an experiment finds planted experts and bans them") {
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
  const json::Value plan = json::parse(read_file(temporary / "out/plan.json"), "plan.json");
  std::set<std::string> names;
  for (const json::Value& one : plan.find("interventions")->items()[0].items()) {
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
