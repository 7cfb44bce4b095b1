// Contrast pairs and splits.
#include "eval/data/pairs.h"

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "eval/data/convert.h"
#include "eval/data/other_documents.h"
#include "eval/data/records.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

std::string file(const std::string& name) { return (test::source_dir() / "tests/data/files/").string() + name; }

std::vector<Row> rows(std::initializer_list<const char*> lines) {
  std::vector<Row> out;
  for (const char* line : lines) out.push_back({"line " + std::to_string(out.size() + 1), json::parse(line, "test")});
  return out;
}

std::string text(const Row& row, const char* key) {
  const json::Value* value = row.object.find(key);
  return value ? value->string() : "absent";
}

std::map<std::string, std::string> splits(const std::vector<Row>& records) {
  std::map<std::string, std::string> out;
  for (const Row& row : records) out[text(row, "id")] = text(row, "split");
  return out;
}

}  // namespace

TEST_CASE("data: pairs with and without the document") {
  const std::vector<Row> source = rows({R"({"id":"q","prompt":"x","question":"Wer?","document":"Jörg war es.",)"
                                        R"("answers":["Jörg"],"condition":"old","level":2})"});
  DocumentPairs options;
  options.target = true;
  const std::vector<Row> out = document_pairs(source, options).records;
  REQUIRE(out.size() == 2);
  CHECK(
      json::dump(out[0].object) ==
      R"({"id":"q/with_document","prompt":"Document: Jörg war es.\nQuestion: Wer?\nAnswer:",)"
      R"("spans":{"document":[10,22],"question":[33,37]},"question":"Wer?","document":"Jörg war es.",)"
      R"("answers":["Jörg"],"source_condition":"old","level":2,"condition":"with_document","pair":"q","target":" Jörg"})");
  CHECK(
      json::dump(out[1].object) ==
      R"({"id":"q/without_document","prompt":"Question: Wer?\nAnswer:",)"
      R"("spans":{"question":[10,14]},"question":"Wer?","document":"Jörg war es.",)"
      R"("answers":["Jörg"],"source_condition":"old","level":2,"condition":"without_document","pair":"q","target":" Jörg"})");
  check_records(out);
  CHECK_THROWS_WITH_AS(document_pairs(rows({R"({"id":"q","prompt":"x","question":"Wer?"})"}), options),
                       doctest::Contains("line 1: expected the key \"document\", found none"), Error);
  CHECK_THROWS_WITH_AS(
      document_pairs(rows({R"({"id":"q","prompt":"x","question":"Wer?","document":"d","answers":[]})"}), options),
      doctest::Contains("expected an answer to make the target of"), Error);
}

TEST_CASE("data: a third condition shows another record's document, each of them once") {
  // 60 documents of 20 to 79 letters; every third question has the answer that the next document holds.
  std::vector<Row> source;
  const auto document = [](int i) {
    return "N" + std::to_string(i) + " " + std::string(static_cast<size_t>(18 + i), 'x');
  };
  for (int i = 0; i < 60; ++i) {
    json::Value object = json::Value::object(), answers = json::Value::array();
    answers.push_back("n" + std::to_string(i % 3 == 0 ? (i + 1) % 60 : i) + ".");
    object.set("id", "q" + std::to_string(i)).set("prompt", "x").set("question", "Q" + std::to_string(i) + "?");
    object.set("document", document(i)).set("answers", answers).set("split", i % 2 ? "a" : "b");
    source.push_back({"line " + std::to_string(i), object});
  }
  DocumentPairs options;
  options.against = {Against::unrelated};
  options.seed = 3;
  const DocumentPairResult out = document_pairs(source, options);
  REQUIRE(out.records.size() == 180);
  check_records(out.records);
  std::set<std::string> used;
  int64_t sum = 0;
  for (int i = 0; i < 60; ++i) {
    const Row& third = out.records[static_cast<size_t>(3 * i + 2)];
    CHECK(text(third, "id") == "q" + std::to_string(i) + "/unrelated_document");
    CHECK(text(third, "pair") == text(out.records[static_cast<size_t>(3 * i)], "pair"));
    const int from = std::stoi(text(third, "document_of").substr(1));
    CHECK(from != i);
    CHECK(from % 2 == i % 2);
    CHECK((i % 3 != 0 || from != (i + 1) % 60));
    CHECK(text(third, "document") == document(from));
    CHECK(text(third, "prompt") == "Document: " + document(from) + "\nQuestion: Q" + std::to_string(i) + "?\nAnswer:");
    used.insert(text(third, "document_of"));
    sum += std::abs(static_cast<int64_t>(document(from).size()) - static_cast<int64_t>(document(i).size()));
    CHECK(std::abs(from - i) <= 2 * 15);
  }
  CHECK(used.size() == 60);
  CHECK(out.repeated == 0);
  CHECK(out.n_exchanged == 60);
  CHECK(out.mean_difference == doctest::Approx(static_cast<double>(sum) / 60));
  CHECK(dump_records(document_pairs(source, options).records) == dump_records(out.records));
  options.seed = 4;
  CHECK(dump_records(document_pairs(source, options).records) != dump_records(out.records));
}

