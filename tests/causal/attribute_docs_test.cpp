// docs/causal-attribute.md: its commands run as pasted and print what it shows.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "tests/docs.h"

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("docs: causal attribute, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const std::string page = page_of("docs/causal-attribute.md");
  std::string printed;
  int n = 0;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out + ran.err;
    ++n;
  }
  CHECK(n == 5);
  for (const char* const word : {"layer  point", "change "}) CHECK(line_not_printed(page, word, printed) == "");
  for (const char* const file : {"atp/attribution.csv", "eap/totals.csv", "ig/crossings.csv", "gain/summary.json"})
    CHECK_MESSAGE(std::filesystem::exists(scratch / "tmp" / file), file);
}
