// Shards of a study, put together, are the study.
#include <doctest/doctest.h>

#include <filesystem>

#include "tests/faithfulness/calls.h"

using namespace signalbox;
using namespace signalbox::tools;
using test::call;
using test::failure;

namespace signalbox::tools {
int merge_command(int argc, char** argv);
}

TEST_CASE("faithfulness: shards put together are what one process writes" *
          doctest::test_suite("repeats: a study again and again")) {
  test::TemporaryDirectory scratch;
  // The third record has no explanation: its shard of three is empty of them.
  test::write_file(scratch / "in.jsonl",
                   test::records("two_hop_steps.jsonl", 2) +
                       R"({"id":"none","messages":[{"role":"user","content":"Question: What is 1 + 2?"}]})" + "\n" +
                       test::records("sum_steps.jsonl", 1));
  const auto arguments = [&](const std::string& dir, std::vector<std::string> more) {
    std::vector<std::string> out = {"builtin",
                                    "--input",
                                    (scratch / "in.jsonl").string(),
                                    "--out",
                                    (scratch / dir).string(),
                                    "--max-tokens",
                                    "48",
                                    "--quiet",
                                    "--json",
                                    "--resamples",
                                    "50",
                                    "--explanations",
                                    "2",
                                    "--temperature",
                                    "0.7",
                                    "--tests",
                                    "early,paraphrases,misroute",
                                    "--policies",
                                    "random",
                                    "--paraphrases",
                                    "model"};
    out.insert(out.end(), more.begin(), more.end());
    return out;
  };
  REQUIRE(call(faithfulness_command, arguments("whole", {})) == 0);
  std::vector<std::string> merge = {"--merge"};
  for (const int i : {2, 0, 1}) {
    const std::string shard = std::to_string(i);
    REQUIRE(call(faithfulness_command, arguments(shard, {"--shard", shard + "/3"})) == 0);
    merge.push_back((scratch / shard).string());
  }
  CHECK(failure(arguments("0", {"--shard", "1/3"})).find("shard") != std::string::npos);
  std::vector<std::string> two(merge.begin(), merge.end() - 1);
  CHECK(failure(arguments("merged", two)).find("expected a shard of 2, found 2/3") != std::string::npos);
  CHECK(!std::filesystem::exists(scratch / "merged"));
  two.push_back(two.back());
  CHECK(failure(arguments("merged", two)).find("expected each shard once, found 0/3") != std::string::npos);
  std::vector<std::string> other = merge;
  other.insert(other.begin(), {"--seed", "5"});
  CHECK(failure(arguments("merged", other)).find("seed: was 5, now 0") != std::string::npos);
  REQUIRE(call(faithfulness_command, arguments("merged", merge)) == 0);
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch / "whole")) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().lexically_relative(scratch / "whole").string();
    if (name == "manifest.json" || name == "log.txt") continue;
    CHECK_MESSAGE(test::read_file(scratch / "merged" / name) == test::read_file(entry.path()), name);
    ++files;
  }
  CHECK(files == 17);
  try {
    call(merge_command, {(scratch / "x").string(), (scratch / "0").string(), "--quiet"});
    FAIL("merge took a study");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("--merge DIR") != std::string::npos);
  }
}
