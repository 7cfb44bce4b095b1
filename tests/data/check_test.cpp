// signalbox data check: what it says of files, good and bad. Counts are by hand.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include "tests/docs.h"
#include "tests/support.h"
#include "tools/signalbox/data_check.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

struct Checked {
  test::TemporaryDirectory directory;
  DataCheck check;
  std::string file;

  explicit Checked(const std::string& text, const std::string& model = "", const std::string& name = "own.jsonl") {
    file = (directory / name).string();
    test::write_file(file, text);
    check = check_data({file}, model);
  }
  // Problems as "LINE: what", without the folder.
  std::vector<std::string> problems() const {
    std::vector<std::string> out;
    for (const Problem& problem : check.problems) {
      std::string text = problem.where + ": " + problem.what + (problem.hint.empty() ? "" : "; ") + problem.hint;
      const std::string folder = directory.path().string() + "/";
      for (size_t at = text.find(folder); at != std::string::npos; at = text.find(folder))
        text.erase(at, folder.size());
      out.push_back(text);
    }
    return out;
  }
  const Applicability& score(const std::string& name) const {
    for (const Applicability& one : check.scores)
      if (one.scorer->name == name) return one;
    throw Error(name, "no such score");
  }
  const CommandUse& command(const std::string& name) const {
    for (const CommandUse& one : check.commands)
      if (one.name == name) return one;
    throw Error(name, "no such command");
  }
  bool cautions(const std::string& part) const {
    for (const std::string& caution : check.cautions)
      if (caution.find(part) != std::string::npos) return true;
    return false;
  }
};

const std::string four =
    R"({"id":"1a","prompt":"Doc. Who?","condition":"with","pair":"1","answers":["Ann"],"spans":{"question":[5,9],"doc":[0,4]},"domain":"x"}
{"id":"1b","prompt":"Who?","condition":"without","pair":"1","answers":[],"spans":{"question":[0,4]},"domain":"x"}
{"id":"2a","prompt":"Text. What?","condition":"with","pair":"2","answers":["Bo"],"spans":{"question":[6,11],"doc":[0,0]},"document":"Text."}
{"id":"2b","prompt":"Who?","condition":"without","pair":"3","target":" Bo","spans":{"question":[0,4]}}
)";

}  // namespace

TEST_CASE("data check: what is there, and what it is enough for") {
  const Checked own(four);
  const Survey& s = own.check.survey;
  CHECK(own.check.problems.empty());
  CHECK(s.records == 4);
  CHECK(s.prompts == 4);
  CHECK(s.conditions == Counted{{"with", 2}, {"without", 2}});
  CHECK(s.domains == Counted{{"x", 2}});
  CHECK(s.splits.empty());
  CHECK(s.pairs == 3);
  CHECK(s.complete_pairs == 1);
  CHECK(s.first_incomplete == "\"2\" lacks a record under \"without\"");
  CHECK(s.answers == 3);
  CHECK(s.no_answer == 1);
  CHECK(s.targets == 1);
  CHECK(s.keys == Counted{{"document", 1}});
  REQUIRE(s.spans.size() == 2);
  CHECK(s.spans[0].name == "doc");
  CHECK(s.spans[0].records == 2);
  CHECK(s.spans[0].empty == 1);
  CHECK(s.copies.examples == 2);  // 1a, 1b and 2b, which repeats 1b; 2a
  REQUIRE(s.shared.size() == 1);
  CHECK(s.shared[0].first == "1b");
  CHECK(s.shared[0].second == "2b");
  CHECK(own.score("em").records == 3);
  CHECK(own.score("em").any());
  CHECK(own.score("contains").records == 2);
  CHECK(own.score("grounded").records == 1);
  CHECK_FALSE(own.score("grounded_elsewhere").any());
  CHECK(own.score("grounded_elsewhere").lacking_all == "two documents");
  CHECK(own.score("context_answer").lacking == "memory");
  CHECK_FALSE(own.score("choice_parsed").any());
  CHECK(own.score("ppl").records == 4);
  CHECK(own.command("deactivate").lacking.empty());
  CHECK(own.command("faithfulness").lacking == "no target, for the model writes the answer");
  CHECK(own.check.next == "signalbox deactivate builtin --data " + own.file +
                              " --contrast with:without --span question --split 0.5 --top 8 --max-tokens 32 --metrics "
                              "em,contains,refused --out out/deactivate");
  CHECK(own.cautions("2 pairs of 3 are not complete"));
  CHECK(own.cautions("only 2 records under \"with\""));
  CHECK(own.cautions("span \"doc\" is empty in 1 record"));
}

