// docs/serving.md: its commands as pasted answer as it says.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include "base/json.h"

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("docs: serving, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  if (run_command("command -v curl").code != 0) return skip("curl is not there");
  const TemporaryDirectory scratch;
  for (const std::string& block : indented_blocks(page_of("docs/serving.md"))) {
    if (block.find("signalbox serve ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
  }
  const auto answer = [&](const char* file) { return json::parse(read_file(scratch.path() / "tmp" / file), file); };
  const json::Value completion = answer("completion.json");
  CHECK(completion.find("choices")->items()[0].find("text")->string() == " a young crow named Voris walked to");
  const json::Value edited = answer("edited.json");
  CHECK(edited.find("choices")->items()[0].find("signalbox")->find("points")->find("router.original_ids"));
  for (const char* file : {"chat.txt", "branches.txt"}) {
    const std::string stream = read_file(scratch.path() / "tmp" / file);
    CHECK(stream.find("data: [DONE]") != std::string::npos);
  }
}