TEST_CASE("data: what no exchange mends is told, what nothing mends is refused") {
  // Place 3 must get "three", so place 2 "two", place 0 "four" and place 1 "one": one way to exchange them all.
  std::vector<DocumentPlace> places = {{"line 1", "one", "a", {"Two!"}, ""},
                                       {"line 2", "two", "b", {}, ""},
                                       {"line 3", "three", "c", {"One", "four"}, ""},
                                       {"line 4", "four", "d", {"one", "TWO"}, ""}};
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const ExchangedDocuments out = exchange_documents(places, seed);
    CHECK(out.from == std::vector<size_t>{3, 0, 1, 2});
    CHECK(out.repeated == 0);
  }
  places[0].answers.push_back("four");  // now "three" is all that place 0 may get, too
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const ExchangedDocuments out = exchange_documents(places, seed);
    CHECK(out.from[0] == 2);
    CHECK(out.from[2] == 1);
    CHECK(out.from[3] == 2);
    CHECK(out.repeated == 1);
  }
  // A part of a word is not the word; neither the own text nor another document of the same question will do.
  CHECK(exchange_documents({{"1", "oneness", "a", {}, ""}, {"2", "two", "b", {"one"}, ""}}, 0).from ==
        std::vector<size_t>{1, 0});
  const auto refused = [](std::vector<DocumentPlace> list) {
    CHECK_THROWS_WITH_AS(exchange_documents(list, 0), doctest::Contains("expected another record's document"), Error);
  };
  refused({{"1", "one", "a", {}, ""}, {"2", "ONE", "b", {}, ""}});
  refused({{"1", "one", "a", {}, ""}, {"2", "two", "A?", {}, ""}});
  refused({{"1", "one", "a", {}, "x"}, {"2", "two", "b", {}, "y"}});
  refused({{"1", "one", "a", {}, ""}});
}

TEST_CASE("data: the own document with its words in another order") {
  const std::string text = "  Ann went\thome.\nThen Jörg slept. ";
  const std::string out = shuffled_words(text, 5, "q", "here");
  CHECK(out != text);
  CHECK(out == shuffled_words(text, 5, "q", "here"));
  CHECK(out != shuffled_words(text, 5, "r", "here"));
  const auto parts = [](const std::string& of, bool words) {
    std::multiset<std::string> found;
    std::string spaces, word;
    for (const char c : of + " ") {
      if (c == ' ' || c == '\t' || c == '\n') {
        if (!word.empty()) found.insert(word);
        word.clear();
        spaces += c;
      } else {
        word += c;
      }
    }
    return words ? found : std::multiset<std::string>{spaces};
  };
  CHECK(parts(out, true) == parts(text, true));
  CHECK(parts(out, false) == parts(text, false));
  CHECK(out.starts_with("  "));
  CHECK(shuffled_words("b a", 0, "q", "here") == "a b");
  CHECK_THROWS_WITH_AS(shuffled_words("no no", 0, "q", "here"), doctest::Contains("two different words"), Error);
}

