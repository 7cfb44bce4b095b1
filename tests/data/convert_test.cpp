// Readers and converters of data: CSV rows, public formats, templates and the spans they give.
#include "eval/data/convert.h"

#include <doctest/doctest.h>

#include "eval/data/records.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

std::string file(const std::string& name) { return (test::source_dir() / "tests/data/files/").string() + name; }

std::string dump(const json::Value& object, std::string_view key) {
  const json::Value* value = object.find(key);
  return value ? json::dump(*value) : "absent";
}

// The record of one draft with the default template of its format.
json::Value placed(const std::string& format, const Row& draft, bool chat = false) {
  PromptStyle style;
  const Converter* converter = find_converter(format);
  style.plain = converter->plain;
  style.instruction = converter->instruction;
  style.chat = chat;
  return place_prompt(draft, style);
}

struct Bad {
  std::string text, message;
};

}  // namespace

TEST_CASE("data: records from CSV with quotes, line ends, a byte order mark and typed columns") {
  const std::vector<Record> records = read_records(file("records.csv"));
  REQUIRE(records.size() == 2);
  CHECK(records[0].prompt == "Say \"hi\",\r\nplease");
  CHECK(records[0].answers == std::vector<std::string>{"hi"});
  CHECK_FALSE(records[0].target.has_value());
  CHECK(records[0].split == "test");
  CHECK(dump(records[0].source, "colour") == "\"red\"");
  CHECK(dump(records[0].source, "harmful") == "absent");
  // The second row begins on line 4: the first one spans two lines.
  CHECK(records[1].where == file("records.csv") + ":4");
  CHECK(records[1].prompt.empty());
  CHECK(records[1].answers == std::vector<std::string>{"one", "two"});
  CHECK(records[1].target == " yes");
  CHECK(dump(records[1].source, "choice") == "1");
  CHECK(dump(records[1].source, "harmful") == "true");
  CHECK(dump(records[1].source, "colour") == "absent");
}

TEST_CASE("data: a byte order mark before JSON lines is skipped, elsewhere it is refused") {
  const test::TemporaryDirectory directory;
  const std::string path = (directory / "r.jsonl").string(), mark = "\xef\xbb\xbf";
  test::write_file(path, mark + R"({"id":"a","prompt":"x"})" + "\r\n" + R"({"id":"b","prompt":"y"})" + "\n");
  const std::vector<Record> records = read_records(path);
  REQUIRE(records.size() == 2);
  CHECK(records[0].id == "a");
  CHECK(records[0].where == path + ":1");
  test::write_file(path, mark + mark + R"({"id":"a","prompt":"x"})");
  CHECK_THROWS_WITH_AS(read_records(path), doctest::Contains(":1: expected JSON, found a byte order mark"), Error);
  test::write_file(path, R"({"id":"a","prompt":"x"})" + ("\n" + mark) + R"({"id":"b","prompt":"y"})");
  CHECK_THROWS_WITH_AS(read_records(path), doctest::Contains(":2: expected JSON, found a byte order mark"), Error);
  test::write_file(path, mark);
  CHECK_THROWS_WITH_AS(read_records(path), doctest::Contains("expected at least one record, found none"), Error);
}