TEST_CASE("data check: every problem of a file, each at its line") {
  const Checked bad(R"({"id":"a","prompt":"x","spans":{"s":[0,9],"t":[1,0]},"target":3}
not json
{"prompt":"y","condition":7}
{"id":"a","text":"z"}

{"id":"b","prompt":"p","messages":[]}
{"id":"c","prompt":"p"}
[1]
)");
  CHECK(bad.check.lines == 8);
  CHECK(bad.check.survey.records == 1);
  const std::vector<std::string> found = bad.problems();
  const auto has = [&](const std::string& start) {
    return std::any_of(found.begin(), found.end(), [&](const std::string& text) { return text.starts_with(start); });
  };
  CHECK(found.size() == 11);
  CHECK(has("own.jsonl:1: target: expected a string, found 3"));
  CHECK(has("own.jsonl:1: spans.s: expected a range within the 1 code points of the prompt, found [0,9)"));
  CHECK(has("own.jsonl:1: spans.t: expected a start that is not after the end"));
  CHECK(has("own.jsonl:2: "));
  CHECK(
      has("own.jsonl:3: expected the key \"id\", found none; rows of other keys become records with signalbox data "
          "convert jsonl own.jsonl --out own_records.jsonl"));
  CHECK(has("own.jsonl:3: condition: expected a string, found 7"));
  CHECK(
      has("own.jsonl:4: expected exactly one of \"prompt\", \"messages\" and \"tokens\", found 0; rows of other keys "
          "become records with signalbox data convert jsonl own.jsonl --map question=text"));
  CHECK(has("own.jsonl:4: id: expected a unique id, found \"a\" again (first at own.jsonl:1)"));
  CHECK(has("own.jsonl:5: expected a JSON object, found an empty line"));
  CHECK(has("own.jsonl:6: expected exactly one of \"prompt\", \"messages\" and \"tokens\", found 2"));
  CHECK(has("own.jsonl:8: expected an object"));
  CHECK(bad.check.next.empty());
  const Checked table("id,prompt,choice\na,b,two\nc,d,1\ne,f,x\n", "", "own.csv");
  CHECK(table.problems() == std::vector<std::string>{"own.csv:2: choice: expected an integer, found \"two\"",
                                                     "own.csv:4: choice: expected an integer, found \"x\""});
}

TEST_CASE("data check: splits that a run would refuse, with the command that mends them") {
  const Checked split(R"({"id":"1","prompt":"p","pair":"x","split":"detect"}
{"id":"2","prompt":"q","pair":"x","split":"test"}
{"id":"3","prompt":"r","split":"test"}
{"id":"4","prompt":" r ","split":"detect"}
{"id":"5","prompt":"t"}
)");
  const std::string mend =
      "; signalbox data split own.jsonl --replace --fractions detect=0.5,test=0.5 --out "
      "own_split.jsonl";
  CHECK(
      split.problems() ==
      std::vector<std::string>{
          "own.jsonl:5: expected the key \"split\", which other records have, found none (1 records lack it)" + mend,
          "own.jsonl:2: expected the records of one pair or question in one split, found \"1\" in \"detect\" and "
          "\"2\" in \"test\"" +
              mend,
          "own.jsonl:3: expected an example in one split, found the same prompt as \"4\" in \"detect\" and as \"3\" in "
          "\"test\"" +
              mend});
}

