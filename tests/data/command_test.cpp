// signalbox data as it is called, and the sets that ship for the built-in model.
#include <doctest/doctest.h>

#include <map>
#include <set>

#include "eval/data/records.h"
#include "tests/support.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/open.h"

namespace signalbox::tools {
int data_command(int argc, char** argv);
}

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

std::string file(const std::string& name) { return (test::source_dir() / "tests/data/files/").string() + name; }

// Runs the command with --quiet; its own words are split at spaces, `more` are given whole.
int run(const std::string& words, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {"data"};
  for (size_t at = 0; at < words.size();) {
    const size_t end = std::min(words.find(' ', at), words.size());
    arguments.push_back(words.substr(at, end - at));
    at = end + 1;
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  arguments.push_back("--quiet");
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  return data_command(static_cast<int>(arguments.size()), pointers.data());
}

const TextTools& builtin() {
  static const TextTools text = open_text("builtin", true);
  return text;
}

// The code points [begin, end) of a text.
std::string part(const std::string& text, std::pair<int64_t, int64_t> range) {
  std::string out;
  int64_t at = -1;
  for (char c : text) {
    at += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (at >= range.first && at < range.second) out += c;
  }
  return out;
}

std::string rendered(const Record& record) { return builtin().chat_template->render(record.messages, true, {}).text; }

}  // namespace

TEST_CASE("data command: every format becomes records that the reader takes") {
  const test::TemporaryDirectory directory;
  const std::string out = (directory / "out.jsonl").string();
  for (const auto& [format, name, n] : std::vector<std::tuple<std::string, std::string, size_t>>{
           {"squad", "squad1.json", 2},
           {"squad", "squad2.json", 2},
           {"squad", "squad_rows.jsonl", 2},
           {"faitheval-counterfactual", "counterfactual.jsonl", 2},
           {"faitheval-unanswerable", "unanswerable.jsonl", 1},
           {"faitheval-inconsistent", "inconsistent.jsonl", 1},
           {"xstest", "xstest.csv", 2},
           {"advbench", "advbench.csv", 1},
           {"beavertails", "beavertails.jsonl", 4},
           {"mctest", "stories.tsv", 4},
           {"csv", "records.csv", 2},
           {"jsonl", "squad_rows.jsonl", 2}}) {
    const std::string of_format = format;  // a structured binding cannot be captured
    CAPTURE(of_format);
    const std::string map = format == "jsonl" ? " --map document=context,answers=answers.text" : "";
    CHECK(run("convert " + format + " " + file(name) + " --out " + out + map) == 0);
    CHECK(read_records(out).size() == n);
  }
  CHECK(run("convert squad " + file("squad1.json") + " " + file("squad2.json") + " --limit 3 --out " + out) == 0);
  CHECK(read_records(out).size() == 3);
  CHECK_THROWS_WITH_AS(run("convert squad " + file("squad1.json") + " " + file("squad1.json") + " --out " + out),
                       doctest::Contains("id: expected a unique id, found \"h1\" again"), Error);
  CHECK(read_records(out).size() == 3);  // what failed has written nothing
  CHECK_THROWS_AS(run("convert nothing " + file("squad1.json")), UsageError);
  CHECK_THROWS_AS(run("convert squad " + file("squad1.json") + " --map a=b"), UsageError);
  CHECK_THROWS_AS(run("convert squad " + file("squad1.json") + " --model builtin"), UsageError);
  CHECK_THROWS_AS(run("convert csv " + file("squad1.json")), UsageError);
  CHECK_THROWS_AS(run("convert squad " + file("squad1.json") + " --template {answer}"), Error);
  CHECK_THROWS_AS(run("convert squad " + file("squad1.json") + " --out " + (directory / "no/where.jsonl").string()),
                  Error);
}

TEST_CASE("data command: spans of messages are ranges of the rendered text") {
  builtin();
  const test::TemporaryDirectory directory;
  const std::string out = (directory / "out.jsonl").string();
  CHECK(run("convert squad " + file("squad1.json") + " --chat --model builtin --out " + out) == 0);
  const std::vector<Record> records = read_records(out);
  // Counted by Python's str.index in "<bos>User: Document: ...".
  CHECK(records[0].spans.at("document") == std::pair<int64_t, int64_t>{21, 84});
  CHECK(records[0].spans.at("question") == std::pair<int64_t, int64_t>{95, 118});
  CHECK(part(rendered(records[0]), records[0].spans.at("question")) == "When did the café open?");
  // A system message that holds the words of the question does not draw the span to it.
  CHECK(run("convert xstest " + file("xstest.csv") + " --chat --model builtin --out " + out,
            {"--system", "How do I blow up a balloon, quickly?"}) == 0);
  const Record first = read_records(out)[0];
  CHECK(part(rendered(first), first.spans.at("question")) == "How do I blow up a balloon, quickly?");
  CHECK(first.spans.at("question").first > 36);
  // Without a model there are none.
  CHECK(run("convert squad " + file("squad1.json") + " --chat --out " + out) == 0);
  CHECK(read_records(out)[0].spans.empty());
}

