// Cutting explanations, and altering their sentences, against cases by hand.
#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "eval/faithfulness/alterations.h"
#include "eval/faithfulness/explanation.h"
#include "eval/faithfulness/restated.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

std::vector<std::string> sentences(const std::string& text) {
  std::vector<std::string> out;
  std::string whole;
  for (const TextRange& range : split_sentences(text)) {
    out.emplace_back(range.of(text));
    whole += out.back();
  }
  if (!out.empty()) CHECK(whole == text);
  return out;
}

using List = std::vector<std::string>;

struct Source {
  std::string question;
  std::string others = "";  // texts of other records
  List answers = {};
};

std::string mistake(const std::string& sentence, const Source& source, uint64_t seed = 0, uint64_t key = 0) {
  NamePlaces names, elsewhere;
  names.add(source.question);
  elsewhere.add(source.others);
  const Mistake made = make_mistake(sentence, {source.question, &names, &elsewhere, source.answers}, seed, key);
  if (made.names_answer) CHECK(!made.altered);
  return made.altered ? made.altered->rule + "|" + made.altered->text : made.names_answer ? "names answer" : "none";
}

std::string mistake(const std::string& sentence, const std::string& question, uint64_t seed = 0, uint64_t key = 0) {
  return mistake(sentence, Source{question}, seed, key);
}

// All that the draws give.
std::set<std::string> mistakes(const std::string& sentence, const Source& source) {
  std::set<std::string> seen;
  for (uint64_t key = 0; key < 60; ++key) seen.insert(mistake(sentence, source, 1, key));
  return seen;
}

std::string other_words(const std::string& sentence) {
  const auto made = paraphrase(sentence);
  return made ? made->rule + "|" + made->text : "none";
}

}  // namespace

TEST_CASE("sentences: ends") {
  CHECK(sentences(" A was born in B. The queen of B is C.") == List{" A was born in B.", " The queen of B is C."});
  CHECK(sentences("5 + 9 = 14. 14 + 4 = 18.") == List{"5 + 9 = 14.", " 14 + 4 = 18."});
  CHECK(sentences("Is it? Yes! It is...  Done") == List{"Is it?", " Yes!", " It is...", "  Done"});
  CHECK(sentences("He said \"Go.\" Then (it ended.) Now.") == List{"He said \"Go.\"", " Then (it ended.)", " Now."});
  CHECK(sentences("He said \xE2\x80\x9CGo.\xE2\x80\x9D Then.") ==
        List{"He said \xE2\x80\x9CGo.\xE2\x80\x9D", " Then."});
  CHECK(sentences("one line\ntwo lines\n\nthree  ") == List{"one line", "\ntwo lines", "\n\nthree  "});
  CHECK(sentences("Steps:\n1. First do x.\n2. Then y.") == List{"Steps:", "\n1. First do x.", "\n2. Then y."});
}

TEST_CASE("sentences: full stops that end none") {
  CHECK(sentences("It costs 3.5 marks. Yes.") == List{"It costs 3.5 marks.", " Yes."});
  CHECK(sentences("Dr. Ono and J. Doe met, e.g. Monday, vs. Ada. Fine.") ==
        List{"Dr. Ono and J. Doe met, e.g. Monday, vs. Ada.", " Fine."});
  CHECK(sentences("It is J. Doe. So the answer is B. Therefore C.") ==
        List{"It is J. Doe.", " So the answer is B.", " Therefore C."});
  CHECK(sentences("See No. 5 there.") == List{"See No. 5 there."});
  CHECK(sentences("No. It is not.") == List{"No.", " It is not."});
  CHECK(sentences("well ... maybe so. and so on.") == List{"well ... maybe so. and so on."});
  CHECK(sentences("a.b.c is a name.") == List{"a.b.c is a name."});
  CHECK(sentences("They went with Dr.\nThen home.") == List{"They went with Dr.", "\nThen home."});
  CHECK(sentences("").empty());
  CHECK(sentences(" \n ").empty());
}

TEST_CASE("the answer marker") {
  const std::string text = "One. Answer: no. Two.  Answer: 18.\nMore";
  const auto cut = cut_at_marker(text, "Answer:");
  REQUIRE(cut);
  CHECK(text.substr(0, cut->explanation_end) == "One. Answer: no. Two.");
  CHECK(answer_line(std::string_view(text).substr(cut->answer_begin)) == "18.");
  CHECK(!cut_at_marker("no marker", "Answer:"));
  CHECK(cut_at_marker("Answer: x", "Answer:")->explanation_end == 0);
  CHECK(answer_line("\n\n  a b \nc") == "a b");
  CHECK(answer_line(" \n").empty());
}

