// docs/upcycle.md: its first commands as pasted print what it shows.
#include <doctest/doctest.h>

#include <filesystem>

#include "tests/docs.h"

using namespace signalbox::test;

TEST_CASE("docs: upcycle, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/upcycle.md");
  const Ran ran = paste(indented_blocks(page).front(), scratch.path());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  CHECK(line_not_printed(page, " all ", ran.out) == "");
  CHECK(line_not_printed(page, "Routes: ", ran.out) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/carved/dense/model.safetensors"));
}
