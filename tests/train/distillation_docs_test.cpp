// docs/distillation.md: its commands as pasted print what it shows; SIGNALBOX_LONG_TESTS=1 runs the long ones too.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/docs.h"

using namespace signalbox::test;

TEST_CASE("docs: distillation, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/distillation.md");
  std::string printed;
  const bool all = std::getenv("SIGNALBOX_LONG_TESTS") != nullptr;
  for (std::string block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const bool first = block.find("awk 'NR") != std::string::npos;
    if (!all && first) block = block.substr(0, block.find('\n') + 1);  // the records alone
    if (!all && block.find("--keep 10,16,22") != std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  for (const char* word : {"other domains", "after"}) CHECK(line_not_printed(page, word, printed) == "");
  for (const char* word : {"closed_form", "22  student", "16  random"})
    if (all) CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/coder/model.safetensors"));
}