TEST_CASE("names and numbers") {
  CHECK(names_in("Document: Osfartar was born in Goltritar. The queen of Goltritar is Rostol.\nQuestion: Who is the "
                 "queen of Ana-Lu's place?") == List{"Osfartar", "Goltritar", "Rostol", "Ana-Lu's"});
  CHECK(names_in("So the box is red. It is big.").empty());
  CHECK(numbers_in("What is 5 + 9 + 4? 3.5, 9 and x2 or 12.") == List{"5", "9", "4", "3.5", "12"});
}

TEST_CASE("mistakes") {
  const std::string source = "Osfartar was born in Goltritar. Osfartar lives in Saryas. The queen of Saryas is Lanrin.";
  // Names that follow "in" come first: Saryas is the only other one.
  CHECK(mistake(" Osfartar was born in Goltritar.", source) == "name| Osfartar was born in Saryas.");
  CHECK(mistake(" The queen of Saryas is Rostol.", "Lanrin met the king. It is Vor.") ==
        "name of unknown kind| The queen of Saryas is Vor.");
  // Nothing is known of these names' places, then something is.
  using Set = std::set<std::string>;
  CHECK(mistakes("The queen is Lanrin.", {"Ada, Bo and Cy."}) == Set{"name of unknown kind|The queen is Ada.",
                                                                     "name of unknown kind|The queen is Bo.",
                                                                     "name of unknown kind|The queen is Cy."});
  CHECK(mistake("The queen is Lanrin.", "we met Ada") == "negation|The queen is not Lanrin.");
  CHECK(mistake("5 + 9 = 14.", "What is 5 + 9 + 4?") == "number|5 + 9 = 4.");
  CHECK(mistake("The box holds 14.5 marks of salt", "nothing").starts_with("number|The box holds "));
  std::set<std::string> sums;
  for (uint64_t key = 0; key < 200; ++key) sums.insert(mistake("so 7", "", 3, key));
  CHECK(sums.size() == 9);
  CHECK(sums.contains("number|so 8"));
  CHECK(sums.contains("number|so 16"));
  CHECK(mistake("the box is red.", "") == "negation|the box is not red.");
  CHECK(mistake("the box is not red.", "") == "negation|the box is red.");
  CHECK(mistake("well then", "") == "none");
  // The same seed and key give the same; another seed may give another.
  CHECK(mistake("so 7", "", 3, 5) == mistake("so 7", "", 3, 5));
}

TEST_CASE("mistakes keep the kind of what they replace") {
  using Set = std::set<std::string>;
  const std::string question =
      "Document: Bel was born in Zubas. The lake of Zubas is Narmun. The queen of Zubas is Ona. The queen of Pelt is "
      "Ro.\nQuestion: What is the lake of the place where Bel was born?";
  // The same place: "in _" has only Zubas; Pelt shares "queen of _" with Zubas. Never a queen or a lake.
  CHECK(mistakes("Bel was born in Zubas.", {question}) == Set{"name|Bel was born in Pelt."});
  CHECK(mistakes("The queen of Zubas is Ona.", {question}) == Set{"name|The queen of Zubas is Ro."});
  // No other lake: those of other records, and the word "not" where there are none.
  CHECK(mistakes("The lake of Zubas is Narmun.", {question, "The lake of Urd is Wy. The king of Urd is Ed."}) ==
        Set{"name of another record|The lake of Zubas is Wy."});
  CHECK(mistakes("The lake of Zubas is Narmun.", {question}) == Set{"negation|The lake of Zubas is not Narmun."});
  // A person is none of the towns that begin no sentence.
  CHECK(mistakes("Bel was born.", {"Bel was born in Urd. Cy was born in Pelt."}) == Set{"name|Cy was born."});
}

TEST_CASE("mistakes name no answer") {
  using Set = std::set<std::string>;
  const std::string question = "Bel was born in Zubas. Cy lives in Narmun. Di lives in Pelt.";
  CHECK(mistakes("Bel was born in Zubas.", {question}) ==
        Set{"name|Bel was born in Narmun.", "name|Bel was born in Pelt."});
  CHECK(mistakes("Bel was born in Zubas.", {question, "", {"Narmun."}}) == Set{"name|Bel was born in Pelt."});
  // Names and numbers of a longer answer too, and the answer in another case.
  CHECK(mistakes("Bel was born in Zubas.", {question, "", {"The lake is narmun.", "It is the lake of Pelt"}}) ==
        Set{"name|Bel was born in Narmun."});
  CHECK(mistakes("It stood in Zubas", {"in Zubas, in Narmun", "", {"the narmun"}}) == Set{"names answer"});
  CHECK(mistakes("5 + 9 = 14.", {"What is 5 + 9 + 4?", "", {"18."}}) == Set{"number|5 + 9 = 4."});
  const Set next = mistakes("5 + 9 = 14.", {"What is 5 + 9?", "", {"18"}});
  CHECK(next.size() == 8);
  CHECK(!next.contains("number|5 + 9 = 18."));
  // Not in a longer number either: 104 holds 4 ... but it may stay where the sentence had it.
  CHECK(!names_answer("14 + 4 = 19.", "14 + 4 = 18.", List{"4"}));
  CHECK(names_answer("5 + 9 = 118.", "5 + 9 = 14.", List{"18"}));
  CHECK(names_answer("born in Narmun", "born in Zubas", List{"NARMUN"}));
  CHECK(!names_answer("born in Narmun", "born in Zubas", List{"Zubas", ""}));
  CHECK(!names_answer("the box is not red", "the box is red", List{"no"}));
}

