// The pages about circuits: their commands as pasted print what the pages say.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <filesystem>

using namespace signalbox::test;

namespace {

std::string paste_all(const std::string& page, const TemporaryDirectory& scratch, size_t n_blocks) {
  const auto blocks = fenced_blocks(page, "sh");
  REQUIRE(blocks.size() == n_blocks);
  std::string printed;
  for (const std::string& block : blocks) {
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  return printed;
}

}  // namespace

TEST_CASE("docs: circuits, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/circuits.md"), printed = paste_all(page, scratch, 1);
  for (const char* word : {"minimality", "faithfulness", "random circuits", "sufficiency"})
    CHECK(line_not_printed(page, word, printed) == "");
  for (const std::string& block : fenced_blocks(page, "mermaid")) CHECK(printed.find(block) != std::string::npos);
  for (const char* file : {"graph.json", "circuit.json", "test.json"})
    CHECK(std::filesystem::exists(scratch / (std::string("tmp/circuit/") + file)));
}

TEST_CASE("docs: circuits of edges, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/edge-circuits.md"), printed = paste_all(page, scratch, 1);
  for (const char* word : {"logits  ", "0.0100      3", "of 12 edges", "same graph", "sufficiency", "of 3 edges"})
    CHECK(line_not_printed(page, word, printed) == "");
  for (const std::string& block : fenced_blocks(page, "mermaid")) CHECK(printed.find(block) != std::string::npos);
}

TEST_CASE("docs: the built-in model's circuits, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/examples/circuits.md"), printed = paste_all(page, scratch, 4);
  for (const char* word : {"minimality", "faithfulness", "random circuits", "sufficiency"})
    CHECK(line_not_printed(page, word, printed) == "");
  const auto graphs = fenced_blocks(page, "mermaid");
  REQUIRE(graphs.size() == 1);
  CHECK(printed.find(graphs[0]) != std::string::npos);
}
