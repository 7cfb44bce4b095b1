// docs/rationales.md: its commands as pasted print what it shows.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <filesystem>

using namespace signalbox::test;

TEST_CASE("docs: rationales, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/rationales.md");
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  for (const char* word : {"sentence\":", "IOU F1", "in test.jsonl", "leave_one_out", "best at balance"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/factors/factors.safetensors"));
}
