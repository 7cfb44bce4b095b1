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
  CHECK(blocks.size() == 10);
  for (const std::string& block : blocks) {
    CAPTURE(block);
    const test::Ran ran = test::paste(block, directory.path());
    CHECK_MESSAGE(ran.code == 0, ran.err);
  }
  CHECK(read_records(directory / "out/split.jsonl").size() == 4);
  CHECK(read_records(directory / "out/structural.jsonl").size() == 100);
}

TEST_CASE("docs: the commands of your-own-model.md work as pasted, from a CSV file to a controlled result" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const test::TemporaryDirectory directory;
  const auto blocks = test::fenced_blocks(test::page_of("docs/your-own-model.md"), "sh");
  CHECK(blocks.size() == 6);
  for (std::string block : blocks) {
    // Twenty sets of controls take seconds.
    if (const size_t at = block.find(" --top 8"); at != std::string::npos) block.insert(at, " --controls 1");
    CAPTURE(block);
    const test::Ran ran = test::paste(block, directory.path());
    CHECK_MESSAGE(ran.code == 0, ran.err);
  }
  CHECK(read_records(directory / "out/own_pairs.jsonl").size() == 200);
  int64_t tested = 0;
  const std::vector<Record> records = read_records(directory / "out/own-run/records.jsonl");
  for (const Record& record : records) tested += record.split == "test";
  CHECK(tested == 100);
  // The effect that the page prints does not depend on the controls.
  const json::Value metrics = json::parse_file(directory / "out/own-run/metrics.json");
  CHECK(json::dump(metrics).find("-0.22") != std::string::npos);
}
