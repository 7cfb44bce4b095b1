// signalbox rescore: the directory that a run with these metrics would have made.
#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "base/json.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

// A pair, questions from memory and requests to be declined, with a target on some, two samples and a traced edit.
struct Runs {
  TemporaryDirectory dir;

  Runs() {
    std::string data;
    for (const char* file : {"pairs.jsonl", "memory.jsonl", "refuse.jsonl"}) {
      std::istringstream in(read_file(source_dir() / "tools/builtin/heldout" / file));
      std::string line;
      for (int n = 0; n < 2; ++n) {
        std::getline(in, line);
        data += line + "\n";
      }
    }
    write_file(dir / "data.jsonl", data);
    // Judges by what the prompt and the text hold; the words of a batch stand behind "text".
    write_file(dir / "one.sh", "case \"$SIGNALBOX_PROMPT$(cat)\" in *e*) echo 1;; *) echo 0.25;; esac\n");
    write_file(dir / "batch.sh", R"~(while read -r line; do
  id=${line#*\"id\":\"}; id=${id%%\"*}; text=${line##*\"text\":\"}; score=0
  case "$text" in *o*) score=1; esac
  echo "{\"id\":\"$id\",\"score\":$score}"
done
)~");
  }
  const std::string one = R"("one": {"command": ["sh", "one.sh"]})";
  const std::string batch = R"("batch": {"command": ["sh", "batch.sh"], "batch": 4, "timeout": 20})";

  fs::path run(const std::string& name, const std::string& metrics, const std::string& judges,
               const std::string& more = "") const {
    write_file(dir / (name + ".json"),
               R"({"model": "builtin", "data": "data.jsonl", "generate": {"max_tokens": 6, "samples": 2,
        "temperature": 0.7}, "interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate",
        "mode": "ban", "experts": {"2": [0, 1], "4": [3]}}]}], "controls": {"random": 1}, "resamples": 50,
        "judges": {)" +
                   judges + R"(}, "metrics": )" + metrics + more + "}");
    const fs::path out = dir / name;
    const Ran ran =
        run_command(test::binary() + " run " + (dir / (name + ".json")).string() + " --quiet --out " + out.string());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    return out;
  }
  Ran rescore(const fs::path& from, const std::string& metrics, const std::string& out,
              const std::string& more = "") const {
    return run_command(test::binary() + " rescore " + from.string() + " --quiet --metrics " + metrics + " --out " +
                       (dir / out).string() + " " + more);
  }
  std::string judges_file(const std::string& judges) const {
    write_file(dir / "judges.json", "{" + judges + "}");
    return "--judges " + (dir / "judges.json").string();
  }
};

void check_same(const fs::path& a, const fs::path& b) {
  for (const char* file :
       {"samples.jsonl", "metrics.json", "table.csv", "table.md", "table.tex", "plan.json", "records.jsonl"}) {
    CAPTURE(file);
    CHECK(read_file(a / file) == read_file(b / file));
  }
}

}  // namespace

