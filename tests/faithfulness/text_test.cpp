// Cutting explanations, and altering their sentences, against cases by hand.
#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "eval/faithfulness/alterations.h"
#include "eval/faithfulness/explanation.h"

using namespace signalbox;
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

std::string mistake(const std::string& sentence, const std::string& source, uint64_t seed = 0, uint64_t key = 0) {
  const auto made = make_mistake(sentence, source, seed, key);
  return made ? made->rule + "|" + made->text : "none";
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
        "name| The queen of Saryas is Vor.");
  // No other name follows "is": any other name of the source.
  std::set<std::string> seen;
  for (uint64_t key = 0; key < 40; ++key)
    seen.insert(mistake("The queen is Lanrin.", "we met Ada, Bo and Cy.", 1, key));
  CHECK(seen == std::set<std::string>{"name|The queen is Ada.", "name|The queen is Bo.", "name|The queen is Cy."});
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
  CHECK(filler({7, 8}, 3) == std::vector<int32_t>{7, 8, 7});
  CHECK(filler({7}, 0).empty());
  CHECK_THROWS_AS(filler({}, 3), Error);
}
