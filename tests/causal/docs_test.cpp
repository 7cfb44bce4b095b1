// docs/commutativity.md and docs/format-sensitivity.md: their commands run as pasted and print what the pages show.
#include "tests/docs.h"

#include <doctest/doctest.h>

using namespace signalbox;
using namespace signalbox::test;

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
