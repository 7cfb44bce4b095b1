// Whether an answer occurs in a longer text. contains_cases.jsonl is made by make_contains_cases.py.
#include "eval/score/contains.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "base/json.h"
#include "eval/score/scorer.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

Record with_keys(const std::string& more) {
  const std::string text = R"({"id": "r", "prompt": "Question?")" + (more.empty() ? "" : ", " + more) + "}";
  return parse_record(json::parse(text, "r.jsonl:1"), "r.jsonl:1");
}

std::optional<double> score_of(const char* name, const std::string& keys, const std::string& text) {
  const Record record = with_keys(keys);
  Sample sample;
  sample.has_text = true;
  sample.text = text;
  return find_scorer(name)->score(record, sample);
}

std::string lacking(const char* name, const std::string& keys) {
  try {
    return find_scorer(name)->lacks(with_keys(keys));
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("an answer occurs as whole words and whole numbers") {
  CHECK(occurs("The capital is Paris.", "Paris"));
  CHECK(occurs("It is (Paris)", "paris!"));
  CHECK(occurs("In Paris's heart", "Paris"));
  CHECK(occurs("\u201cParis\u201d", "Paris"));
  CHECK_FALSE(occurs("A Parisian scene", "Paris"));
  CHECK_FALSE(occurs("comparison", "Paris"));
  CHECK(occurs("the New York-based firm", "The New York"));
  CHECK_FALSE(occurs("the new Yorker", "New York"));
  CHECK(occurs("x=12.", "12"));
  for (const char* text : {"112", "120", "1,12", "12.5", "1,012", "0.12"}) {
    CAPTURE(text);
    CHECK_FALSE(occurs(text, "12"));
  }
  CHECK(occurs("about 1,000 of them", "1000"));
  CHECK_FALSE(occurs("314 of them", "3.14"));
  CHECK_FALSE(occurs("pages 1-2", "12"));
  CHECK(occurs("in 1/2 of all", "1/2"));
  // A mark belongs to its letter, and scripts without spaces have words anywhere.
  CHECK_FALSE(occurs("un cafe\u0301 noir", "cafe"));
  CHECK(occurs("un cafe\u0301 noir", "cafe\u0301"));
  CHECK(occurs("\u6771\u4eac\u306f\u9996\u90fd", "\u6771\u4eac"));
  // Nothing occurs nowhere.
  CHECK_FALSE(occurs("the", "the"));
  CHECK_FALSE(occurs("", "x"));
}

TEST_CASE("occurrences equal those of an implementation that tries every slice") {
  // SIGNALBOX_CONTAINS_CASES: another file of make_contains_cases.py, of more cases or another seed.
  const char* other = std::getenv("SIGNALBOX_CONTAINS_CASES");
  std::ifstream in(other ? std::filesystem::path(other) : test::source_dir() / "tests/score/contains_cases.jsonl");
  int n = 0, found = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const json::Value value = json::parse(line, "contains_cases.jsonl:" + std::to_string(n + 1));
    const json::Ref root(value, "contains_cases.jsonl");
    CAPTURE(line);
    CHECK(occurs(root.at("text").string(), root.at("part").string()) == root.at("occurs").boolean());
    found += root.at("occurs").boolean();
  }
  CHECK(n >= 260);
  CHECK(found > n / 4);
  CHECK(found < n - n / 4);
}

TEST_CASE("contains, contains_any and contains_all: what they look for") {
  const std::string gold = R"("answers": ["Paris", "the City of Light"])";
  CHECK(score_of("contains", gold, "I would say: the city of light!") == 1);
  CHECK(score_of("contains", gold, "I would say London.") == 0);
  CHECK(score_of("contains", gold, "") == 0);
  CHECK(score_of("contains", gold, "<think>Paris?</think>London.") == 0);
  CHECK(score_of("contains_any", gold, "Paris") == 1);
  CHECK(score_of("contains_all", gold, "Paris") == 0);
  CHECK(score_of("contains_all", gold, "Paris is the city of light.") == 1);
  const std::string both = gold + R"(, "keywords": ["Seine", "Eiffel Tower"])";
  CHECK(score_of("contains", both, "On the Seine.") == 0);
  CHECK(score_of("contains_any", both, "On the Seine.") == 1);
  CHECK(score_of("contains_any", both, "Paris") == 0);
  CHECK(score_of("contains_all", both, "On the Seine, by the Eiffel Tower") == 1);
  CHECK(score_of("contains_any", R"("keywords": "Seine")", "the seine") == 1);
  // Without answers there is nothing to look for; an answer that no text could be said to hold is refused.
  CHECK(lacking("contains", "") == "answers");
  CHECK(lacking("contains", R"("answers": [])") == "answers");
  CHECK_FALSE(score_of("contains", R"("answers": [])", "Paris").has_value());
  CHECK(lacking("contains_any", "") == "keywords or answers");
  CHECK(lacking("contains_any", R"("keywords": "x")") == "");
  CHECK(lacking("contains", R"("answers": ["Paris", "The."])") ==
        "r.jsonl:1: answers[1]: expected a text of more than punctuation, white space and articles, to look for, found "
        "\"The.\"");
  CHECK(lacking("contains_all", R"("keywords": [""])").find("keywords[0]: expected a text") != std::string::npos);
  CHECK(lacking("contains_all", R"("keywords": [1])").find("expected a string") != std::string::npos);
}
