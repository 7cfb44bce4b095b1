// The commands of docs/data.md do what the page says when they are pasted.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include "eval/data/records.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

TEST_CASE("docs: the commands of data.md work as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const test::TemporaryDirectory directory;
  const auto blocks = test::fenced_blocks(test::page_of("docs/data.md"), "sh");
  CHECK(blocks.size() == 9);
  for (const std::string& block : blocks) {
    CAPTURE(block);
    const test::Ran ran = test::paste(block, directory.path());
    CHECK_MESSAGE(ran.code == 0, ran.err);
  }
  CHECK(read_records(directory / "out/split.jsonl").size() == 4);
  CHECK(read_records(directory / "out/structural.jsonl").size() == 100);
}