TEST_CASE("data: third conditions of pairs that are there already") {
  const std::vector<Row> source = rows(
      {R"({"id":"1","prompt":"Document: Ann did.\nQuestion: Who?\nAnswer:","question":"Who?","document":"Ann did.",)"
       R"("answers":["Ann"],"condition":"with_document","pair":"p"})",
       R"({"id":"2","prompt":"Question: Who?\nAnswer:","question":"Who?","answers":["Eve"],"note":7,)"
       R"("condition":"without_document","pair":"p"})",
       R"({"id":"3","prompt":"Question: Where?\nAnswer:","condition":"without_document","pair":"q"})",
       R"({"id":"4","prompt":"Document: In Rom.\nQuestion: Where?\nAnswer:","question":"Where?",)"
       R"("document":"In Rom.","condition":"with_document","pair":"q"})"});
  DocumentPairs options;
  options.keep_pairs = true;
  options.against = {Against::unrelated, Against::shuffled};
  const std::vector<Row> out = document_pairs(source, options).records;
  REQUIRE(out.size() == 8);
  check_records(out);
  CHECK(json::dump(out[0].object) == json::dump(source[0].object));
  CHECK(json::dump(out[2].object) ==
        R"({"id":"p/unrelated_document","prompt":"Document: In Rom.\nQuestion: Who?\nAnswer:",)"
        R"("spans":{"document":[10,17],"question":[28,32]},"question":"Who?","answers":["Eve"],"note":7,)"
        R"("condition":"unrelated_document","pair":"p","document":"In Rom.","document_of":"q"})");
  CHECK(text(out[3], "prompt") == "Document: did. Ann\nQuestion: Who?\nAnswer:");
  CHECK(text(out[6], "question") == "Where?");  // which only the record with the document had

  const auto message = [&](size_t at, const char* key, json::Value value) {
    std::vector<Row> changed = source;
    changed[at].object.set(key, std::move(value));
    try {
      document_pairs(changed, options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message(0, "document", "Ann did it.").find("line 1: expected the prompt that the template makes") == 0);
  CHECK(message(1, "condition", "old").find("line 2: condition: expected \"with_document\" or") == 0);
  CHECK(message(1, "condition", "with_document").find("found two") != std::string::npos);
  CHECK(message(1, "pair", "r").find("line 1: expected records with and without the document in pair \"p\"") == 0);
}

TEST_CASE("data: completion pairs from both texts, from one, and from rows of one prompt") {
  const std::vector<Row> source = rows({R"({"id":"a","prompt":"P?","unsafe":"bad","safe":"good","topic":"t"})",
                                        R"({"id":"b","prompt":"P?","unsafe":"worse"})"});
  CompletionPairs options;
  const CompletionResult both = completion_pairs(source, options);
  REQUIRE(both.records.size() == 4);
  CHECK(json::dump(both.records[0].object) ==
        R"({"id":"a/unsafe","prompt":"P?","topic":"t","condition":"unsafe","pair":"a","target":" bad"})");
  CHECK(json::dump(both.records[1].object) ==
        R"({"id":"a/safe","prompt":"P?","topic":"t","condition":"safe","pair":"a","target":" good"})");
  CHECK(both.refusals == 1);
  CHECK(std::count(refusal_sentences().begin(), refusal_sentences().end(), text(both.records[3], "target").substr(1)) ==
        1);
  check_records(both.records);

  // The file has two unsafe answers and one safe one to one prompt, and a prompt with a safe answer only.
  std::vector<Row> beaver = read_beavertails({file("beavertails.jsonl")});
  PromptStyle plain;
  plain.plain = true;
  for (Row& row : beaver) row.object = place_prompt(row, plain);
  const CompletionResult out = completion_pairs(beaver, options);
  REQUIRE(out.records.size() == 4);
  CHECK(out.without_unsafe == 1);
  CHECK(out.refusals == 1);
  CHECK(text(out.records[0], "id") == "beavertails-1/unsafe");
  CHECK(text(out.records[0], "target") == " Mark the cards with a pin.");
  CHECK(text(out.records[1], "target") == " Count what has been played.");
  CHECK(text(out.records[1], "safe_id") == "beavertails-2");
  CHECK(text(out.records[2], "target") == " Look at the mirror behind them.");
  CHECK(out.records[0].object.find("response") == nullptr);
  check_records(out.records);

  options.safe = SafeSide::refusals;
  CHECK(completion_pairs(beaver, options).refusals == 2);
  options.safe = SafeSide::data;
  CHECK_THROWS_WITH_AS(completion_pairs(beaver, options), doctest::Contains("expected a safe completion"), Error);
}

TEST_CASE("data: refusal sentences are many, differ, and are used evenly in an order of the seed") {
  const std::vector<std::string>& sentences = refusal_sentences();
  CHECK(sentences.size() >= 24);
  std::set<std::string> openings, whole(sentences.begin(), sentences.end());
  for (const std::string& sentence : sentences) openings.insert(sentence.substr(0, sentence.find(' ')));
  CHECK(whole.size() == sentences.size());
  CHECK(openings.size() >= 20);  // no opening word gives the condition away

  std::vector<Row> source;
  for (int i = 0; i < 100; ++i) {
    json::Value object = json::Value::object();
    object.set("id", std::to_string(i)).set("prompt", "P?").set("unsafe", "u");
    source.push_back({"x", object});
  }
  const auto drawn = [&](uint64_t seed) {
    CompletionPairs options;
    options.seed = seed;
    std::vector<std::string> targets;
    for (const Row& row : completion_pairs(source, options).records)
      if (text(row, "condition") == "safe") targets.push_back(text(row, "target"));
    return targets;
  };
  const std::vector<std::string> first = drawn(0);
  CHECK(first == drawn(0));
  CHECK(first != drawn(1));
  std::map<std::string, int> counts;
  for (const std::string& target : first) ++counts[target];
  CHECK(counts.size() == sentences.size());
  for (const auto& [target, count] : counts) CHECK((count == 3 || count == 4));  // 100 over 32
}

TEST_CASE("data: splits keep together what belongs together and do not move") {
  std::vector<Row> source;
  const auto add = [&](const std::string& id, const char* key, const std::string& value, const std::string& story) {
    json::Value object = json::Value::object();
    object.set("id", id).set("prompt", "prompt " + id).set("story", story);
    if (key) object.set(key, value);
    source.push_back({id, object});
  };
  for (int i = 0; i < 400; ++i) {
    const std::string n = std::to_string(i);
    add("a" + n, "pair", "p" + n, "s" + std::to_string(i / 4));
    add("b" + n, "pair", "p" + n, "s" + std::to_string(i / 4));
    add("c" + n, nullptr, "", "t" + n);
    add("d" + n, "paraphrase_of", "c" + n, "t" + n);
  }
  SplitOptions options;
  options.fractions = {{"detect", 0.5}, {"tune", 0.2}, {"test", 0.3}};
  std::vector<Row> records = source;
  assign_splits(records, options);
  const auto split = splits(records);
  std::map<std::string, int> counts;
  for (int i = 0; i < 400; ++i) {
    const std::string n = std::to_string(i);
    CHECK(split.at("a" + n) == split.at("b" + n));
    CHECK(split.at("c" + n) == split.at("d" + n));
    ++counts[split.at("a" + n)];
    ++counts[split.at("c" + n)];
  }
  // 800 groups: five standard deviations of a binomial count are 71, 57 and 65.
  CHECK(std::abs(counts["detect"] - 400) < 71);
  CHECK(std::abs(counts["tune"] - 160) < 57);
  CHECK(std::abs(counts["test"] - 240) < 65);

  // The same whatever the order, and for fewer records.
  std::vector<Row> fewer(source.rbegin(), source.rbegin() + 800);
  assign_splits(fewer, options);
  for (const auto& [id, name] : splits(fewer)) CHECK(name == split.at(id));

  options.together = {"story"};
  records = source;
  assign_splits(records, options);
  const auto by_story = splits(records);
  for (int i = 0; i < 400; ++i)
    CHECK(by_story.at("a" + std::to_string(i)) == by_story.at("a" + std::to_string(i / 4 * 4)));

  CHECK_THROWS_WITH_AS(assign_splits(records, options), doctest::Contains("expected a record without a split"), Error);
  options.replace = true;
  options.seed = 1;
  assign_splits(records, options);
  CHECK(splits(records) != by_story);

  // The same prompt under two ids is one example.
  std::vector<Row> twins;
  for (int i = 0; i < 40; ++i) {
    json::Value object = json::Value::object();
    twins.push_back({"x", object.set("id", std::to_string(i)).set("prompt", "p" + std::to_string(i / 2))});
  }
  options = {};
  options.fractions = {{"detect", 0.5}, {"test", 0.5}};
  assign_splits(twins, options);
  for (int i = 0; i < 40; i += 2) CHECK(text(twins[i], "split") == text(twins[i + 1], "split"));
  std::vector<Row> single(twins.begin(), twins.begin() + 1);
  options.replace = true;
  CHECK_THROWS_WITH_AS(assign_splits(single, options), doctest::Contains("expected at least one record in it"), Error);
}
