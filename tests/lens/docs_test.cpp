// docs/lens.md: its commands run as pasted and print what it shows.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <string>

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("docs: lens and vocabulary, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const std::string page = page_of("docs/lens.md");
  std::string printed;
  int n = 0;
  for (const std::string& block : indented_blocks(page)) {
    if (!block.starts_with("signalbox ") && block.find("\nsignalbox train lens") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
    ++n;
  }
  CHECK(n == 6);
  for (const char* const word : {"most likely", "most by expert", "tokens  raises", "logit lens, KL"})
    CHECK(line_not_printed(page, word, printed) == "");
  for (const char* const file : {"lens/lens.csv", "lens/summary.json", "vocabulary/expert_vocabulary.csv",
                                 "vocabulary/token_experts.csv", "vocabulary/summary.json"})
    CHECK_MESSAGE(std::filesystem::exists(scratch / "tmp" / file), file);
}

TEST_CASE("docs: the curve over k, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const std::string page = page_of("docs/lens.md");
  for (const std::string& block : fenced_blocks(page, "sh")) {
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
  }
  CHECK(row_not_written(page, "metric", read_file(scratch / "tmp/k/run/table.md")) == "");
  CHECK(read_file(scratch / "tmp/k/run/report.html").find("<h3>active: k</h3>") != std::string::npos);
}
