<<<<<<< HEAD
// docs/training.md and docs/expert-tuning.md: their commands as pasted print what they show.
=======
// docs/training.md, docs/transplants.md: their commands as pasted print what they show.
>>>>>>> 7f4b3c4 (tests, docs: Similarity and transplants against numpy, scipy and what is known by construction)
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <filesystem>

using namespace signalbox::test;

TEST_CASE("docs: training, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/training.md");
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  for (const char* word : {"in step 10", "held out", "values trained", "in step 60"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/trained/model/model.safetensors"));
}

<<<<<<< HEAD
TEST_CASE("docs: expert tuning, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/expert-tuning.md");
=======
TEST_CASE("docs: transplants, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/transplants.md");
>>>>>>> 7f4b3c4 (tests, docs: Similarity and transplants against numpy, scipy and what is known by construction)
  std::string printed;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find("signalbox ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
<<<<<<< HEAD
  for (const char* word : {"in step 6", "held out", "drift:", "values trained"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/applied/model.safetensors"));
=======
  for (const char* word : {"best function", "mean_weight", "It works"})
    CHECK(line_not_printed(page, word, printed) == "");
  CHECK(std::filesystem::exists(scratch / "tmp/grafted/transplant.csv"));
>>>>>>> 7f4b3c4 (tests, docs: Similarity and transplants against numpy, scipy and what is known by construction)
}
