// Letters and options read from text.
#include "eval/score/choices.h"

#include <doctest/doctest.h>

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using Texts = std::vector<std::string>;

namespace {

const std::vector<std::string> cities = {"London", "Paris", "New York", "York"};

int64_t chosen(const std::string& text, const std::vector<std::string>& choices = cities) {
  return parse_choice(text, choices).value_or(-1);
}

}  // namespace

TEST_CASE("letters in their usual dress") {
  for (const std::string& text : Texts{"B",
                                       " B ",
                                       "B.",
                                       "B)",
                                       "(B)",
                                       "[B]",
                                       "**B**",
                                       "*B*",
                                       "**B.**",
                                       "B. Paris",
                                       "B) Paris",
                                       "(B) Paris",
                                       "B: Paris",
                                       "B Paris",
                                       "B, because it is.",
                                       "B because it is.",
                                       "B is the right one.",
                                       "B is correct.",
                                       "\"B\"",
                                       "Option B",
                                       "option B.",
                                       "Choice (B)",
                                       "Answer: B",
                                       "Answer: (B)",
                                       "Answer B",
                                       "The answer is B",
                                       "The answer is B.",
                                       "The answer is (B) Paris.",
                                       "The correct answer is **B**.",
                                       "The answer is: B",
                                       "**Answer:** B",
                                       "Let me think. A is too small. Answer: B",
                                       "I would pick B.",
                                       "I choose B",
                                       "I think it is (B).",
                                       "My choice is B",
                                       "The correct option: **B**",
                                       "London is small.\nB) Paris",
                                       "Answer:\nB",
                                       "B\nA: that is London",
                                       "#### B",
                                       "<think>A or C?</think>B",
                                       "The right letter is B, not shown elsewhere."}) {
    CAPTURE(text);
    CHECK(chosen(text) == 1);
  }
  CHECK(chosen("A") == 0);
  CHECK(chosen("A.") == 0);
  CHECK(chosen("A because it is") == 0);
  CHECK(chosen("A London") == 0);
  CHECK(chosen("The answer is A") == 0);
  CHECK(chosen("D") == 3);
}

TEST_CASE("words that are no letters") {
  for (const std::string& text :
       Texts{"A good idea.", "A", "I think so.", "b", "a", "C", "E. coli", "A-level", "B's", "B.C. 44", "U.S.A.", "B+",
             "Because.", "AB", "I", "", "  ", "The answer is a mystery.", "Answer: A good one"}) {
    CAPTURE(text);
    const std::vector<std::string> two = {"yes", "no"};
    if (text == "A") {
      CHECK(chosen(text, two) == 0);
    } else {
      CHECK(chosen(text, two) == -1);
    }
  }
  CHECK(chosen("C is a programming language.") == -1);
  // With nine options, I is a letter; the pronoun is not.
  const std::vector<std::string> nine = {"1", "2", "3", "4", "5", "6", "7", "8", "9"};
  CHECK(chosen("I", nine) == 8);
  CHECK(chosen("I.", nine) == 8);
  CHECK(chosen("I think (C)", nine) == 2);
  CHECK(chosen("I do.", nine) == -1);
}

TEST_CASE("more than one letter is no choice") {
  for (const std::string& text :
       Texts{"A and B", "A or B", "A, B", "B/C", "(A) and (C)", "Answer: B or C", "The answer is A, B, and C.",
             "Maybe (A), maybe (C)", "It could be option A or option B"}) {
    CAPTURE(text);
    CHECK(chosen(text) == -1);
  }
}

TEST_CASE("the text of an option") {
  CHECK(chosen("Paris") == 1);
  CHECK(chosen("paris.") == 1);
  CHECK(chosen("The Paris") == 1);
  CHECK(chosen("It must be Paris, of course.") == 1);
  CHECK(chosen("The answer is Paris.") == 1);
  CHECK(chosen("New York") == 2);  // York is a part of it
  CHECK(chosen("It is New York, I believe.") == 2);
  CHECK(chosen("It is York, I believe.") == 3);
  CHECK(chosen("Either Paris or London.") == -1);
  CHECK(chosen("Paris\nQuestion: Is London larger?") == 1);  // the first line decides
  CHECK(chosen("London is small. The answer is Paris, not London.") == 1);
  CHECK(chosen("Parisian") == -1);
  CHECK(chosen("B. London") == 1);  // the letter decides
  CHECK(chosen("A good idea", {"A good idea", "A bad idea"}) == 0);
  CHECK(chosen("A bad idea.", {"A good idea", "A bad idea"}) == 1);
  CHECK(chosen("B", {"x", "C", "B"}) == -1);    // letter and text disagree
  CHECK(chosen("yes", {"yes", "Yes."}) == -1);  // two options of one text
  CHECK(chosen("x", {}) == -1);
}
