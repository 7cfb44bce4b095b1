// From traces to runs: experts are not tested on the prompts that chose them, however these are spelt.
#include <doctest/doctest.h>

#include <sstream>

#include "base/json.h"
#include "eval/data/prompt_hash.h"
#include "tests/support.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::test;

namespace {

std::string record(int i, const std::string& key, const std::string& value) {
  return "{\"id\":\"" + key + std::to_string(i) + "\",\"" + key + "\":" + value + ",\"condition\":\"" +
         (i % 2 ? "B" : "A") + "\"}\n";
}

std::string question(int i) { return "Question: What is " + std::to_string(i) + " + 4?"; }

json::Value read_json(const fs::path& file) { return json::parse(read_file(file), file.string()); }

// Bans the first expert of a table.
std::string ban_spec(const std::string& data, const std::string& from, const std::string& more) {
  return R"({"model": "builtin", "data": ")" + data + R"(", "controls": false, "metrics": ["ppl"], "resamples": 20, )" +
         more +
         R"("interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban", )" +
         R"("experts": {"from": ")" + from + R"(", "top": 1)" +
         (from.ends_with("npmi.csv") ? R"(, "by": "npmi")" : "") + "}}]}]}";
}

}  // namespace

TEST_CASE("experts are refused on the prompts that chose them: renamed, as tokens, from every table") {
  TemporaryDirectory dir;
  const auto path = [&](const std::string& name) { return (dir / name).string(); };
  const auto run = [&](const std::string& command) {
    const Ran ran = run_command(test::binary() + " " + command);
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    return ran;
  };
  std::string prompts, spaced, fresh, tokens;
  for (int i = 0; i < 4; ++i) {
    prompts += record(i, "prompt", "\"" + question(i) + "\"");
    spaced += record(i + 10, "prompt", "\" " + question(i) + "\\n\"");
    fresh += record(i + 20, "prompt", "\"" + question(i + 4) + "\"");
  }
  write_file(dir / "prompts.jsonl", prompts);
  write_file(dir / "spaced.jsonl", spaced);
  write_file(dir / "fresh.jsonl", fresh);
  std::istringstream ids(run("tokenize builtin --json --input " + path("prompts.jsonl")).out);
  int n = 0;
  for (std::string line; std::getline(ids, line); ++n)
    tokens += record(n + 30, "tokens", json::dump(*json::parse(line, "ids").find("ids")));
  write_file(dir / "tokens.jsonl", tokens);

  run("trace builtin --input " + path("prompts.jsonl") + " --out " + path("t") + " --quiet");
  run("analyze " + path("t") + " --contrast A:B --resamples 20 --marker-token 1 --tables none --quiet");
  const json::Value summary = read_json(dir / "t/analysis/summary.json");
  std::string expected;
  for (int i = 0; i < 4; ++i) expected += (i ? "," : "[") + ("\"" + eval::prompt_hash(question(i)) + "\"");
  CHECK(json::dump(*summary.find("prompts")) == expected + "]");
  CHECK(summary.find("tables")->members().size() == 3);

  const auto tested = [&](const std::string& data, const std::string& from, const std::string& more = "") {
    write_file(dir / "spec.json", ban_spec(data, from, more));
    fs::remove_all(dir / "out");
    return run_command(test::binary() + " run " + path("spec.json") + " --out " + path("out"));
  };
  for (const char* table : {"t/analysis/rd.csv", "t/analysis/npmi.csv"})
    for (const char* data : {"spaced.jsonl", "tokens.jsonl"}) {
      CAPTURE(table);
      CAPTURE(data);
      const Ran ran = tested(data, table);
      CHECK(ran.code == 1);
      CHECK_MESSAGE(ran.err.find("was chosen on prompts that are to be tested, found none; such records: 4 (") !=
                        std::string::npos,
                    ran.err);
      CHECK(!fs::exists(dir / "out"));
    }
  // Other prompts may be tested, and what is measured there is known too.
  const Ran fine = tested("fresh.jsonl", "t/analysis/rd.csv", R"("audit": {"experts": {"2": [1]}}, )");
  REQUIRE_MESSAGE(fine.code == 0, fine.err);
  CHECK(read_json(dir / "out/metrics.json").find("data")->find("rankings")->items()[0].find("problem")->is_null());
  CHECK(read_json(dir / "out/summary.json").find("prompts")->items().size() == 4);

  // A copy of unknown origin is told in four places.
  fs::create_directory(dir / "away");
  fs::copy_file(dir / "t/analysis/rd.csv", dir / "away/rd.csv");
  const Ran ran = tested("spaced.jsonl", "away/rd.csv");
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const std::string told = "takes them from away/rd.csv, beside which there is no summary.json";
  CHECK(ran.err.find(told) != std::string::npos);
  CHECK(read_file(dir / "out/log.txt").find(told) != std::string::npos);
  CHECK(read_file(dir / "out/report.html").find(told) != std::string::npos);
  CHECK(read_json(dir / "out/metrics.json").find("data")->find("rankings")->items()[0].find("problem")->is_string());
}
