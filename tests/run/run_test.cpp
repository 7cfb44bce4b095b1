// Whole experiments through the command line: what a run directory holds, and that nothing depends on how it came
// about.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "base/json.h"
#include "tests/kills.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::test;

namespace {

const fs::path heldout = test::source_dir() / "tools/builtin/heldout";

// The first `n` records of a set that have the split.
std::string some_records(const std::string& file, size_t n, const std::string& split = "test") {
  std::string text;
  for (const std::string& line : lines_of(read_file(heldout / file)))
    if (line.find("\"split\":\"" + split + "\"") != std::string::npos && n > 0) {
      text += line + "\n";
      --n;
    }
  return text;
}

Ran run_experiment(const fs::path& spec, const fs::path& out, const std::string& more = "") {
  return run_command(test::binary() + " run " + spec.string() + " --out " + out.string() + " --quiet " + more);
}

json::Value json_of(const fs::path& file) { return json::parse(read_file(file), file.string()); }

double number(const json::Value& root, std::initializer_list<const char*> path) {
  const json::Value* at = &root;
  for (const char* key : path) {
    at = at->find(key);
    REQUIRE_MESSAGE(at, key);
  }
  REQUIRE(at->is_number());
  return at->real();
}

// Two pairs and some questions from memory, every kind of intervention.
const std::string small_spec = R"({
  "model": "builtin", "data": "data.jsonl",
  "generate": {"max_tokens": 10},
  "interventions": [
    {"name": "baseline"},
    {"name": "nothing", "edits": []},
    {"name": "shifted by none", "edits": [{"op": "misroute", "policy": "shift", "by": 0}]},
    {"name": "off", "edits": [{"op": "deactivate", "mode": "ban", "experts": {"1": [0, 7], "4": [3, 5, 11]}}]},
    {"name": "late", "edits": [{"op": "misroute", "policy": "random", "tokens": {"phase": "generated"}}]},
    {"name": "mis", "grid": {"policy": ["next_best", "worst"], "fraction": [0.5, 1]},
     "edits": [{"op": "misroute", "policy": "$policy", "tokens": {"fraction": "$fraction"}}]}],
  "controls": {"random": 2, "bottom": true},
  "metrics": ["em", "f1", "refused", "ppl", "kl", "top1", "repetition", "answer_agreement"],
  "seeds": [0, 1], "resamples": 500
})";

struct SmallRun {
  TemporaryDirectory temporary;
  fs::path spec = temporary / "spec.json";
  explicit SmallRun(const std::string& text = small_spec, size_t n = 5) {
    write_file(temporary / "data.jsonl", some_records("pairs.jsonl", n) + some_records("memory.jsonl", n));
    write_file(spec, text);
  }
};

}  // namespace

