// Counts of edits in lines: those of a run are what its traces say, whether it records them or not; generate and score
// print them; edits that can act on no token are refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "base/json.h"
#include "probes/trace.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::probes;
using namespace signalbox::test;

namespace {

// Two pairs, whose halves have a question each, one with a document before it.
std::string some_pairs(size_t n) {
  std::istringstream all(read_file(source_dir() / "tools/builtin/heldout/pairs.jsonl"));
  std::string some, line;
  while (n-- > 0 && std::getline(all, line)) some += line + "\n";
  return some;
}

std::string spec_of(bool traces) {
  return std::string(R"({"model": "builtin", "data": "pairs.jsonl", "generate": {"max_tokens": 5, "ignore_eos": true},
    "metrics": ["em", "ppl"], "resamples": 20, "controls": false, "traces": )") +
         (traces ? "true" : "false") + R"(,
    "interventions": [{"name": "baseline"},
      {"name": "span", "edits": [{"op": "misroute", "policy": "random", "exclude_original": true, "layers": "2-3",
                                  "tokens": {"span": "question"}}]},
      {"name": "late", "edits": [{"op": "misroute", "policy": "random", "exclude_original": true,
                                  "tokens": {"phase": "generated"}}]},
      {"name": "some", "edits": [{"op": "misroute", "policy": "random", "exclude_original": true, "layers": "1",
                                  "tokens": {"fraction": 0.5}}]},
      {"name": "no-op", "edits": [{"op": "misroute", "policy": "shift", "by": 0}]}]})";
}

struct Rerouted {
  int64_t tokens = 0, slots = 0;
};

// Tokens whose route left every expert of the unedited one, but for the last token of each sample.
Rerouted rerouted(const TraceReader& trace) {
  Rerouted counts;
  const int64_t k = trace.n_slots(), n_layers = static_cast<int64_t>(trace.layers().size());
  for (int64_t s = 0; s < trace.n_samples(); ++s) {
    const auto rows = trace.rows(s);
    const std::vector<int32_t> ids = trace.ids(rows), original = trace.original_ids(rows);
    for (int64_t t = 0; t + 1 < rows.size(); ++t) {
      bool token = false;
      for (int64_t i = t * n_layers * k; i < (t + 1) * n_layers * k; ++i) {
        const bool left = ids[static_cast<size_t>(i)] != original[static_cast<size_t>(i)];
        counts.slots += left;
        token = token || left;
      }
      counts.tokens += token;
    }
  }
  return counts;
}

std::map<std::string, Rerouted> counts_of(const std::string& samples) {
  std::map<std::string, Rerouted> out;
  std::istringstream in(samples);
  for (std::string line; std::getline(in, line);) {
    const json::Value value = json::parse(line, "samples.jsonl");
    Rerouted& counts = out[value.find("intervention")->string()];
    counts.tokens += value.find("edited_tokens")->integer();
    counts.slots += value.find("edited_slots")->integer();
  }
  return out;
}

}  // namespace

TEST_CASE("edit counts: lines of a run are what its traces say, recorded or not") {
  TemporaryDirectory scratch;
  write_file(scratch / "pairs.jsonl", some_pairs(4));
  for (const bool traces : {false, true}) {
    const std::string name = traces ? "traced" : "plain";
    write_file(scratch / (name + ".json"), spec_of(traces));
    const Ran ran = run_command(binary() + " run " + (scratch / (name + ".json")).string() +
                                " --quiet --batch 3 --out " + (scratch / name).string());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    CHECK(ran.out.find("caution: The edits of no-op (") != std::string::npos);
    CHECK(ran.out.find("acted on no token") != std::string::npos);
  }
  const std::string samples = read_file(scratch / "plain/samples.jsonl");
  CHECK(samples == read_file(scratch / "traced/samples.jsonl"));
  const std::map<std::string, Rerouted> counts = counts_of(samples);
  for (const char* name : {"baseline", "no-op"}) {
    CHECK(counts.at(name).tokens == 0);
    CHECK(counts.at(name).slots == 0);
  }
  for (const char* name : {"span", "late", "some"}) {
    CAPTURE(std::string(name));
    const Rerouted want = rerouted(TraceReader(scratch.path() / "traced/traces" / name));
    CHECK(want.tokens > 0);
    CHECK(counts.at(name).tokens == want.tokens);
    CHECK(counts.at(name).slots == want.slots);
  }
  CHECK(counts.at("late").tokens == 4 * 4);
  const json::Value metrics = json::parse(read_file(scratch / "plain/metrics.json"), "metrics.json");
  const json::Value& edited = *metrics.find("interventions")->find("span")->find("edited");
  CHECK(edited.find("edited_tokens")->integer() == counts.at("span").tokens);
  CHECK(edited.find("untouched_records")->integer() == 0);
  for (const char* file : {"report.html", "table.md"})
    CHECK(read_file(scratch / "plain" / file).find("acted on no token") != std::string::npos);
}

TEST_CASE("edit counts: generate and score print them with --edits, and say what no token of theirs can meet") {
  TemporaryDirectory scratch;
  write_file(scratch / "pairs.jsonl", some_pairs(1));
  const auto run = [&](const std::string& command, const std::string& tokens, const std::string& more = "") {
    write_file(scratch / "e.json", R"({"edits": [{"op": "misroute", "policy": "worst", "tokens": )" + tokens + "}]}");
    return run_command(binary() + " " + command + " builtin --quiet --json --input " +
                       (scratch / "pairs.jsonl").string() + " " +
                       (tokens.empty() ? "" : "--edits " + (scratch / "e.json").string() + " ") + more);
  };
  const auto edited = [](const Ran& ran) {
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    const json::Value line = json::parse(ran.out, "line");
    return line.find("edited_tokens") ? line.find("edited_tokens")->integer() : -1;
  };
  CHECK(edited(run("generate", R"({"positions": "2:7"})", "--max-tokens 4")) == 5);
  CHECK(edited(run("generate", R"({"phase": "generated"})", "--max-tokens 4 --ignore-eos")) == 3);
  CHECK(edited(run("score", R"({"positions": "2:7"})")) == 5);
  CHECK(edited(run("score", "")) == -1);
  // The trace has a row for the last token, and goes on with the same line.
  const std::string trace = "--max-tokens 4 --ignore-eos --trace " + (scratch / "t").string();
  const Ran traced = run("generate", R"({"phase": "generated"})", trace);
  CHECK(edited(traced) == 3);
  CHECK(edited(run("generate", R"({"phase": "generated"})", trace)) == 3);

  // Where no generated token is run, nothing is changed, and that is said.
  CHECK(edited(run("score", R"({"phase": "generated"})")) == 0);
  const Ran told = run_command(binary() + " score builtin --json --input " + (scratch / "pairs.jsonl").string() +
                               " --edits " + (scratch / "e.json").string());
  CHECK_MESSAGE(told.err.find("e.json: edits[0] acts on generated tokens alone, and score has only given tokens: it "
                              "changes nothing here\n") != std::string::npos,
                told.err);
  CHECK(edited(run("generate", R"({"phase": "generated"})", "--max-tokens 1")) == 0);
}
