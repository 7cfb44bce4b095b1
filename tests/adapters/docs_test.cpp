// docs/adapters.md: its commands as pasted print what it shows.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <filesystem>

using namespace signalbox::test;

TEST_CASE("docs: adapters, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/adapters.md");
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  for (const char* word : {"in step 10", "held out", "values trained", "sum log p"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/adapter/adapter_model.safetensors"));
}