TEST_CASE("data check: tokens, special tokens and templates of a model") {
  const Checked own(R"({"id":"1","messages":[{"role":"user","content":"Question: What is 2 + 2?"}],"target":" 4."}
{"id":"2","messages":[{"role":"user","content":"Question: Who? <eos>"}],"spans":{"s":[0,3]}}
{"id":"3","prompt":"Hello there"}
)",
                    "builtin");
  REQUIRE(own.check.tokens.has_value());
  const TokenSurvey& t = *own.check.tokens;
  CHECK(t.prompts.n == 3);
  CHECK(t.prompts.min >= 2);
  CHECK(t.targets.n == 1);
  CHECK(t.context == 512);
  CHECK(t.rendered == 2);
  CHECK(own.cautions("1 record is a raw prompt, and the model has a chat template"));
  CHECK(own.check.problems.empty());
  std::string text;
  for (int i = 0; i < 600; ++i) text += " the";
  const Checked lengthy(R"({"id":"1","prompt":")" + text + R"("})", "builtin");
  REQUIRE(lengthy.check.problems.size() == 1);
  CHECK(lengthy.check.problems[0].what.starts_with("expected at most the model's 512 positions, found "));
  const Checked ids(R"({"id":"1","tokens":[1,999999]}
{"id":"2","tokens":[]}
)",
                    "builtin");
  CHECK(ids.check.problems.size() == 2);
  const Lengths of = lengths_of({5, 1, 4, 2});
  CHECK(of.min == 1);
  CHECK(of.max == 5);
  CHECK(of.median == 3);
  CHECK(of.p95 == 5);
  std::vector<int64_t> hundred;
  for (int64_t i = 100; i > 0; --i) hundred.push_back(i);
  CHECK(lengths_of(hundred).p95 == 95);  // numpy.percentile(x, 95, method="inverted_cdf")
  CHECK(lengths_of(hundred).median == 50.5);
}

TEST_CASE("data check: exit codes, JSON, and records from standard input") {
  const test::TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "tmp");
  test::write_file(directory / "tmp/good.jsonl", four);
  const test::Ran good = test::paste("signalbox data check /tmp/good.jsonl --json", directory.path());
  CHECK(good.code == 0);
  const json::Value found = json::parse(good.out, "output");
  CHECK(json::Ref(found, "output").at("scores").at("em").at("records").integer() == 3);
  CHECK(found.find("problems")->items().empty());
  const test::Ran bad =
      test::paste("printf '{\"id\":\"a\"}\\n{\"id\":\"b\"}\\n' | signalbox data check - --quiet", directory.path());
  CHECK(bad.code == 1);
  CHECK(bad.out.find("  standard input:1, 2: expected exactly one of") != std::string::npos);
  CHECK(bad.out.find("What mends them\n  - rows of other keys become records with signalbox data convert jsonl -") !=
        std::string::npos);
  const test::Ran piped = test::paste(
      "printf '{\"question\":\"Who?\",\"answer\":\"Ann\"}\\n' | signalbox data convert jsonl - --map answers=answer",
      directory.path());
  CHECK(piped.code == 0);
  CHECK(piped.out.find("\"id\":\"input-1\"") != std::string::npos);
  CHECK(piped.out.find("\"answers\":[\"Ann\"]") != std::string::npos);
  const test::Ran numbered = test::paste(
      "printf '{\"id\":\"a\",\"prompt\":\"p\"}\\n{\"id\":\"a\",\"prompt\":\"q\"}\\n' | signalbox data convert jsonl - "
      "--new-ids",
      directory.path());
  CHECK(numbered.code == 0);
  CHECK(numbered.out.find("{\"id\":\"input-2\",\"source_id\":\"a\",\"prompt\":\"q\"}") != std::string::npos);
}
