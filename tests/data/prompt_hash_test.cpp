// When two prompts are the same, and which records are one example.
#include "eval/data/prompt_hash.h"

#include <doctest/doctest.h>

#include "eval/data/examples.h"
#include "tests/run/experiment_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

std::string of_line(const std::string& line) { return line_prompt_hash(quoted_json("{" + line + "}", "line")); }

std::string text(const std::vector<size_t>& roots) {
  std::string out;
  for (const size_t root : roots) out += std::to_string(root) + " ";
  return out;
}

std::string counted(const std::vector<std::string>& lines) {
  const PromptCopies copies = count_copies(records_of(lines));
  return std::to_string(copies.records) + " records, " + std::to_string(copies.named) + " named, " +
         std::to_string(copies.examples) + " examples, " + std::to_string(copies.copies) + " copies, " +
         std::to_string(copies.shared) + " shared, first " + copies.first;
}

}  // namespace

// Python 3.11: hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()
TEST_CASE("prompt hash: NFC and single blanks, as Python gives them") {
  CHECK(normal_prompt("What is  2 + 2?\n") == "What is 2 + 2?");
  CHECK(prompt_hash("What is  2 + 2?\n") == "38d46ad3618826cf660df542bcf13a3b92b61df92854e2723efcba659af53f4b");
  CHECK(prompt_hash("\t What is 2 + 2?") == prompt_hash("What is  2 + 2?\n"));
  CHECK(normal_prompt("Cafe\u0301\u00a0 \u2003o\u0308") == "Caf\u00e9 \u00f6");
  CHECK(prompt_hash("Cafe\u0301\u00a0 \u2003o\u0308") ==
        "aae21f16fe9f43acdb7fa24905a1239dcf9f91e83be14d56ef943f612c78bcb8");
  // Hangul is composed, marks are put in order, U+0344 comes apart, U+001C is white space.
  CHECK(prompt_hash("\u1100\u1161\u11a8 \u0344\u0315a\u0327\u0301\x1c b") ==
        "a3517da5aeceecc817fd4c12c88a8af42a862364dcc9d10ac228f9f10e19a263");
  CHECK(prompt_hash("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(prompt_hash("a") != prompt_hash("A"));
}

TEST_CASE("prompt hash: of prompts, messages and tokens of a line") {
  CHECK(of_line("'id': 'a', 'prompt': ' x  y ', 'target': 't'") == prompt_hash("x y"));
  CHECK(of_line("'tokens': [1, 2, 3]") == "fe2069cd8626fae46988c0d4c74a2bff42b334de3f7b43c9bc0de90b7c206c6e");
  const std::string messages = "98445c4005291b2b7cae9bef443b18a3440e743155b1e0951ebf9c02ce42d0de";
  CHECK(of_line("'messages': [{'role': 'user', 'content': 'a b'}]") == messages);
  CHECK(of_line("'messages': [{'content': ' a  b', 'role': 'user'}]") == messages);
  CHECK(of_line("'messages': [{'content': 'a b', 'role': 'system'}]") != messages);
  CHECK(of_line("'id': 'a'").empty());
}

TEST_CASE("prompt hash: a list holds each prompt once, and says nothing where one is unknown") {
  PromptList list;
  list.add(std::vector<std::string>{"a", "line"});
  list.add(std::vector<std::string>{"b"});
  list.add(std::vector<std::string>{"a", "line", "b"});
  json::Value summary = json::Value::object();
  list.put(summary);
  CHECK(json::dump(summary) == R"({"prompts":["a","b"],"prompt_aliases":["line"]})");
  PromptList again;
  again.add_summary(summary);
  json::Value copy = json::Value::object();
  again.put(copy);
  CHECK(copy == summary);
  again.add({});
  copy = json::Value::object();
  again.put(copy);
  CHECK(json::dump(copy) == "{}");
}

TEST_CASE("examples: pairs, paraphrases and copies, joined one through the other") {
  const std::vector<std::string> lines = {"'id': '0', 'prompt': 'd1 q', 'pair': 'p1'",
                                          "'id': '1', 'prompt': 'q', 'pair': 'p1'",
                                          "'id': '2', 'prompt': 'd2 q', 'pair': 'p2'",
                                          "'id': '3', 'prompt': ' q', 'pair': 'p2'",
                                          "'id': '4', 'prompt': 'r'",
                                          "'id': '5', 'prompt': 's', 'paraphrase_of': '4'",
                                          "'id': '6', 'prompt': 't', 'pair': 'p3'",
                                          "'id': '7', 'prompt': 's', 'pair': 'p3'",
                                          "'id': '8', 'prompt': 'u'",
                                          "'id': '9', 'prompt': 'v', 'paraphrase_of': 'elsewhere'",
                                          "'id': '10', 'prompt': 'w', 'paraphrase_of': 'elsewhere'"};
  CHECK(text(named_examples(records_of(lines))) == "0 0 2 2 4 4 6 6 8 9 9 ");
  CHECK(text(independent_examples(records_of(lines))) == "0 0 0 0 4 4 4 4 8 9 9 ");
  CHECK(counted(lines) == "11 records, 6 named, 4 examples, 0 copies, 4 shared, first 1");
}

TEST_CASE("examples: copies are told from pairs that share a side") {
  const std::vector<std::string> pair = {"'id': '0', 'prompt': 'd q', 'pair': 'p'",
                                         "'id': '1', 'prompt': 'q', 'pair': 'p'"};
  std::vector<std::string> lines = pair;
  CHECK(counted(lines) == "2 records, 1 named, 1 examples, 0 copies, 0 shared, first ");
  CHECK(copies_sentence(count_copies(records_of(lines))).empty());
  lines.insert(lines.end(), {"'id': '2', 'prompt': 'q ', 'pair': 'o'", "'id': '3', 'prompt': 'd  q', 'pair': 'o'"});
  CHECK(counted(lines) == "4 records, 2 named, 1 examples, 2 copies, 0 shared, first 2");
  CHECK(copies_sentence(count_copies(records_of(lines))) ==
        "2 of 4 tested records repeat the prompts of earlier ones under other ids (first: \"2\"). The results hold: "
        "intervals and p count records of one prompt as one example, which makes 1 of 2. To know more, add other "
        "prompts");
  lines.insert(lines.end(), {"'id': '4', 'prompt': 'e q', 'pair': 'n'", "'id': '5', 'prompt': 'q', 'pair': 'n'"});
  CHECK(counted(lines) == "6 records, 3 named, 1 examples, 2 copies, 2 shared, first 1");
  // Two sides of one pair with one prompt (a question and two answers) say nothing twice.
  CHECK(counted({"'id': '0', 'prompt': 'q', 'pair': 'p', 'target': 'a'",
                 "'id': '1', 'prompt': 'q', 'pair': 'p', 'target': 'b'"}) ==
        "2 records, 1 named, 1 examples, 0 copies, 0 shared, first ");
}