TEST_CASE("a run directory holds what the contract says") {
  SmallRun small;
  const fs::path out = small.temporary / "out";
  const Ran ran = run_experiment(small.spec, out);
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  for (const char* file : {"manifest.json", "samples.jsonl", "metrics.json", "report.html", "log.txt", "table.md",
                           "table.csv", "table.tex", "plan.json", "records.jsonl"})
    CHECK_MESSAGE(fs::exists(out / file), file);
  CHECK_FALSE(fs::exists(out / "journal.jsonl"));
  CHECK_FALSE(fs::exists(out / "lock"));

  const std::vector<std::string> names = {"baseline",
                                          "nothing",
                                          "shifted by none",
                                          "off",
                                          "off/random-0",
                                          "off/random-1",
                                          "off/bottom",
                                          "late",
                                          "mis/policy=next_best,fraction=0.5",
                                          "mis/policy=next_best,fraction=1",
                                          "mis/policy=worst,fraction=0.5",
                                          "mis/policy=worst,fraction=1"};
  const json::Value metrics = json_of(out / "metrics.json");
  REQUIRE(metrics.find("interventions")->members().size() == names.size());
  for (size_t i = 0; i < names.size(); ++i) CHECK(metrics.find("interventions")->members()[i].first == names[i]);

  // Order: seed, intervention, record. Under the second seed stands what draws by it: text is greedy.
  std::vector<std::pair<int64_t, std::string>> expected;
  for (const std::string& name : names) expected.emplace_back(0, name);
  for (const char* name : {"late", "mis/policy=next_best,fraction=0.5", "mis/policy=worst,fraction=0.5"})
    expected.emplace_back(1, name);
  const auto lines = lines_of(read_file(out / "samples.jsonl"));
  REQUIRE(lines.size() == expected.size() * 10);
  for (size_t i = 0; i < lines.size(); ++i) {
    const json::Value line = json::parse(lines[i], "samples.jsonl:" + std::to_string(i + 1));
    CHECK(line.find("seed")->integer() == expected[i / 10].first);
    CHECK(line.find("intervention")->string() == expected[i / 10].second);
  }

  // What does nothing is the baseline, in every score.
  for (const char* name : {"nothing", "shifted by none"}) {
    const json::Value* contrast = metrics.find("contrasts")->find(name);
    REQUIRE(contrast);
    for (const auto& [metric, values] : contrast->members()) {
      CHECK(values.find("diff")->real() == 0);
      CHECK(values.find("p")->real() == 1);
      const json::Value* mine = metrics.find("interventions")->find(name)->find(metric);
      CHECK(*mine == *metrics.find("interventions")->find("baseline")->find(metric));
    }
  }
  CHECK(number(metrics, {"interventions", "baseline", "kl", "mean"}) == 0);
  CHECK(number(metrics, {"interventions", "baseline", "top1", "mean"}) == 1);
  CHECK(number(metrics, {"interventions", "off", "kl", "mean"}) > 0);
  // Generated tokens only: nothing that is teacher-forced changes.
  CHECK(number(metrics, {"interventions", "late", "kl", "mean"}) == 0);
  CHECK(number(metrics, {"interventions", "late", "ppl", "mean"}) ==
        number(metrics, {"interventions", "baseline", "ppl", "mean"}));
  CHECK(number(metrics, {"interventions", "baseline", "em", "mean"}) > 0.8);

  // Again: it is complete, and stays as it is.
  const std::string before = read_file(out / "manifest.json");
  CHECK(run_experiment(small.spec, out).code == 0);
  CHECK(read_file(out / "manifest.json") == before);
}

TEST_CASE("texts and log-probabilities are those of generate and score") {
  SmallRun small;
  const fs::path out = small.temporary / "out";
  REQUIRE(run_experiment(small.spec, out).code == 0);
  const json::Value plan = json_of(out / "plan.json");
  for (const auto& [name, seed] : {std::pair<std::string, int64_t>("off", 0),
                                   {"late", 1},
                                   {"off/random-1", 0},
                                   {"mis/policy=worst,fraction=0.5", 1}}) {
    const json::Value* edits = nullptr;
    for (const json::Value& one : plan.find("interventions")->items())
      if (one.find("name")->string() == name) edits = one.find("edits");
    REQUIRE(edits);
    const fs::path file = small.temporary / "edits.json";
    write_file(file, json::dump(json::Value::object().set("edits", *edits)));
    const std::string common = " builtin --input " + (small.temporary / "data.jsonl").string() + " --seed " +
                               std::to_string(seed) + " --json --quiet",
                      with_edits = " --edits " + file.string();
    // score refuses edits of generated tokens, which leave its numbers as they are.
    const auto texts =
        lines_of(run_command(test::binary() + " generate" + common + with_edits + " --max-tokens 10 --batch 3").out);
    const auto scores = lines_of(
        run_command(test::binary() + " score" + common + (name == "late" ? "" : with_edits) + " --batch 1 --chunk 5")
            .out);
    REQUIRE(texts.size() == 10);
    REQUIRE(scores.size() == 10);
    size_t found = 0;
    for (const std::string& text : lines_of(read_file(out / "samples.jsonl"))) {
      const json::Value line = json::parse(text, "samples.jsonl");
      if (line.find("seed")->integer() != seed || line.find("intervention")->string() != name) continue;
      const json::Value generated = json::parse(texts[found], "generate"), scored = json::parse(scores[found], "score");
      CHECK(*line.find("id") == *generated.find("id"));
      CHECK(*line.find("tokens") == *generated.find("tokens"));
      CHECK(*line.find("text") == *generated.find("text"));
      double sum = 0;
      for (const json::Value& p : scored.find("logprobs")->items()) sum += p.real();
      CHECK(line.find("sum_logprob")->real() == doctest::Approx(sum).epsilon(1e-12));
      CHECK(line.find("n_logprobs")->integer() == static_cast<int64_t>(scored.find("logprobs")->items().size()));
      const double ppl = line.find("scores")->find("ppl")->real();
      CHECK(ppl == doctest::Approx(std::exp(-sum / static_cast<double>(scored.find("logprobs")->items().size()))));
      ++found;
    }
    CHECK(found == 10);
  }
}

