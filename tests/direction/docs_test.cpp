// The page of directions does, as pasted, what it says; and the command refuses what cannot be.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/json.h"
#include "tests/bad_files/files.h"

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("docs: directions, as pasted; the directory and what is refused") {
  TemporaryDirectory scratch;
  const std::string page = page_of("docs/direction.md");
  const auto blocks = fenced_blocks(page, "sh");
  REQUIRE(blocks.size() == 1);
  const Ran ran = paste(blocks[0], scratch.path());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  for (const char* word : {"chosen", "95 %", "routes held"}) CHECK(line_not_printed(page, word, ran.out) == "");
  const json::Value summary = json::parse_file(scratch / "out/direction/summary.json");
  const json::Value& validation = *summary.find("validation");
  CHECK(validation.find("metric")->string() == "logit_diff");
  CHECK(validation.find("records")->integer() == 24);
  CHECK(validation.find("left_out")->integer() == 72);
  CHECK(summary.find("seed")->integer() == 0);
  CHECK(summary.find("split")->find("names")->items().size() == 3);

  const std::string records = " --input out/planted/circuit-0.jsonl";
  const auto refused = [&](const std::string& words, const std::string& said, int code) {
    const Ran bad = paste("signalbox direction " + words, scratch.path());
    CAPTURE(words);
    CAPTURE(bad.err);
    CHECK(bad.code == code);
    CHECK(bad.err.find(said) != std::string::npos);
    CHECK(std::count(bad.err.begin(), bad.err.end(), '\n') == 1);
  };
  const std::string extract = "extract out/planted" + records + " --out out/other --contrast ";
  refused(extract + "on", "--contrast: expected two conditions A:B, found \"on\"", 2);
  refused(extract + "on:of", "expected records with the condition \"of\", found none among 96", 1);
  refused(extract + "on:off --at span:x", "expected tokens at span:x (--at), found none", 1);
  refused(extract + "on:off --method mean", "--method", 2);
  refused("extract out/planted" + records + " --out out/planted --contrast on:off", "expected", 1);
  const std::string validate = "validate out/direction" + records + " --metric logit_diff ";
  refused(validate + "--doses 0", "--doses: expected numbers other than 0, each once", 2);
  refused(validate + "--doses 1,1", "--doses: expected numbers other than 0, each once", 2);
  refused(validate + "--layers 4", "--layers: expected layers below 4, found 4", 2);
  refused("validate out/planted" + records + " --metric nll", "expected a directory of signalbox direction extract", 1);
  // Another model in the place of the one that the directions are of.
  REQUIRE(
      paste("echo '{\"family\":\"mixtral\"}' > out/b.json\nsignalbox make-model out/b.json --out out/planted --quiet",
            scratch.path())
          .code == 0);
  write_file(
      scratch / "out/records.jsonl",
      "{\"id\":\"a\",\"condition\":\"on\",\"tokens\":[1,2]}\n{\"id\":\"b\",\"condition\":\"off\",\"tokens\":[1,3]}\n");
  refused("validate out/direction --input out/records.jsonl --metric nll", "model_hash: expected that of", 1);
}
