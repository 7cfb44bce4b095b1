// docs/training.md, docs/expert-tuning.md, docs/transplants.md: their commands as pasted print what they show.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <filesystem>

using namespace signalbox::test;

namespace {

// What the commands of a page print, in a directory of their own; each ends well.
std::string printed_by(const std::string& page, const TemporaryDirectory& scratch) {
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  return printed;
}

}  // namespace

TEST_CASE("docs: training, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/training.md"), printed = printed_by(page, scratch);
  for (const char* word : {"in step 10", "held out", "values trained", "in step 60"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/trained/model/model.safetensors"));
}

TEST_CASE("docs: expert tuning, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/expert-tuning.md"), printed = printed_by(page, scratch);
  for (const char* word : {"in step 6", "held out", "drift:", "values trained"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/applied/model.safetensors"));
}

TEST_CASE("docs: transplants, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/transplants.md"), printed = printed_by(page, scratch);
  for (const char* word : {"best function", "mean_weight", "It works"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/grafted/transplant.csv"));
}
