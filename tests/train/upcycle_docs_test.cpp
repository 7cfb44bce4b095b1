// docs/upcycle.md: its commands as pasted print what it shows.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "tests/docs.h"

using namespace signalbox::test;

TEST_CASE("docs: upcycle, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/upcycle.md");
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  for (const char* word : {" all ", "Routes: ", "in step 20"}) CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/carved/dense/model.safetensors"));
  CHECK(std::filesystem::exists(scratch / "tmp/trained/model/model.safetensors"));
}