TEST_CASE("interventions together give what each gives by itself" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  SmallRun small;
  const fs::path out = small.temporary / "out";
  REQUIRE(run_experiment(small.spec, out, "--batch 5 --chunk 7").code == 0);
  std::vector<std::string> late;
  for (const std::string& line : lines_of(read_file(out / "samples.jsonl")))
    if (line.find("\"intervention\":\"late\"") != std::string::npos) late.push_back(line);
  SmallRun alone(R"({"model": "builtin", "data": "data.jsonl", "generate": {"max_tokens": 10}, "seeds": [0, 1],
    "interventions": [{"name": "baseline"}, {"name": "late", "edits": [
      {"op": "misroute", "policy": "random", "tokens": {"phase": "generated"}}]}], "resamples": 500,
    "metrics": ["em", "f1", "refused", "ppl", "kl", "top1", "repetition", "answer_agreement"]})");
  const fs::path other = alone.temporary / "out";
  REQUIRE(run_experiment(alone.spec, other).code == 0);
  std::vector<std::string> by_itself;
  for (const std::string& line : lines_of(read_file(other / "samples.jsonl")))
    if (line.find("\"intervention\":\"late\"") != std::string::npos) by_itself.push_back(line);
  CHECK(late == by_itself);
}

TEST_CASE("killed at any moment, a run goes on to the same bytes" *
          doctest::test_suite("repeats: one small run, killed again and again")) {
  SmallRun small;
  const fs::path whole = small.temporary / "whole", out = small.temporary / "out";
  const std::vector<std::string> command = {"run", small.spec.string(), "--quiet", "--out"};
  const auto into = [&](const fs::path& dir) {
    std::vector<std::string> arguments = command;
    arguments.push_back(dir.string());
    return arguments;
  };
  const double seconds = seconds_of(into(whole));
  int kills = 0;
  for (uint64_t round = 0; round < 3; ++round) {
    fs::remove_all(out);
    kills += run_with_kills(into(out), seconds, 5 + round);
    const Ran ran = run_experiment(small.spec, out);
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    for (const char* file : {"samples.jsonl", "metrics.json", "table.md", "table.csv", "plan.json", "records.jsonl"})
      CHECK_MESSAGE(read_file(out / file) == read_file(whole / file), file);
  }
  CHECK(kills > 3);
}