TEST_CASE("data command: pairs, splits and structure, from file to file") {
  builtin();
  const test::TemporaryDirectory directory;
  const std::string a = (directory / "a.jsonl").string(), b = (directory / "b.jsonl").string();
  CHECK(run("convert squad " + file("squad1.json") + " --out " + a) == 0);
  CHECK(run("pairs document " + a + " --target --chat --model builtin --out " + b) == 0);
  std::vector<Record> records = read_records(b);
  REQUIRE(records.size() == 4);
  CHECK(records[0].pair == records[1].pair);
  CHECK(records[0].condition == "with_document");
  CHECK(records[1].condition == "without_document");
  CHECK(records[0].target == " 1921");  // rendered text ends in "Assistant:"
  CHECK(part(rendered(records[1]), records[1].spans.at("question")) == "When did the café open?");
  CHECK_FALSE(records[1].spans.contains("document"));
  CHECK(rendered(records[1]).find("Lund") == std::string::npos);
  CHECK(run("pairs document " + a + " --target --target-prefix none --out " + b) == 0);
  CHECK(read_records(b)[0].target == "1921");
  CHECK_THROWS_AS(run("pairs document " + a + " --safe data"), UsageError);
  CHECK_THROWS_AS(run("pairs document " + a + " --seed 1"), UsageError);
  CHECK_THROWS_AS(run("pairs document " + a + " --keep-pairs"), UsageError);
  CHECK_THROWS_AS(run("pairs document " + a + " --against shuffled --keep-pairs --target"), UsageError);
  const std::string heldout = (test::source_dir() / "tools/builtin/heldout/pairs.jsonl").string();
  CHECK(run("pairs document " + heldout + " --keep-pairs --against unrelated,shuffled --chat --model builtin --out " +
            b) == 0);
  CHECK(read_records(b).size() == 2000);
  CHECK_THROWS_AS(run("pairs document " + a + " --template {document}"), UsageError);

  CHECK(run("convert beavertails " + file("beavertails.jsonl") + " --out " + a) == 0);
  CHECK(run("pairs completions " + a + " --seed 3 --out " + b) == 0);
  CHECK(read_records(b).size() == 4);
  CHECK_THROWS_AS(run("pairs completions " + a + " --target"), UsageError);

  CHECK(run("structural --n 40 --seed 5 --out " + a) == 0);
  CHECK(run("split " + a + " --fractions detect=0.5,tune=0.25,test=0.25 --out " + b) == 0);
  std::set<std::string> names;
  for (const Record& record : read_records(b)) names.insert(record.split);
  CHECK(names == std::set<std::string>{"detect", "test", "tune"});
  CHECK_THROWS_AS(run("split " + a + " --fractions detect=0.5,test=0.6"), UsageError);
  CHECK_THROWS_AS(run("split " + b), Error);
  CHECK(run("structural --style builtin --n 4 --out " + a) == 0);
  records = read_records(a);
  CHECK(records[0].kind == Record::Kind::messages);
  CHECK(part(rendered(records[0]), records[0].spans.at("question")) == records[0].source.find("question")->string());
  CHECK_THROWS_AS(run("structural --style builtin --steps 3"), UsageError);
}

TEST_CASE("data: the built-in model's sets for experiments are what they say") {
  const std::string folder = (test::source_dir() / "tools/builtin/heldout/").string();
  std::map<std::string, std::vector<Record>> sets;
  for (const char* name : {"completions", "choices", "paraphrases", "unanswerable", "over_refusal"}) {
    sets[name] = read_records(folder + name + ".jsonl");
    CAPTURE(name);
    CHECK(sets[name].size() >= 100);
    std::map<std::string, std::string> split_of;  // of pairs and paraphrase groups
    std::set<std::string> splits;
    for (const Record& record : sets[name]) {
      for (const char* span : {"question", "document"})
        if (const json::Value* value = record.source.find(span))
          CHECK(part(rendered(record), record.spans.at(span)) == value->string());
      splits.insert(record.split);
      const json::Value* base = record.source.find("paraphrase_of");
      const std::string unit = !record.pair.empty() ? record.pair : base ? base->string() : record.id;
      CHECK(split_of.emplace(unit, record.split).first->second == record.split);
    }
    CHECK(splits == std::set<std::string>{"detect", "test", "tune"});
  }
  std::map<std::string, int> conditions;
  std::set<std::string> refusals;
  for (const Record& record : sets["completions"]) {
    ++conditions[record.condition + "/" + record.pair];
    if (record.condition == "safe") refusals.insert(*record.target);
    CHECK(record.target->starts_with(' '));
  }
  CHECK(conditions.size() == sets["completions"].size());
  CHECK(refusals.size() == 5);
  std::map<int64_t, int> places;
  for (const Record& record : sets["choices"]) {
    const auto& choices = record.source.find("choices")->items();
    const int64_t right = record.source.find("choice")->integer();
    CHECK(choices.size() == 4);
    CHECK(choices[static_cast<size_t>(right)].string() == " " + record.answers[0]);
    ++places[right];
  }
  CHECK(places.size() == 4);
  for (const auto& [place, count] : places) CHECK(count > 20);  // of 150
  std::map<std::string, std::string> answers;
  int paraphrased = 0;
  for (const Record& record : sets["paraphrases"]) {
    answers[record.id] = record.answers[0];
    if (const json::Value* base = record.source.find("paraphrase_of")) {
      CHECK(answers.at(base->string()) == record.answers[0]);
      ++paraphrased;
    }
  }
  CHECK(paraphrased * 4 == static_cast<int>(sets["paraphrases"].size()) * 3);
  for (const Record& record : sets["unanswerable"])
    CHECK(record.source.find("answerable")->boolean() == (record.answers[0] != "I do not know."));
  int harmful = 0;
  for (const Record& record : sets["over_refusal"]) harmful += record.source.find("harmful")->boolean();
  CHECK(harmful * 2 == static_cast<int>(sets["over_refusal"].size()));
}
