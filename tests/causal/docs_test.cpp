// Pages of the causal commands: what they show runs as pasted, prints what they print and leaves what they name.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "base/csv.h"

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("docs: maps, effects, doses and gradients, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  for (const char* file : {"docs/causal-map.md", "docs/causal-effects.md", "docs/gradients.md"}) {
    CAPTURE(file);
    int n = 0;
    std::string printed;
    for (const std::string& block : indented_blocks(page_of(file))) {
      if (block.find("signalbox ") == std::string::npos) continue;
      const Ran ran = paste(block, scratch.path());
      REQUIRE_MESSAGE(ran.code == 0, ran.err);
      printed += ran.out;
      ++n;
    }
    if (std::string(file) == "docs/causal-effects.md")
      CHECK(line_not_printed(page_of(file), "change of nll", printed) == "");
    CHECK(n >= 2);
  }
  const auto tmp = scratch / "tmp";
  for (const char* file : {"map/map.safetensors", "map/report.html", "sampled/experts.csv", "map-whole/summary.json",
                           "effects/propagation.csv", "gradients/trace.safetensors", "weights/weights.safetensors"})
    CHECK_MESSAGE(std::filesystem::exists(tmp / file), file);
  // The map of all records in shards is the map.
  for (const char* file : {"map.safetensors", "experts.csv", "summary.json"})
    CHECK(read_file(tmp / "map-whole" / file) == read_file(tmp / "map" / file));
  const CsvTable doses = CsvTable::read(tmp / "dose/dose.csv");
  CHECK(doses.n_rows() == 7);
}

TEST_CASE("docs: patching, as pasted, and in shards" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const std::string page = page_of("docs/causal-patch.md");
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  CHECK(line_not_printed(page, "normalised", printed) == "");
  for (const char* file : {"patch.csv", "flips.csv", "summary.json", "pairs.jsonl"})
    CHECK_MESSAGE(read_file(scratch / "tmp/patch-whole" / file) == read_file(scratch / "tmp/patch" / file), file);
}

TEST_CASE("docs: commutativity and format sensitivity, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  for (const char* const file : {"docs/commutativity.md", "docs/format-sensitivity.md"}) {
    TemporaryDirectory scratch;
    const std::string page = page_of(file);
    std::string printed;
    for (const std::string& block : fenced_blocks(page, "sh")) {
      const Ran ran = paste(block, scratch.path());
      REQUIRE_MESSAGE(ran.code == 0, ran.err);
      printed += ran.out;
    }
    for (const char* const word : {"layer  ", "q < 0.05"}) CHECK(line_not_printed(page, word, printed) == "");
  }
}

TEST_CASE("docs: causal patch and causal edges, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  for (const std::string name : {"patch", "edges"}) {
    const std::string page = page_of("docs/causal-" + name + ".md");
    std::string printed;
    for (const std::string& block : indented_blocks(page)) {
      if (!block.starts_with("for q in")) continue;
      const Ran ran = paste(block, scratch.path());
      REQUIRE_MESSAGE(ran.code == 0, ran.err);
      printed += ran.out;
    }
    CHECK(line_not_printed(page, "normalised", printed) == "");
    CHECK(std::filesystem::exists(scratch / "tmp" / name / (name + ".csv")));
  }
}

TEST_CASE("docs: causal pipelines, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const std::string page = page_of("docs/causal-pipelines.md");
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox domains") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  CHECK(line_not_printed(page, "verdict", printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/pipelines/links.csv"));
}