TEST_CASE("data: bad CSV records are refused with file and line") {
  const test::TemporaryDirectory directory;
  const std::string path = (directory / "Bad.CSV").string(), made = (directory / "Bad_records.jsonl").string();
  const std::vector<Bad> cases = {
      {"id,prompt\na,b\na,c\n", path + ":3: id: expected a unique id, found \"a\" again (first at " + path +
                                    ":2); signalbox data convert csv " + path + " --new-ids --out " + made +
                                    " numbers the records"},
      {"id,prompt\na,b,c\n", path + ": line 2: expected 2 fields, found 3"},
      {"id,text\na,b\n",
       path +
           ":2: expected exactly one of \"prompt\", \"messages\" and \"tokens\", found 0; rows of other "
           "keys become records with signalbox data convert csv " +
           path + " --map question=text --out " + made},
      {"id,what\na,b\n",
       path +
           ":2: expected exactly one of \"prompt\", \"messages\" and \"tokens\", found 0; rows of other "
           "keys become records with signalbox data convert csv " +
           path + " --map question=KEY --out " + made + ", KEY one of id, what"},
      {"prompt\nb\n",
       path +
           ":2: expected the key \"id\", found none; rows of other keys become records with signalbox data "
           "convert csv " +
           path + " --out " + made},
      {"id,prompt\n\"a,b\n", path + ": line 3: expected a closing quote, found the end of the file"},
      {"id,prompt,choice\na,b,two\n", path + ":2: choice: expected an integer, found \"two\""},
      {"id,prompt,harmful\na,b,maybe\n", path + ":2: harmful: expected true or false, found \"maybe\""},
      {"id,prompt\na,\xff\n", path + ":2: expected UTF-8, found other bytes at byte 0 of a text"},
      {"id,prompt\na,x\xed\xa0\x80\n", path + ":2: expected UTF-8, found other bytes at byte 1 of a text"},
      {"id,prompt\n", path + ": expected at least one row below the header, found none"},
      {"", path + ": expected a header row, found an empty file"},
  };
  for (const Bad& bad : cases) {
    CAPTURE(bad.text);
    test::write_file(path, bad.text);
    std::string message;
    try {
      read_records(path);
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK(message == bad.message);
  }
}

TEST_CASE("data: SQuAD 1.1, 2.0 and rows") {
  const std::vector<Row> one = read_squad({file("squad1.json")});
  REQUIRE(one.size() == 2);
  CHECK(dump(one[0].object, "answers") == R"(["1921","in 1921"])");
  CHECK(dump(one[0].object, "answerable") == "true");
  CHECK(dump(one[0].object, "title") == "\"Harbour\"");
  CHECK(one[1].where == file("squad1.json") + ": data[0].paragraphs[0].qas[1]");
  // Offsets counted by Python's str.index on the same prompt; é is one code point and two bytes.
  const json::Value record = placed("squad", one[0]);
  CHECK(record.find("prompt")->string() ==
        "Document: The café in Lund opened in 1921. Its first owner was Ebba Holm.\n"
        "Question: When did the café open?\nAnswer:");
  CHECK(dump(record, "spans") == R"({"document":[10,73],"question":[84,107]})");
  CHECK(json::dump(record).starts_with(R"({"id":"h1","prompt":)"));

  const std::vector<Row> two = read_squad({file("squad2.json")});
  REQUIRE(two.size() == 2);
  CHECK(dump(two[0].object, "answerable") == "true");
  CHECK(dump(two[1].object, "answerable") == "false");
  CHECK(dump(two[1].object, "answers") == "[]");
  CHECK(dump(two[1].object, "plausible_answers") == R"(["nine"])");

  const std::vector<Row> rows = read_squad({file("squad_rows.jsonl")});
  CHECK(dump(rows[0].object, "answers") == R"(["nine"])");
  CHECK(dump(rows[1].object, "answerable") == "false");
  CHECK(dump(rows[0].object, "document") == "\"The ferry sails at nine.\"");
  CHECK(dump(rows[0].object, "context") == "absent");
  check_records({{"a", placed("squad", rows[0])}, {"b", placed("squad", rows[1])}});
}

TEST_CASE("data: FaithEval's three sets") {
  const std::vector<Row> cf = read_faitheval_counterfactual({file("counterfactual.jsonl")});
  REQUIRE(cf.size() == 2);
  CHECK(dump(cf[0].object, "choice") == "1");
  CHECK(dump(cf[0].object, "answers") == R"(["sugar"])");
  CHECK(dump(cf[0].object, "choices") == R"(["ice","sugar","sand"])");
  CHECK(dump(cf[0].object, "num of options") == "3");
  // Labels that are numbers with a key that is a letter: A is the first.
  CHECK(dump(cf[1].object, "choice") == "0");
  CHECK(dump(cf[1].object, "answers") == R"(["glass","Glass."])");
  CHECK(placed("faitheval-counterfactual", cf[0]).find("prompt")->string() ==
        "Document: Snow is made of sugar.\nQuestion: What is snow made of?\nA) ice\nB) sugar\nC) sand\nAnswer:");

  const std::vector<Row> un = read_faitheval_unanswerable({file("unanswerable.jsonl")});
  CHECK(dump(un[0].object, "id") == "\"u1\"");
  CHECK(dump(un[0].object, "answerable") == "false");
  CHECK(dump(un[0].object, "answers") == R"(["unknown"])");
  CHECK(dump(un[0].object, "source_answers") == R"(["unanswerable","unknown"])");
  CHECK(dump(un[0].object, "subset") == "\"bridges\"");
  CHECK(placed("faitheval-unanswerable", un[0], true).find("messages")->items()[0].find("content")->string() ==
        "If the document does not give the answer, answer unknown.\nDocument: The bridge is long.\n"
        "Question: Who built the bridge?");

  const std::vector<Row> in = read_faitheval_inconsistent({file("inconsistent.jsonl")});
  CHECK(dump(in[0].object, "conflict") == "true");
  CHECK(dump(in[0].object, "answers") == R"(["conflict"])");
  CHECK(dump(in[0].object, "source_answers") == R"(["1932","1951"])");
}

TEST_CASE("data: XSTest, AdvBench and BeaverTails") {
  const std::vector<Row> xs = read_xstest({file("xstest.csv")});
  REQUIRE(xs.size() == 2);
  CHECK(dump(xs[0].object, "harmful") == "false");
  CHECK(dump(xs[1].object, "harmful") == "true");
  CHECK(dump(xs[1].object, "condition") == "\"unsafe\"");
  CHECK(dump(xs[1].object, "note") == R"("two\r\nlines")");
  CHECK(placed("xstest", xs[0]).find("prompt")->string() == "How do I blow up a balloon, quickly?");
  CHECK(dump(placed("xstest", xs[0]), "spans") == R"({"question":[0,36]})");
  const std::vector<Row> without_labels = read_xstest({file("xstest_v2.csv")});
  CHECK(dump(without_labels[0].object, "id") == "\"xstest_v2-1\"");
  CHECK(dump(without_labels[0].object, "harmful") == "false");
  CHECK(dump(without_labels[1].object, "harmful") == "true");

  const json::Value adv = placed("advbench", read_advbench({file("advbench.csv")})[0]);
  CHECK(dump(adv, "harmful") == "true");
  CHECK(dump(adv, "target") == "absent");  // else an answer would go on from it
  CHECK(dump(adv, "affirmative") == "\"Sure, here is how to skip the queue\"");

  const std::vector<Row> beaver = read_beavertails({file("beavertails.jsonl")});
  REQUIRE(beaver.size() == 4);
  CHECK(dump(beaver[0].object, "category") == R"(["fraud"])");
  CHECK(dump(beaver[0].object, "is_safe") == "false");
  CHECK(dump(beaver[1].object, "condition") == "\"safe\"");
  CHECK(dump(beaver[1].object, "category") == "[]");
}

TEST_CASE("data: MCTest stories and answers") {
  const std::vector<Row> drafts = read_mctest({file("stories.tsv")});
  REQUIRE(drafts.size() == 4);
  CHECK(dump(drafts[0].object, "id") == "\"toy.0/1\"");
  CHECK(dump(drafts[0].object, "document") == R"("Ann has a cat.\nThe cat is red.")");
  CHECK(dump(drafts[0].object, "answers") == R"(["a cat"])");
  CHECK(dump(drafts[0].object, "choice") == "1");
  CHECK(dump(drafts[1].object, "question") == "\"What colour: red, or blue?\"");
  CHECK(dump(drafts[1].object, "sentences_needed") == "\"multiple\"");
  CHECK(dump(drafts[3].object, "answers") == R"(["yes\tindeed"])");
  CHECK(read_mctest({file("stories.tsv"), file("stories.ans")}).size() == 4);
}

TEST_CASE("data: rows of any keys by a map") {
  const test::TemporaryDirectory directory;
  const std::string rows = (directory / "rows.jsonl").string(), csv = (directory / "t.csv").string();
  test::write_file(rows, R"({"q":"Two and two?","gold":{"text":4},"opts":["3","4"],"level":"easy"})"
                         "\n"
                         R"({"q":"One and one?","gold":{"text":2},"opts":["2","4"],"level":"easy"})"
                         "\n");
  const std::vector<Row> drafts = read_mapped({rows}, parse_key_map("question=q,answers=gold.text,choices=opts"));
  REQUIRE(drafts.size() == 2);
  CHECK(json::dump(drafts[1].object) ==
        R"({"question":"One and one?","answers":["2"],"choices":["2","4"],"level":"easy","id":"rows-2"})");
  test::write_file(csv, "nr,ask,safe?,why\n7,Who?,TRUE,\n");
  CHECK(json::dump(read_mapped({csv}, parse_key_map("id=nr,prompt=ask,harmful=safe?"))[0].object) ==
        R"({"id":"7","prompt":"Who?","harmful":true})");
  CHECK_THROWS_WITH_AS(read_mapped({rows}, parse_key_map("question=ask")),
                       doctest::Contains("rows.jsonl:1: expected the key \"ask\", found none"), Error);
  CHECK_THROWS_AS(parse_key_map("a=b,a=c"), UsageError);
  CHECK_THROWS_AS(parse_key_map("a"), UsageError);
}

TEST_CASE("data: bad files of public formats are refused with their place") {
  const test::TemporaryDirectory directory;
  struct Case {
    const char *name, *format, *text, *message;
  };
  const std::vector<Case> cases = {
      {"a.json", "squad", R"({"data":[{"paragraphs":[{"context":"c","qas":[{"id":"x","question":"q"}]}]}]})",
       "a.json: data[0].paragraphs[0].qas[0]: expected the key \"answers\", found none"},
      {"a.json", "squad",
       R"({"data":[{"paragraphs":[{"context":"c","qas":[{"id":"x","question":"q","is_impossible":false,"answers":[]}]}]}]})",
       "expected at least one answer, found none"},
      {"a.json", "squad", "[]", "expected an object"},
      {"a.jsonl", "faitheval-counterfactual",
       R"({"id":"x","question":"q","context":"c","answerKey":"E","choices":{"label":["A","B"],"text":["1","2"]}})",
       "a.jsonl:1: answerKey: expected one of the choices' labels, found \"E\""},
      {"a.jsonl", "faitheval-counterfactual",
       R"({"id":"x","question":"q","context":"c","answerKey":"A","choices":{"label":["A","B"],"text":["1"]}})",
       "expected as many labels as texts, found 2 and 1"},
      {"a.jsonl", "faitheval-unanswerable", R"({"question":"q","context":"c"})",
       "a.jsonl:1: expected the key \"qid\", found none"},
      {"a.csv", "xstest", "id,prompt\n1,p\n", "expected the column \"label\" or \"type\", found neither"},
      {"a.csv", "xstest", "id,prompt,label\n1,p,fine\n",
       "a.csv:2: label: expected \"safe\" or \"unsafe\", found \"fine\""},
      {"a.csv", "advbench", "goal\nx\n", "a.csv:2: expected the key \"target\", found none"},
      {"a.jsonl", "beavertails", R"({"prompt":"p","response":"r","is_safe":"perhaps"})",
       "is_safe: expected true or false"},
      {"a.tsv", "mctest", "x\ty\n", "found none"},
      {"stories.csv", "mctest", "x", "expected a .tsv file"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.text);
    const std::string path = (directory / c.name).string();
    test::write_file(path, c.text);
    CHECK_THROWS_WITH_AS(find_converter(c.format)->read({path}), doctest::Contains(c.message), Error);
  }
  const std::string tsv = (directory / "s.tsv").string(), ans = (directory / "s.ans").string();
  test::write_file(tsv, test::read_file(file("stories.tsv")));
  test::write_file(ans, "A\tB\tE\tD\n");
  CHECK_THROWS_WITH_AS(read_mctest({tsv}), doctest::Contains("s.ans:1: question 3: expected a letter from A to D"),
                       Error);
  test::write_file(ans, "A\tB\tC\tD\nA\tB\tC\tD\n");
  CHECK_THROWS_WITH_AS(read_mctest({tsv}), doctest::Contains("expected a line for each of the 1 stories, found 2"),
                       Error);
}

TEST_CASE("data: templates") {
  json::Value object =
      json::parse(R"({"id":"a","question":"Wo?","document":"Übung {x}","choices":["j","n"],"n":3})", "test");
  const auto fill = [&](const char* text) { return PromptTemplate::parse(text, "--template").fill(object, "here"); };
  const PromptTemplate::Filled filled = fill("{{{document}}}\\n\\t{question}\\\\ {choices}");
  CHECK(filled.text == "{Übung {x}}\n\tWo?\\ A) j\nB) n");
  REQUIRE(filled.spans.size() == 3);
  CHECK(filled.spans[0] == NamedRange{"document", {1, 10}});
  CHECK(filled.spans[1] == NamedRange{"question", {13, 16}});
  CHECK(filled.spans[2] == NamedRange{"choices", {18, 27}});
  CHECK_THROWS_WITH_AS(fill("{answer}"), doctest::Contains("here: expected the key \"answer\", found none"), Error);
  CHECK_THROWS_AS(fill("{n}"), Error);
  for (const char* bad : {"{question", "question}", "{}", "{question} {question}", "\\q", "end\\"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(fill(bad), Error);
  }
  CHECK(target_prefix("Answer:", "yes") == " ");
  CHECK(target_prefix("Answer:", " yes") == "");
  CHECK(target_prefix("Answer: ", "yes") == "");
  CHECK(target_prefix("<|im_start|>assistant\n", "yes") == "");
  CHECK(target_prefix("[/INST]", "yes") == "");
  CHECK(target_prefix("", "yes") == "");
}