TEST_CASE("shards merge to the run of one process" *
          doctest::test_suite("repeats: whole runs, of which tests/run has smaller ones")) {
  std::string text = small_spec;
  text.replace(text.find("\"resamples\""), 0, "\"traces\": true, ");
  SmallRun small(text);
  const fs::path whole = small.temporary / "whole", merged = small.temporary / "merged";
  REQUIRE(run_experiment(small.spec, whole).code == 0);
  std::string shards;
  for (int i = 0; i < 3; ++i) {
    const fs::path shard = small.temporary / ("shard-" + std::to_string(i));
    const Ran ran = run_experiment(small.spec, shard, "--shard " + std::to_string(i) + "/3");
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    shards = " " + shard.string() + shards;  // in any order
  }
  const Ran ran = run_command(test::binary() + " merge " + merged.string() + shards + " --quiet");
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  for (const auto& entry : fs::recursive_directory_iterator(whole)) {
    if (!entry.is_regular_file()) continue;
    const fs::path file = entry.path().lexically_relative(whole);
    if (file == "manifest.json" || file == "log.txt" || file == "report.html") continue;
    REQUIRE_MESSAGE(fs::exists(merged / file), file.string());
    CHECK_MESSAGE(read_file(merged / file) == read_file(entry.path()), file.string());
  }
  CHECK(fs::exists(whole / "traces/off/random-0/seed-0/trace.safetensors"));
  CHECK(fs::exists(merged / "report.html"));
}

TEST_CASE("analyze: a run's findings again, and its baseline's trace") {
  SmallRun small(R"({"model": "builtin", "data": "data.jsonl", "generate": {"max_tokens": 6}, "resamples": 300,
    "interventions": [{"name": "plain"}, {"name": "off", "edits": [
      {"op": "deactivate", "mode": "ban", "experts": {"2": [1, 4]}}]}], "baseline": "plain", "controls": false,
    "metrics": ["em"], "traces": {"of": ["plain", "off"]}})");
  const fs::path out = small.temporary / "out";
  REQUIRE(run_experiment(small.spec, out).code == 0);
  // The report has both traces token by token.
  const std::string page = read_file(out / "report.html");
  const json::Value traced = json::parse(test::data_block(page, "run-traces"), "run-traces");
  REQUIRE(traced.items().size() == 2);
  CHECK(traced.items()[1].find("name")->string() == "off");
  const json::Value packed = json::parse(test::data_block(page, traced.items()[1].find("block")->string()), "packed");
  CHECK(packed.find("samples")->items().size() == packed.find("n_samples")->integer());
  const Ran same = run_command(test::binary() + " analyze " + out.string() +
                               " --contrast with_document:without_document --resamples 300 --quiet");
  REQUIRE_MESSAGE(same.code == 0, same.err);
  for (const char* file : {"metrics.json", "table.md", "table.csv", "table.tex"})
    CHECK_MESSAGE(read_file(out / "analysis" / file) == read_file(out / file), file);
  for (const char* file : {"rd.csv", "usage.csv", "summary.json"})
    CHECK_MESSAGE(fs::exists(out / "analysis" / file), file);
  REQUIRE(run_command(test::binary() + " analyze " + out.string() + " --seed 5 --resamples 200 --quiet").code == 0);
  CHECK(number(json_of(out / "analysis/metrics.json"), {"resamples"}) == 200);
  // Findings of two runs are not one table.
  const Ran two = run_command(test::binary() + " analyze " + out.string() + " " + out.string() + " --quiet");
  CHECK(two.code == 2);
}

