// The worked examples and the README's commands do, as pasted, what is said about them.
#include <doctest/doctest.h>

#include <vector>

#include "base/json.h"
#include "tests/docs.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::test;

namespace {

const json::Value& at(const json::Value& value, std::initializer_list<const char*> path) {
  const json::Value* found = &value;
  for (const char* key : path) {
    found = found->find(key);
    REQUIRE_MESSAGE(found, key);
  }
  return *found;
}

}  // namespace

TEST_CASE("docs: expert deactivation, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const auto blocks = fenced_blocks(page_of("docs/examples/001-expert-deactivation.md"), "sh");
  REQUIRE(blocks.size() == 3);
  std::string printed;
  for (const std::string& block : blocks) {
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  // A document that says nothing about the question moves the same experts as its own.
  CHECK(printed.find("r = 0.96\n") != std::string::npos);
  const fs::path memory = scratch / "out/memory/run", refusal = scratch / "out/refusal/run";
  const json::Value metrics = json::parse(read_file(memory / "metrics.json"), "metrics.json");
  // Banned memory experts cost answers from memory, more than any random set, and none from a document.
  const json::Value& forgot = at(metrics, {"conditions", "without_document", "contrasts", "memory off", "em"});
  CHECK(at(forgot, {"diff"}).real() < -0.3);
  CHECK(at(forgot, {"ci_hi"}).real() < -0.2);
  CHECK(at(forgot, {"control_rank"}).integer() == 1);
  CHECK(at(forgot, {"q"}).real() < 0.01);
  CHECK(at(metrics, {"conditions", "with_document", "contrasts", "memory off", "em", "diff"}).real() == 0);
  CHECK(at(metrics, {"conditions", "with_document", "contrasts", "document off", "em", "diff"}).real() == 0);
  CHECK(at(metrics, {"audit", "em", "n"}).integer() == 10);
  CHECK(fs::exists(memory / "audit.csv"));
  // The tables as shown.
  const std::string page = page_of("docs/examples/001-expert-deactivation.md");
  CHECK(row_not_written(page, "records", read_file(memory / "table.md") + "\n" + read_file(refusal / "table.md")) ==
        "");
  // Nothing is found about refusal: the smallest q stays large.
  const json::Value refused = json::parse(read_file(refusal / "metrics.json"), "metrics.json");
  CHECK(at(refused, {"contrasts", "off/top=16", "complied", "p"}).real() < 0.05);
  CHECK(at(refused, {"contrasts", "off/top=16", "complied", "q"}).real() > 0.05);
  CHECK(at(refused, {"contrasts", "off/top=8", "complied", "diff"}).real() == 0);
}

TEST_CASE("docs: misrouting and explanations, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const auto blocks = fenced_blocks(page_of("docs/examples/000-misrouting.md"), "sh");
  REQUIRE(blocks.size() == 2);
  std::string printed;
  for (const std::string& block : blocks) {
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  const fs::path run = scratch / "out/regimes/run";
  const json::Value metrics = json::parse(read_file(run / "metrics.json"), "metrics.json");
  auto right = [&](const char* regime, const char* intervention) {
    return at(metrics, {"conditions", regime, "interventions", intervention, "em_final", "mean"}).real();
  };
  CHECK(right("R1", "baseline") > 0.95);
  CHECK(right("R0", "baseline") < 0.5);
  // More of it does more, and a direct answer hardly minds.
  CHECK(right("R1", "mis/policy=next_best,fraction=0.25") > right("R1", "mis/policy=next_best,fraction=0.5"));
  CHECK(right("R1", "mis/policy=next_best,fraction=0.5") > right("R1", "mis/policy=next_best,fraction=1"));
  CHECK(right("R0", "baseline") - right("R0", "mis/policy=next_best,fraction=1") < 0.1);
  CHECK(fs::exists(run / "traces/baseline/regimes/recurring.csv"));
  const json::Value study = json::parse(read_file(scratch / "out/faithfulness/run/summary.json"), "summary.json");
  CHECK(line_not_printed(page_of("docs/examples/000-misrouting.md"), "area over the curve", printed) == "");
  CHECK(line_not_printed(page_of("docs/examples/000-misrouting.md"), "same answer, %", printed) == "");
  // The answer goes with the words: most mistakes in the steps change it.
  CHECK(at(study, {"aoc", "early", "mean"}).real() > 0.6);
  CHECK(at(study, {"aoc", "mistake", "mean"}).real() > 0.6);
}

TEST_CASE("docs: domains, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const std::string page = page_of("docs/examples/004-domains.md");
  const auto blocks = fenced_blocks(page, "sh");
  REQUIRE(blocks.size() == 2);
  std::string printed;
  for (const std::string& block : blocks) {
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  for (const char* study : {"domains", "own"}) CHECK(fs::exists(scratch / "out" / study / "panel.html"));
  // The sentences and the table as shown.
  CHECK(line_not_printed(page, "% elsewhere", printed) == "");
  std::string quoted, said;
  for (const std::string& line : lines_of(page))
    if (line.starts_with("> ")) quoted += line.substr(2) + " ";
  bool inside = false;
  for (const std::string& line : lines_of(printed)) {
    inside = (inside || line.starts_with("600 prompts in 6 domains")) && !line.empty();
    if (inside) said += line + " ";
  }
  CHECK(said.size() > 300);
  CHECK(quoted == said);
}

TEST_CASE("docs: the README's commands work as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  int pasted = 0;
  for (const std::string& block : indented_blocks(page_of("README.md"))) {
    // Set-up scripts, models that are not here, and a server at a fixed port (tests/serve pastes its request, at a
    // socket).
    if (block.find("tools/test") != std::string::npos || block.find("allenai/") != std::string::npos ||
        block.find("127.0.0.1:8080") != std::string::npos)
      continue;
    const Ran ran = paste(block, scratch.path());
    CHECK_MESSAGE(ran.code == 0, block << ran.err);
    ++pasted;
  }
  CHECK(pasted >= 7);
  CHECK(row_not_written(page_of("README.md"), "records", read_file(scratch / "out/deactivate/table.md")) == "");
}
