// run --dry-run: what it counts is what the run then does, and nothing is written.
#include "tools/signalbox/dry_run.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <sstream>

#include "base/json.h"
#include "tests/support.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::test;

namespace {

std::string records_from(const std::string& file, const std::vector<std::pair<std::string, size_t>>& splits) {
  std::string text;
  for (const auto& [split, wanted] : splits) {
    size_t n = wanted;
    for (const std::string& line : lines_of(read_file(test::source_dir() / "tools/builtin/heldout" / file)))
      if (n > 0 && line.find("\"split\":\"" + split + "\"") != std::string::npos) {
        text += line + "\n";
        --n;
      }
  }
  return text;
}

struct Dry {
  TemporaryDirectory temporary;
  Dry(const std::string& data, const std::string& spec) {
    write_file(temporary / "data.jsonl", data);
    write_file(temporary / "spec.json", R"({"model": "builtin", "data": "data.jsonl", )" + spec + "}");
  }
  Ran run(const std::string& more) const {
    return run_command(test::binary() + " run " + (temporary / "spec.json").string() + " " + more);
  }
  json::Value estimate(const std::string& more = "") const {
    const Ran ran = run("--dry-run --json --quiet " + more);
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    return json::parse(ran.out, "estimate");
  }
};

int64_t whole(const json::Value& root, std::initializer_list<const char*> path) {
  const json::Value* at = &root;
  for (const char* key : path) {
    at = at->find(key);
    REQUIRE_MESSAGE(at, key);
  }
  return at->integer();
}

const json::Value& stage_of(const json::Value& estimate, const std::string& start) {
  for (const json::Value& stage : estimate.find("stages")->items())
    if (stage.find("stage")->string().starts_with(start)) return stage;
  FAIL("no stage " << start);
  return estimate;
}

}  // namespace

TEST_CASE("dry run: prompts are counted as often as they are run") {
  Dry dry(R"({"id":"a","tokens":[10,11,12,13,14,15,16]})"
          "\n"
          R"({"id":"b","tokens":[10,11,12,13,14]})"
          "\n",
          R"("generate": {"max_tokens": 5, "samples": 1}, "metrics": ["repetition"],
             "interventions": [{"name": "baseline"}], "resamples": 50)");
  const json::Value one = dry.estimate();
  CHECK(whole(one, {"samples"}) == 2);
  CHECK(whole(one, {"prefill_tokens"}) == 12);
  CHECK(whole(one, {"generated_tokens_at_most"}) == 2 * 4);  // the row of the last token is not run
  // Three samples share all but the last token of a prompt.
  write_file(dry.temporary / "spec.json", R"({"model": "builtin", "data": "data.jsonl",
    "generate": {"max_tokens": 5, "samples": 3, "temperature": 1}, "metrics": ["repetition"],
    "interventions": [{"name": "baseline"}, {"name": "late", "edits": [
      {"op": "misroute", "policy": "worst", "tokens": {"phase": "generated"}}]}], "resamples": 50})");
  const json::Value six = dry.estimate();
  CHECK(whole(six, {"samples"}) == 12);
  CHECK(whole(six, {"prefill_tokens"}) == (6 + 6) + (4 + 6));
  CHECK(whole(six, {"generated_tokens_at_most"}) == 12 * 4);
  CHECK(six.find("seconds")->real() > 0);
  CHECK(six.find("seconds_at_most")->real() >= six.find("seconds")->real());
}

