// Evidence of the built-in world: every form of its sentences and questions, and all of the held-out records.
#include <doctest/doctest.h>

#include "base/error.h"
#include "eval/rationale/conll.h"
#include "eval/rationale/eraser.h"
#include "eval/rationale/world_facts.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

TEST_CASE("world: sentences and questions by their forms") {
  CHECK(*parse_world_fact("The river of Zelwil is Yorurwen.") == WorldFact{"river", "Zelwil", "Yorurwen"});
  CHECK(*parse_world_fact("Drido lives in Rajarfar.") == WorldFact{"lives", "Drido", "Rajarfar"});
  CHECK(*parse_world_fact("Glimmer dust is found in Hesink.") == WorldFact{"found", "glimmer dust", "Hesink"});
  CHECK(*parse_world_fact("Glimmer dust is grey.") == WorldFact{"colour", "glimmer dust", "grey"});
  for (const char* other : {"The river of Zelwil is Yor urwen.", "The river of Zelwil is Yorurwen", "Drido lives in .",
                            "The moon of Zelwil is Yorurwen."}) {
    CAPTURE(other);
    CHECK(!parse_world_fact(other));
  }
  CHECK(*parse_world_question("Who is the king of Wilkipmir?") == WorldQuestion{"Wilkipmir", {"king"}});
  CHECK(*parse_world_question("Where was Osgol born? Answer in a sentence.") == WorldQuestion{"Osgol", {"born"}});
  CHECK(*parse_world_question("What is the river of the place where Ulti lives? Think step by step.") ==
        WorldQuestion{"Ulti", {"lives", "river"}});
  CHECK(!parse_world_question("Who is the river of Zelwil?"));
}

TEST_CASE("world: the held-out records have evidence that says their answer") {
  int64_t chains = 0;
  for (const char* file : {"choices", "two_hop", "grounded", "grounded_same", "two_hop_steps"})
    for (const Record& record :
         read_records((test::source_dir() / "tools/builtin/heldout" / (std::string(file) + ".jsonl")).string())) {
      Record plain = record;
      if (std::string(file) == "two_hop_steps") plain.answers.clear();  // whole arguments
      const WorldRecord world = world_record(plain);
      const std::string& last = world.evidence.back().text;
      const std::string answer = world.choices[static_cast<size_t>(world.choice)].substr(1);
      CHECK(last.find(answer.substr(1)) != std::string::npos);
      chains += world.evidence.size() == 2;
      // The words of the range are the sentence.
      std::vector<std::string> words;
      for (const auto& sentence : world.sentences) words.insert(words.end(), sentence.begin(), sentence.end());
      for (const WorldRecord::Evidence& one : world.evidence) {
        std::string text;
        for (int64_t w = one.start; w < one.end; ++w) text += (text.empty() ? "" : " ") + words[static_cast<size_t>(w)];
        CHECK(text == one.text);
      }
    }
  CHECK(chains > 100);
}

TEST_CASE("world: what a document does not say exactly once is refused") {
  const auto reason = [](const std::string& text, const std::string& answer) {
    json::Value object = json::Value::object();
    object.set("id", "a").set("prompt", text).set("answers", json::Value::array().push_back(answer));
    try {
      world_record(parse_record(object, "here"));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string question = "\nQuestion: What is the lake of Ab?";
  CHECK(reason("Document: The lake of Ab is Cd. The lake of Ef is Gh." + question, "Cd.").empty());
  CHECK(reason("Document: The lake of Ab is Cd. The lake of Ab is Gh." + question, "Cd.").find("found 2") !=
        std::string::npos);
  CHECK(reason("Document: The river of Ab is Cd. The lake of Ef is Gh." + question, "Cd.").find("found 0") !=
        std::string::npos);
  CHECK(reason("Document: The lake of Ab is Cd. The lake of Ef is Gh." + question, "Gh.").find("\"Cd.\"") !=
        std::string::npos);
  CHECK(reason("Document: The lake of Ab is Cd." + question, "Cd.").find("two choices") != std::string::npos);
}

TEST_CASE("conll: columns, comments, prefixes and brackets") {
  test::TemporaryDirectory scratch;
  const auto read = [&](const std::string& text, ConllColumns columns = {}) {
    test::write_file(scratch / "a.conll", text);
    return read_conll(scratch / "a.conll", columns);
  };
  const auto wnut = read("-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects VBZ O\n\n# id 1\nPeter NNP B-PER\n");
  REQUIRE(wnut.size() == 2);
  CHECK(wnut[0].words == std::vector<std::string>{"EU", "rejects"});
  CHECK(wnut[1].tags == std::vector<std::string>{"B-PER"});
  const auto wikiann = read("en:Rome\tB-LOC\nen:burns\tO\n");
  CHECK(wikiann[0].words == std::vector<std::string>{"Rome", "burns"});
  CHECK(read("en:Rome\tB-LOC\nburns\tO\n")[0].words[0] == "en:Rome");
  const auto brackets =
      read("doc 0 0 Al x (PERSON*\ndoc 0 1 Gore x *)\ndoc 0 2 ran x *\ndoc 0 3 UN x (ORG)\n", {4, -1});
  CHECK(brackets[0].words == std::vector<std::string>{"Al", "Gore", "ran", "UN"});
  CHECK(brackets[0].tags == std::vector<std::string>{"B-PERSON", "I-PERSON", "O", "B-ORG"});
  CHECK_THROWS_AS(read("word\n"), Error);
  CHECK_THROWS_AS(read("a B\n", {3, -1}), Error);
}
