// signalbox regimes on the built-in model: expand, trace, analyse.
#include <doctest/doctest.h>

#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/csv.h"
#include "base/error.h"
#include "base/json.h"
#include "eval/data/prompt_hash.h"
#include "eval/data/records.h"
#include "eval/store/lock.h"
#include "probes/trace.h"
#include "tests/kills.h"
#include "tests/support.h"

namespace signalbox::tools {
int regimes_command(int argc, char** argv);
}

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

int regimes(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "regimes");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return regimes_command(static_cast<int>(argv.size()), argv.data());
}

constexpr const char* programs = R"([{"name":"R0"},{"name":"R1","suffix":" Think step by step.","max_tokens":24},
    {"name":"R3","like":"R1","samples":3,"temperature":1.5}])";

constexpr const char* bases =
    R"({"id":"a","messages":[{"role":"user","content":"Question: What is 2 + 3 + 4?"}],"difficulty":1})"
    "\n"
    R"({"id":"b","messages":[{"role":"user","content":"Question: What is 9 + 8 + 3?"}],"difficulty":2})"
    "\n";

}  // namespace

TEST_CASE("regimes: base records to findings") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "p.json", programs);
  test::write_file(scratch / "b.jsonl", bases);
  const std::string trace = (scratch / "t").string();
  const std::vector<std::string> run = {"trace",        "builtin",
                                        "--programs",   (scratch / "p.json").string(),
                                        "--input",      (scratch / "b.jsonl").string(),
                                        "--out",        trace,
                                        "--max-tokens", "6",
                                        "--quiet"};
  REQUIRE(regimes(run) == 0);
  const TraceReader reader(trace);
  CHECK(reader.sample_ids() ==
        std::vector<std::string>{"a@R0", "a@R1", "a@R3", "a@R3", "a@R3", "b@R0", "b@R1", "b@R3", "b@R3", "b@R3"});
  // R0 takes the command's --max-tokens, R1 and R3 their own; R3's samples differ.
  int64_t n_given = 0;
  for (uint8_t phase : reader.phase(reader.rows(0))) n_given += phase == 0;
  CHECK(reader.rows(0).size() - n_given <= 6);
  CHECK(reader.rows(1).size() > reader.rows(0).size());
  CHECK((reader.tokens(reader.rows(2)) != reader.tokens(reader.rows(3)) ||
         reader.tokens(reader.rows(3)) != reader.tokens(reader.rows(4))));

  REQUIRE(regimes({trace, "--resamples", "200", "--profiles-csv", "--quiet"}) == 0);
  for (const char* name : {"regimes.csv", "recurring.csv", "lengths.csv", "difficulty.csv", "profiles.csv"})
    CHECK(CsvTable::read(scratch / "t/regimes" / name).n_rows() > 0);
  const CsvTable table = CsvTable::read(scratch / "t/regimes/regimes.csv");
  const size_t n_experts = static_cast<size_t>(reader.n_experts()) * reader.layers().size();
  CHECK(table.n_rows() == 3 * n_experts);
  // Every token selects n_active experts in each layer.
  double sum = 0;
  for (size_t row = 0; row < static_cast<size_t>(reader.n_experts()); ++row)
    sum += table.number(row, table.column("share"));
  CHECK(sum == doctest::Approx(reader.n_active()));
  const json::Value summary = json::parse_file(scratch / "t/regimes/summary.json");
  CHECK(summary.find("persistence_regime")->string() == "R3");
  // The prompts that chose, as the model saw them (R3 asks what R1 does), and as the records say them: R0's are those
  // of the base records.
  std::set<std::string> prompts, lines, listed, aliases;
  std::istringstream seen(test::read_file(scratch / "t/texts.jsonl")),
      asked(test::read_file(scratch / "t/records.jsonl"));
  for (std::string line; std::getline(seen, line);)
    prompts.insert(prompt_hash(json::parse(line, "texts.jsonl").find("text")->string()));
  for (std::string line; std::getline(asked, line);) lines.insert(line_prompt_hash(json::parse(line, "records.jsonl")));
  CHECK(prompts.size() == 4);
  CHECK(lines.size() == 4);
  for (const json::Value& hash : summary.find("prompts")->items()) listed.insert(hash.string());
  for (const json::Value& hash : summary.find("prompt_aliases")->items()) aliases.insert(hash.string());
  CHECK(listed == prompts);
  CHECK(aliases == lines);
  for (const Record& base : read_records((scratch / "b.jsonl").string()))
    CHECK(lines.contains(line_prompt_hash(base.source)));

  // Batching does not matter; what is complete stays as it is.
  const std::string first = test::read_file(scratch / "t/trace.safetensors");
  const std::string findings = test::read_file(scratch / "t/regimes/recurring.csv");
  std::vector<std::string> batched = run;
  batched[7] = (scratch / "batched").string();
  batched.insert(batched.end(), {"--batch", "1"});
  REQUIRE(regimes(batched) == 0);
  CHECK(test::read_file(scratch / "batched/trace.safetensors") == first);
  const std::string manifest = test::read_file(scratch / "t/manifest.json");
  REQUIRE(regimes(run) == 0);
  CHECK(test::read_file(scratch / "t/manifest.json") == manifest);
  REQUIRE(regimes({trace, "--resamples", "200", "--quiet", "--threads", "1"}) == 0);
  CHECK(test::read_file(scratch / "t/regimes/recurring.csv") == findings);
}

