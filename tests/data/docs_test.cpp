// The commands of docs/data.md do what the page says when they are pasted.
#include <doctest/doctest.h>

#include "eval/data/records.h"
#include "tests/support.h"

using namespace signalbox;

TEST_CASE("docs: the commands of data.md work as pasted") {
  const test::TemporaryDirectory directory;
  const std::string page = test::read_file((test::source_dir() / "docs/data.md").string());
  // "signalbox" is the binary under test, "out" a scratch folder.
  const std::string scratch = (directory / "out").string();
  std::string setup = "set -e; cd " + test::source_dir().string() + "; mkdir -p " + scratch + "; signalbox() { " +
                      test::binary() + " \"$@\"; }\n";
  int blocks = 0;
  for (size_t at = page.find("```sh\n"); at != std::string::npos; at = page.find("```sh\n", at)) {
    const size_t begin = at + 6, end = page.find("```", begin);
    REQUIRE(end != std::string::npos);
    std::string script = page.substr(begin, end - begin);
    for (size_t out = script.find(" out/"); out != std::string::npos; out = script.find(" out/", out + 1))
      script.replace(out, 5, " " + scratch + "/");
    CAPTURE(script);
    const test::Ran ran = test::run_command("(" + setup + script + ")");
    CHECK_MESSAGE(ran.code == 0, ran.err);
    at = end + 3;
    ++blocks;
  }
  CHECK(blocks == 7);
  CHECK(read_records(scratch + "/split.jsonl").size() == 4);
  CHECK(read_records(scratch + "/structural.jsonl").size() == 100);
}