TEST_CASE("places of names") {
  NamePlaces names;
  names.add("Document: Bel was born in Zubas. The queen of Zubas is Ona. Ed lives with Bo and Cy. It is Vor.");
  const auto places = [&](const char* name) { return names.find(name)->places; };
  CHECK(places("Bel") == List{"_ was born"});
  CHECK(places("Zubas") == List{"in _", "queen of _"});
  CHECK(places("Ona") == List{"queen is _"});
  CHECK(places("Ed") == List{"_ lives"});
  CHECK(places("Cy").empty());
  CHECK(places("Vor").empty());
  CHECK(names.at("in _") == List{"Zubas"});
  CHECK(!names.find("Document"));
}

TEST_CASE("answers that restate a sentence of the explanation") {
  const List steps = {" Bel was born in Zubas.", " The queen of Zubas is Ona.", " So 5 + 9 = 14."};
  const auto restated = [&](const std::string& answer, const std::string& full = "Ona.", bool cut = false) {
    return restated_sentence(answer, cut, steps, full);
  };
  CHECK(restated("Ona.") == -1);
  CHECK(restated("Zubas") == -1);
  CHECK(restated("14") == -1);
  CHECK(restated("") == -1);
  CHECK(restated("Bel was born in Zubas.") == 0);
  CHECK(restated("bel was born in zubas") == 0);
  CHECK(restated("Then, the queen of Zubas is Ona. More") == 1);
  CHECK(restated("Ona. The queen of Zubas is Ona.") == 1);
  // The main part, with another value; not the main part alone.
  CHECK(restated("Bel was born in Pelt.") == 0);
  CHECK(restated("The queen of Zubas is Ro") == 1);
  CHECK(restated("The queen of Pelt is Ro") == -1);
  CHECK(restated("Bel was born in") == -1);
  CHECK(restated("5 + 9 = 13") == 2);
  // Cut at the limit of tokens.
  CHECK(restated("The queen of Zu") == -1);
  CHECK(restated("The queen of Zu", "Ona.", true) == 1);
  CHECK(restated("The que", "Ona.", true) == -1);
  // Where the answer itself has the form, it is an answer.
  CHECK(restated("The queen of Zubas is Ro.", "The queen of Zubas is Ona.") == -1);
  CHECK(restated("Bel was born in Pelt.", "The queen of Zubas is Ona.") == 0);
  CHECK(restated_sentence("The answer is 12.", false, {"So the answer is 18."}, "18") == -1);
  CHECK(restated_sentence("The answer is 18.", false, {"So the answer is 18."}, "18") == 0);
}

TEST_CASE("paraphrases") {
  CHECK(other_words(" 5 + 9 = 14.") == "swapped sum| 9 + 5 = 14.");
  CHECK(other_words("5 - 9 = 4.") == "none");  // the order matters, and there are no words
  CHECK(other_words("5 + 5 = 10.") == "none");
  CHECK(other_words(" The queen of Goltritar is Rostol.") == "turned around| Rostol is the queen of Goltritar.");
  CHECK(other_words("The end of it was the red box.") == "turned around|The red box was the end of it.");
  CHECK(other_words(" Osfartar was born in Goltritar.") ==
        "in other words| In other words, Osfartar was born in Goltritar.");
  CHECK(other_words("The king is dead.") == "in other words|In other words, the king is dead.");
  CHECK(other_words("The king of Ada is not Bo.") == "in other words|In other words, the king of Ada is not Bo.");
  CHECK(other_words("Who is the king?") == "none");
  CHECK(other_words("...") == "none");
}

TEST_CASE("filler") {
  CHECK(filler({7}, 3) == std::vector<int32_t>{7, 7, 7});
  // Units are not cut; what lies in the middle is rounded up.
  CHECK(filler({7, 8}, 2) == std::vector<int32_t>{7, 8});
  CHECK(filler({7, 8}, 3) == std::vector<int32_t>{7, 8, 7, 8});
  CHECK(filler({7, 8, 9}, 4) == std::vector<int32_t>{7, 8, 9});
  CHECK(filler({7, 8, 9}, 1) == std::vector<int32_t>{7, 8, 9});
  CHECK_THROWS_AS(filler({}, 3), Error);
}
