// Normalisation, exact match, F1 and final answers. squad_cases.jsonl is made by make_squad_cases.py.
#include "eval/score/answers.h"

#include <doctest/doctest.h>

#include <fstream>

#include "base/json.h"
#include "base/unicode.h"
#include "base/utf8.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

std::string lower(const std::string& text) { return to_utf8(lower_case(code_points(text))); }

}  // namespace

TEST_CASE("text is lowered and split as Python does") {
  CHECK(lower("AbC") == "abc");
  CHECK(lower("ÉCOLE") == "école");
  CHECK(lower("İ") == "i\u0307");
  CHECK(lower("ẞ") == "ß");
  // A capital sigma at a word's end is another letter.
  CHECK(lower("ΟΔΟΣ") == "οδος");
  CHECK(lower("ΟΔΟΣ.") == "οδος.");
  CHECK(lower("Σ") == "σ");
  CHECK(lower("ΑΣΑ Σ'") == "ασα σ'");
  CHECK(lower("ΑΣ'Α") == "ασ'α");
  CHECK(split_words(" a\tb\u00a0c\u3000\x1c d\u200b ") == std::vector<std::string>{"a", "b", "c", "d\u200b"});
  CHECK(split_words(" \n").empty());
  CHECK(is_word_character(U'_'));
  CHECK(is_word_character(U'²'));
  CHECK(is_word_character(U'東'));
  CHECK_FALSE(is_word_character(0x301));
  CHECK_FALSE(is_word_character(U'–'));
  // Bytes that are no UTF-8 stand for U+FFFD each.
  CHECK(to_utf8(code_points("a\xff\xc3")) == "a\uFFFD\uFFFD");
}

TEST_CASE("answers are normalised as SQuAD's script does") {
  CHECK(normalize_answer(" The  Quick, brown fox! ") == "quick brown fox");
  CHECK(normalize_answer("A an the") == "");
  CHECK(normalize_answer("theatre") == "theatre");
  CHECK(normalize_answer("U.S.") == "us");
  CHECK(normalize_answer("the–end") == "–end");    // a dash is no ASCII punctuation, and a word's end
  CHECK(normalize_answer("the-end") == "theend");  // punctuation vanishes first
  CHECK(normalize_answer("“The” cat") == "“ ” cat");
  CHECK(normalize_answer("a_b") == "ab");
  CHECK(normalize_answer("a\u0301") == "\u0301");  // a combining mark ends the word
  CHECK(exact_match(" Narqui.", {"Narqui."}));
  CHECK(exact_match("the Narqui", {"Other", "narqui"}));
  CHECK_FALSE(exact_match("Narqui river", {"Narqui"}));
  CHECK_FALSE(exact_match("", {"Narqui"}));
}

TEST_CASE("F1 by hand, and questions without an answer") {
  CHECK(token_f1("the red house", {"red house"}) == 1);
  // 2 common of 3 and of 2: P = 2/3, R = 1.
  CHECK(token_f1("big red house", {"red house"}) == doctest::Approx(0.8));
  CHECK(token_f1("red", {"blue", "red house"}) == doctest::Approx(2.0 / 3));
  // Bags: one "red" of two counts.
  CHECK(token_f1("red red", {"red"}) == doctest::Approx(2.0 / 3));
  CHECK(token_f1("green", {"red"}) == 0);
  CHECK(token_f1("", {"red"}) == 0);
  // No answer: the empty text is right.
  CHECK(exact_match("", {}));
  CHECK(exact_match("The.", {}));
  CHECK(token_f1("", {}) == 1);
  CHECK(token_f1("red", {}) == 0);
  CHECK_FALSE(exact_match("red", {}));
  // An answer that is nothing but an article does not count beside others.
  CHECK_FALSE(exact_match("", {"the", "red"}));
  CHECK(exact_match("", {"the"}));
}

TEST_CASE("em and f1 equal the published rules on random text") {
  std::ifstream in(test::source_dir() / "tests/score/squad_cases.jsonl");
  int n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const json::Value value = json::parse(line, "squad_cases.jsonl:" + std::to_string(n + 1));
    const json::Ref root(value, "squad_cases.jsonl");
    CAPTURE(line);
    std::vector<std::string> answers;
    for (const json::Ref& answer : root.at("answers").items()) answers.push_back(answer.string());
    const std::string& text = root.at("text").string();
    CHECK(normalize_answer(text) == root.at("normal").string());
    CHECK(exact_match(text, answers) == (root.at("em").number() == 1));
    CHECK(token_f1(text, answers) == root.at("f1").number());
  }
  CHECK(n == 220);
}

TEST_CASE("FaithEval's normalisation puts spaces where punctuation was") {
  CHECK(normalize_faitheval("The well-known U.S._state") == "well known u s state");
  CHECK(normalize_faitheval("it’s ‘x‘y `so´") == "it s x y so");
  CHECK(normalize_faitheval("a-b") == "b");
}

TEST_CASE("the final answer of a text that explains") {
  CHECK(answer_of(" Paris. ") == "Paris.");
  CHECK(answer_of("X was born in Y. The queen of Y is Z. Answer: Z.") == "Z.");
  CHECK(answer_of("Answer: A1\nWait.\n**Answer:** B2") == "B2");
  CHECK(answer_of("**Final answer**: **Paris**") == "Paris");
  CHECK(answer_of("So the answer is 18.") == "18.");
  CHECK(answer_of("The answer is: 18\nQuestion: what else? ") == "18");
  CHECK(answer_of("ANSWER IS  x ") == "x");
  CHECK(answer_of("5 + 9 = 14\n#### 14") == "14");
  CHECK(answer_of("Answer:\n\n  Paris\nmore") == "Paris");
  CHECK(answer_of("Answer: Paris\nAnswer:") == "Paris");  // the last that text follows
  CHECK(answer_of("<think>Answer: no</think>\nParis") == "Paris");
  // No markers: words that only look like one.
  CHECK(answer_of("The answers: many") == "The answers: many");
  CHECK(answer_of("answer isolated") == "answer isolated");
  CHECK(answer_of("misanswer: x") == "misanswer: x");
  CHECK(answer_of("Answer:") == "Answer:");
  CHECK(answer_of("") == "");
  CHECK(has_answer_marker("Answer: x"));
  CHECK_FALSE(has_answer_marker("x"));
}

TEST_CASE("words of an answer stand in a text as a whole") {
  CHECK(holds_words("It was in 1912.", "1912"));
  CHECK_FALSE(holds_words("It cost 19120.", "1912"));
  CHECK(holds_words("The King of Spain", "king of the Spain"));
  CHECK_FALSE(holds_words("anything", "the"));
  CHECK_FALSE(holds_words("", "x"));
}