TEST_CASE("judges: one text or a batch at a time give the same bytes, and an interrupted run goes on") {
  const auto spec = [](const std::string& judge) {
    return R"({"model": "builtin", "data": "data.jsonl", "generate": {"max_tokens": 4},
      "interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban",
        "experts": {"1": [0, 7], "4": [3, 5, 11]}}], "controls": false}],
      "judges": {"has o": )" +
           judge + R"(}, "metrics": ["em", "judge:has o"], "resamples": 100})";
  };
  SmallRun small(spec(R"({"command": ["sh", "-c", "grep -q o && echo 1 || echo 0"]})"), 2);
  const fs::path single = small.temporary / "single", batch = small.temporary / "batch";
  REQUIRE(run_experiment(small.spec, single).code == 0);
  // Counts its calls beside itself. The text is the last key of each line.
  write_file(small.temporary / "judge.sh", R"~(echo >> "$0.calls"
test "$(wc -l < "$0.calls")" -ne 2 || exit 5
while read -r line; do
  id=${line#*\"id\":\"}; id=${id%%\"*}; text=${line##*\"text\":\"}; score=0
  case "$text" in *o*) score=1; esac
  echo "{\"id\":\"$id\",\"score\":$score}"
done
)~");
  write_file(small.spec, spec(R"({"command": ["sh", "judge.sh"], "batch": 3})"));
  // Its second call fails: what the first has judged is kept.
  const Ran failed = run_experiment(small.spec, batch);
  CHECK(failed.code == 1);
  CHECK_MESSAGE(failed.err.find("judge has o: batch of ") != std::string::npos, failed.err);
  CHECK_MESSAGE(failed.err.find("expected exit code 0, found 5") != std::string::npos, failed.err);
  const size_t kept = lines_of(read_file(batch / "samples.jsonl")).size();
  CHECK(kept + lines_of(read_file(batch / "journal.jsonl")).size() >= 3);
  const Ran ran = run_experiment(small.spec, batch);
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  CHECK(read_file(batch / "samples.jsonl") == read_file(single / "samples.jsonl"));
  CHECK(read_file(batch / "metrics.json") == read_file(single / "metrics.json"));
  const std::string samples = read_file(single / "samples.jsonl");
  CHECK(samples.find("\"judged\":{\"has o\":1") != std::string::npos);
  CHECK(samples.find("\"judged\":{\"has o\":0") != std::string::npos);
}

TEST_CASE("a changed experiment is not mixed with an old one" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  SmallRun small;
  const fs::path out = small.temporary / "out";
  REQUIRE(run_experiment(small.spec, out).code == 0);
  std::string text = read_file(small.spec);
  text.replace(text.find("\"max_tokens\": 10"), 16, "\"max_tokens\": 11");
  write_file(small.spec, text);
  const Ran changed = run_experiment(small.spec, out);
  CHECK(changed.code == 1);
  CHECK(changed.err.find("spec.generate.max_tokens: was 10, now 11") != std::string::npos);
  CHECK(lines_of(changed.err).size() == 1);
  text.replace(text.find("\"max_tokens\": 11"), 16, "\"max_tokens\": 10");
  write_file(small.spec, text);
  write_file(small.temporary / "data.jsonl", some_records("memory.jsonl", 5));
  const Ran other_data = run_experiment(small.spec, out);
  CHECK(other_data.code == 1);
  CHECK(other_data.err.find("hashes.data") != std::string::npos);
}

TEST_CASE("bad specs are refused before the model is opened") {
  TemporaryDirectory temporary;
  write_file(temporary / "data.jsonl", some_records("pairs.jsonl", 4) + some_records("pairs.jsonl", 4, "detect"));
  struct Case {
    const char* text;
    const char* message;
  };
  const std::vector<Case> cases = {
      {R"("metrics": ["exactness"], "interventions": [{"name": "baseline"}])", "metrics"},
      {R"("metrics": ["em"], "interventions": [{"name": "baseline"}])", "em"},
      {R"("interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban"}]}])",
       "experts"},
      {R"("interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban",
          "experts": {"3": [1]}, "tokens": {"span": "preamble"}}]}])",
       "preamble"},
      {R"("detect": {"m": {"contrast": "with_document:without_document"}},
          "interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate", "mode": "ban",
          "experts": {"from": "detect:m", "top": 3}}]}])",
       "split"},
      {R"("detect": {"m": {"contrast": "with_document:without_document", "held_out": true}},
          "interventions": [{"name": "baseline"}])",
       "detect.m.held_out: expected a \"split\""},
      {R"("interventions": [{"name": "on", "edits": []}])", "baseline"},
      {R"("interventions": [{"name": "baseline"}], "seed_list": [1])", "seed_list"}};
  for (const Case& one : cases) {
    const fs::path spec = temporary / "spec.json";
    write_file(spec, std::string(R"({"model": "no-such-model-directory", "data": "data.jsonl", )") + one.text + "}");
    const Ran ran = run_experiment(spec, temporary / "out");
    CHECK(ran.code == 1);
    CHECK_MESSAGE(ran.err.find(one.message) != std::string::npos, ran.err);
    CHECK_MESSAGE(ran.err.find("no-such-model-directory") == std::string::npos, ran.err);
    CHECK(lines_of(ran.err).size() == 1);
    CHECK_FALSE(fs::exists(temporary / "out"));
  }
}