TEST_CASE("dry run: what is counted is what the run does, with experts that are not known yet" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  Dry dry(records_from("pairs.jsonl", {{"detect", 12}, {"test", 8}}),
          R"("generate": {"max_tokens": 6}, "metrics": ["em", "kl"], "resamples": 200,
             "detect": {"memory": {"contrast": "without_document:with_document"}},
             "interventions": [{"name": "baseline"}, {"name": "off", "edits": [
               {"op": "deactivate", "mode": "ban", "experts": {"from": "detect:memory", "top": 6}}]},
               {"name": "mis", "grid": {"fraction": [0.5, 1]}, "edits": [{"op": "misroute", "policy": "random",
                "tokens": {"fraction": "$fraction"}}]}],
             "controls": {"random": 3, "bottom": true}, "audit": {"from": "detect:memory", "top": 5},
             "split": {"detect": "detect", "test": "test"}, "seeds": [0, 1], "traces": {"of": ["off"]})");
  std::set<fs::path> before;
  for (const auto& entry : fs::recursive_directory_iterator(dry.temporary.path())) before.insert(entry.path());
  const fs::path out = dry.temporary / "out";
  const json::Value estimate = dry.estimate("--out " + out.string());
  for (const auto& entry : fs::recursive_directory_iterator(dry.temporary.path()))
    CHECK_MESSAGE(before.contains(entry.path()), entry.path().string());
  REQUIRE(dry.run("--quiet --out " + out.string()).code == 0);

  const std::string samples = read_file(out / "samples.jsonl");
  CHECK(
      whole(estimate, {"n_interventions"}) ==
      static_cast<int64_t>(json::parse(read_file(out / "metrics.json"), "m").find("interventions")->members().size()));
  CHECK(whole(stage_of(estimate, "baseline and main"), {"samples"}) +
            whole(stage_of(estimate, "controls and audit"), {"samples"}) ==
        static_cast<int64_t>(lines_of(samples).size()));
  CHECK(whole(stage_of(estimate, "tracing the baseline"), {"samples"}) == 12);
  CHECK(whole(stage_of(estimate, "detecting memory"), {"resamples"}) == 400);
  const json::Value& entries = *estimate.find("interventions");
  REQUIRE(entries.items().size() == 4);
  CHECK(json::dump(entries.items()[1]) ==
        R"({"entry":"off","own":1,"random":3,"frequency_matched":0,"bottom":1,"detected":true})");
  CHECK(json::dump(entries.items()[3]) ==
        R"({"entry":"audit","own":5,"random":0,"frequency_matched":0,"bottom":0,"detected":true})");
  CHECK(json::dump(*estimate.find("records")) == R"([{"split":"detect","condition":"with_document","records":6},)"
                                                 R"({"split":"detect","condition":"without_document","records":6},)"
                                                 R"({"split":"test","condition":"with_document","records":4},)"
                                                 R"({"split":"test","condition":"without_document","records":4}])");
  const auto bytes_below = [](const fs::path& dir) {
    double sum = 0;
    for (const auto& entry : fs::recursive_directory_iterator(dir))
      if (entry.is_regular_file()) sum += static_cast<double>(entry.file_size());
    return sum;
  };
  const double traces = bytes_below(out / "traces") + bytes_below(out / "detect" / "trace");
  const json::Value& disk = *estimate.find("disk");
  CHECK(disk.find("samples")->real() == doctest::Approx(static_cast<double>(samples.size())).epsilon(0.25));
  CHECK(disk.find("samples_at_most")->real() > 0.95 * static_cast<double>(samples.size()));
  CHECK(disk.find("traces")->real() == doctest::Approx(traces).epsilon(0.4));

  // The same command would find all of it, and another is refused as the run refuses it.
  CHECK(whole(dry.estimate("--out " + out.string()), {"samples_kept"}) ==
        static_cast<int64_t>(lines_of(samples).size()));
  const Ran other = dry.run("--dry-run --quiet --limit 2 --out " + out.string());
  CHECK(other.code == 1);
  CHECK_MESSAGE(other.err.find("limit: was nothing, now 2") != std::string::npos, other.err);
  const json::Value limited = dry.estimate("--limit 2");
  CHECK(limited.find("records")->items()[0].find("records")->integer() == 2);
  CHECK(limited.find("records")->items()[3].find("records")->integer() == 2);
}

TEST_CASE("dry run: refuses what the run refuses") {
  Dry dry(records_from("pairs.jsonl", {{"test", 4}}),
          R"("interventions": [{"name": "baseline"}, {"name": "off", "edits": [
             {"op": "deactivate", "mode": "ban", "experts": {"1": [24]}}]}], "metrics": ["ppl"])");
  const Ran dried = dry.run("--dry-run --quiet"), ran = dry.run("--quiet --out " + (dry.temporary / "out").string());
  CHECK(dried.code == 1);
  CHECK(dried.err == ran.err);
  CHECK(dry.run("--quiet").code == 2);  // neither --out nor --dry-run
}

TEST_CASE("dry run: tables line up") {
  using namespace signalbox::tools;
  CHECK(aligned_rows({{"a", "bb", "c"}, {"\xC3\xA9t\xC3\xA9", "1", "2,000"}}, {0}) ==
        "a    bb      c\n"
        "\xC3\xA9t\xC3\xA9   1  2,000\n");
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1000) == "1,000");
  CHECK(grouped(1234567) == "1,234,567");
  CHECK(bytes_in_words(0) == "0 B");
  CHECK(bytes_in_words(1234) == "1.2 kB");
  CHECK(bytes_in_words(123'456'789) == "123 MB");
  CHECK(time_in_words(65, 66) == "about 1m05s");
  CHECK(time_in_words(65, 130) == "about 1m05s, at most 2m10s");
}