TEST_CASE("rescore: the bytes of a run that had asked from the beginning" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  const Runs runs;
  const fs::path first =
      runs.run("first", R"(["em", "kl", "ppl", "judge:one", "route_jaccard"])", runs.one, R"(, "traces": true)");
  const fs::path wanted =
      runs.run("wanted", R"(["refused", "ppl", "nll", "flip", "em", "judge:batch", "judge:one", "route_jaccard"])",
               runs.one + ", " + runs.batch, R"(, "traces": true)");
  const Ran ran = runs.rescore(first, "refused,ppl,nll,flip,em,judge:batch,judge:one,route_jaccard", "again",
                               runs.judges_file(runs.batch));
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const fs::path again = runs.dir / "again";
  check_same(again, wanted);
  CHECK(fs::exists(again / "report.html"));
  CHECK(read_file(again / "traces/off/trace.safetensors") == read_file(first / "traces/off/trace.safetensors"));
  // The manifest tells where it comes from, and that it is no run's own.
  const json::Value manifest = json::parse_file(again / "manifest.json");
  CHECK(manifest.find("status")->string() == "complete");
  CHECK(manifest.find("rescored")->find("samples")->string().size() == 64);
  CHECK(manifest.find("rescored_from")->string() == first.string());
  CHECK(manifest.find("spec")->find("metrics")->items().size() == 8);
  CHECK(manifest.find("hashes")->find("files")->find("batch.sh") != nullptr);
  const Ran mixed =
      run_command(test::binary() + " run " + (runs.dir / "wanted.json").string() + " --quiet --out " + again.string());
  CHECK(mixed.code == 1);
  CHECK(mixed.err.find("rescored: was ") != std::string::npos);
  // Once more is nothing to do; of a rescored run as of any other; other metrics are other work.
  CHECK(runs.rescore(first, "refused,ppl,nll,flip,em,judge:batch,judge:one,route_jaccard", "again",
                     runs.judges_file(runs.batch))
            .code == 0);
  REQUIRE(runs.rescore(again, "em", "third").code == 0);
  CHECK(read_file(runs.dir / "third/samples.jsonl").find("logprob") == std::string::npos);
  CHECK(read_file(runs.dir / "third/samples.jsonl").find("judged") == std::string::npos);
  CHECK(runs.rescore(first, "em,f1", "again").err.find("spec.metrics: was ") != std::string::npos);
}

TEST_CASE("rescore: a judge that fails stops it, and the same command goes on") {
  const Runs runs;
  const fs::path first = runs.run("first", R"(["em"])", "");
  write_file(runs.dir / "fails.sh", "echo >> $0.calls; test $(wc -l < $0.calls) -ne 3 && echo 1\n");
  const std::string judges = runs.judges_file(R"("j": {"command": ["sh", "fails.sh"]})");
  const Ran failed = runs.rescore(first, "em,judge:j", "again", judges);
  CHECK(failed.code == 1);
  CHECK_MESSAGE(failed.err.find("judge j: ") != std::string::npos, failed.err);
  const Ran ran = runs.rescore(first, "em,judge:j", "again", judges);
  CHECK_MESSAGE(ran.code == 0, ran.err);
  const std::string lines = read_file(runs.dir / "again/samples.jsonl"), old = read_file(first / "samples.jsonl");
  CHECK(std::count(lines.begin(), lines.end(), '\n') == std::count(old.begin(), old.end(), '\n'));
}

TEST_CASE("rescore: what the run does not hold is refused by name") {
  const Runs runs;
  const fs::path first = runs.run("first", R"(["em", "nll"])", "");
  const auto error = [&](const std::string& metrics, const std::string& more = "") {
    const Ran ran = runs.rescore(first, metrics, "again", more);
    CHECK(ran.code != 0);
    CHECK_FALSE(fs::exists(runs.dir / "again"));
    return ran.err;
  };
  CHECK(error("em,kl").find("--metrics: expected a metric that needs no model, or whose numbers " + first.string() +
                            " holds, found \"kl\"") != std::string::npos);
  CHECK(error("choice_logprob").find("\"choice_logprob\"") != std::string::npos);
  CHECK(error("route_flip").find("expected \"traces\" of every intervention") != std::string::npos);
  CHECK(error("judge:x").find("expected a judge of \"judges\" (there are none), found \"judge:x\"") !=
        std::string::npos);
  CHECK(error("em,en").find("nearest: em") != std::string::npos);
  CHECK(error("em,em").find("expected each metric once") != std::string::npos);
  CHECK(error("context_answer").find("expected a record that has what") != std::string::npos);
  CHECK(error("em", runs.judges_file(runs.one)).find("expected the metric \"judge:one\", found none") !=
        std::string::npos);
  CHECK(runs.rescore(runs.dir.path(), "em", "again").err.find("expected") != std::string::npos);
  // ppl is made of what nll has left.
  CHECK(runs.rescore(first, "ppl,em", "again").code == 0);
}