TEST_CASE("keys of the data never pass for results") {
  TemporaryDirectory temporary;
  write_file(
      temporary / "data.jsonl",
      R"({"id":"a","prompt":"User: hello","answers":["x"],"judged":"yes","options":["a"],"text":"t","sum_logprob":"x","note":1})"
      "\n");
  write_file(temporary / "spec.json", R"({"model": "builtin", "data": "data.jsonl", "generate": {"max_tokens": 3},
    "interventions": [{"name": "baseline"}], "metrics": ["em", "answer_agreement", "ppl"], "resamples": 50})");
  const Ran ran = run_experiment(temporary / "spec.json", temporary / "out");
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const json::Value line = json::parse(read_file(temporary / "out/samples.jsonl"), "samples.jsonl");
  CHECK(line.find("note")->integer() == 1);
  CHECK(!line.find("judged"));
  CHECK(line.find("sum_logprob")->is_number());
  // A run of the baseline alone shows its means.
  CHECK(ran.out.find("baseline") != std::string::npos);
}

TEST_CASE("what a model refuses leaves no directory behind") {
  TemporaryDirectory temporary;
  write_file(temporary / "data.jsonl", some_records("pairs.jsonl", 4));
  const auto refused = [&](const std::string& intervention, const char* message) {
    write_file(temporary / "spec.json", R"({"model": "builtin", "data": "data.jsonl", "interventions": [
      {"name": "baseline"}, )" + intervention +
                                            R"(], "metrics": ["ppl"]})");
    const Ran ran = run_experiment(temporary / "spec.json", temporary / "out");
    CHECK(ran.code == 1);
    CHECK_MESSAGE(ran.err.find(message) != std::string::npos, ran.err);
    CHECK_FALSE(fs::exists(temporary / "out"));
  };
  refused(R"({"name": "off", "edits": [{"op": "deactivate", "mode": "ban", "experts": {"1": [24]}}]})",
          "experts below 24");
  refused(R"({"name": "off", "edits": [{"op": "deactivate", "mode": "ban", "experts": {"0": [1]}}]})", "router");
}

TEST_CASE("a spec is the same by any path, and its files are looked at") {
  TemporaryDirectory temporary;
  write_file(temporary / "data.jsonl", some_records("pairs.jsonl", 2));
  write_file(temporary / "rd.csv", "layer,expert,rd\n1,3,0.5\n2,4,0.4\n");
  write_file(temporary / "spec.json",
             R"({"model": "builtin", "data": "data.jsonl", "interventions": [{"name": "baseline"},
    {"name": "off", "edits": [{"op": "deactivate", "mode": "ban", "experts": {"from": "rd.csv", "top": 1}}]}],
    "controls": false, "metrics": ["ppl"], "resamples": 50})");
  const std::string there = "cd " + temporary.path().string() + "; ";
  REQUIRE(run_command(there + test::binary() + " run spec.json --out out --quiet").code == 0);
  CHECK(run_experiment(temporary / "spec.json", temporary / "out").code == 0);
  write_file(temporary / "rd.csv", "layer,expert,rd\n1,5,0.5\n2,4,0.4\n");
  const Ran changed = run_command(there + test::binary() + " run spec.json --out out --quiet");
  CHECK(changed.code == 1);
  CHECK_MESSAGE(changed.err.find("hashes.files.rd.csv") != std::string::npos, changed.err);
}