TEST_CASE("regimes: killed at any moment, a trace goes on to the same bytes" *
          doctest::test_suite("repeats: one small command, killed again and again")) {
  test::TemporaryDirectory scratch;
  std::string many;
  for (int i = 0; i < 150; ++i)
    many += R"({"id":")" + std::to_string(i) + R"(","messages":[{"role":"user","content":"Question: What is )" +
            std::to_string(i) + " + 3?\"}]}\n";
  test::write_file(scratch / "p.json", R"([{"name":"R0"},{"name":"R1","suffix":" Think step by step."}])");
  test::write_file(scratch / "b.jsonl", many);
  const auto into = [&](const std::string& dir) {
    return std::vector<std::string>{"regimes",
                                    "trace",
                                    "builtin",
                                    "--programs",
                                    (scratch / "p.json").string(),
                                    "--input",
                                    (scratch / "b.jsonl").string(),
                                    "--max-tokens",
                                    "6",
                                    "--quiet",
                                    "--out",
                                    (scratch / dir).string()};
  };
  const double seconds = test::seconds_of(into("whole"));
  // The same records by another command.
  const std::string derived = (scratch / "derived.jsonl").string(), one = (scratch / "one").string();
  REQUIRE(test::run_command(test::binary() + " regimes expand --programs " + (scratch / "p.json").string() +
                            " --input " + (scratch / "b.jsonl").string() + " > " + derived)
              .code == 0);
  REQUIRE(test::run_command(test::binary() + " generate builtin --quiet --json --max-tokens 6 --input " + derived +
                            " --trace " + one)
              .code == 0);
  for (const char* file : {"trace.safetensors", "records.jsonl", "texts.jsonl"})
    CHECK_MESSAGE(test::read_file(scratch / "one" / file) == test::read_file(scratch / "whole" / file), file);
  int kills = 0;
  for (uint64_t round = 0; round < 2; ++round) {
    std::filesystem::remove_all(scratch / "out");
    kills += test::run_with_kills(into("out"), seconds, 3 + round);
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(scratch / "out"))
      names.insert(entry.path().filename().string());
    CHECK(names ==
          std::set<std::string>{"log.txt", "manifest.json", "records.jsonl", "texts.jsonl", "trace.safetensors"});
    for (const char* file : {"trace.safetensors", "records.jsonl", "texts.jsonl"})
      CHECK_MESSAGE(test::read_file(scratch / "out" / file) == test::read_file(scratch / "whole" / file), file);
  }
  CHECK(kills > 2);
}

TEST_CASE("regimes: refusals of the command") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "p.json", programs);
  test::write_file(scratch / "b.jsonl", bases);
  auto message = [&](const std::vector<std::string>& arguments) {
    try {
      regimes(arguments);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string p = (scratch / "p.json").string(), b = (scratch / "b.jsonl").string();
  CHECK(message({"one", "two"}).find("--out: expected a directory where there are several DIRs") == 0);
  CHECK(message({"expand", "--programs", p, "--input", b, "--program", "R9", "--quiet"})
            .find("--program: expected the name of a program") == 0);
  CHECK(message({"trace", "builtin", "--programs", p, "--input", b, "--out", (scratch / "t").string(), "--max-tokens",
                 "600", "--quiet"})
            .find("program \"R0\": expected at most the model's 512 positions") != std::string::npos);
  test::write_file(scratch / "spec.json", std::string(R"({"model":"builtin","programs":)") + programs + "}");
  CHECK(message({"trace", "builtin", "--programs", (scratch / "spec.json").string(), "--input", b, "--out",
                 (scratch / "t").string(), "--max-tokens", "600", "--quiet"})
            .find("512 positions") != std::string::npos);
  // A directory belongs to one trace and to one process at a time.
  std::vector<std::string> run = {"trace",        "builtin", "--programs", p,
                                  "--input",      b,         "--out",      (scratch / "t").string(),
                                  "--max-tokens", "4",       "--quiet"};
  REQUIRE(message(run).empty());
  {
    const DirectoryLock lock(scratch / "t");
    CHECK(message(run).find("in use by process") != std::string::npos);
  }
  run[9] = "5";
  CHECK(message(run).find("generate.max_tokens: was 4, now 5") != std::string::npos);
  // A look ahead says so too, and of the same command that nothing is left to do.
  std::vector<std::string> dry = run;
  dry.emplace_back("--dry-run");
  CHECK(message(dry).find("generate.max_tokens: was 4, now 5") != std::string::npos);
  const test::Ran same = test::run_command(test::binary() + " regimes trace builtin --programs " + p + " --input " + b +
                                           " --out " + (scratch / "t").string() + " --max-tokens 4 --quiet --dry-run");
  CHECK_MESSAGE(same.out.find("kept  10 of 10 texts are there from before") != std::string::npos, same.out);
  run[9] = "4";
  test::write_file(scratch / "p.json", R"([{"name":"R0"},{"name":"R1","suffix":" Go."}])");
  CHECK(message(run).find("programs") != std::string::npos);
}
