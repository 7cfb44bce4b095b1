// Generated prompts: their structure and answers, measured from the text.
#include "eval/data/structural.h"

#include <doctest/doctest.h>

#include <regex>
#include <set>

#include "eval/data/convert.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

std::string text(const Row& row, const char* key) {
  const json::Value* value = row.object.find(key);
  return value ? value->string() : "";
}

int64_t number(const Row& row, const char* key) { return row.object.find("structure")->find(key)->integer(); }

}  // namespace

TEST_CASE("data: structure is read from the text") {
  // By hand: Ann 4, Bob 5, Cid 1. Bob gives 2 to Cid (Bob 3, Cid 3). Ann gives all to Bob (Bob 7, one step of Ann's
  // count). Cid adds as many as Bob holds (Cid 10). Cid and Ann swap (Ann 10, Cid 0). Bob is set to Ann + 3 = 13.
  const std::string document =
      "Ann holds 4 beads. Bob holds 5 beads. Cid holds 1 beads. Dee holds 2 beads. Bob gives 2 of its beads to Cid. "
      "Ann gives all its beads to Bob. Cid adds as many beads as Bob holds. Cid and Ann swap their beads. "
      "Now Bob puts back all it has and takes 3 beads more than Ann holds.";
  const Structure bob = measure_structure(document, "How many beads does Bob hold at the end?", "test");
  CHECK(bob.answer == "13");
  CHECK(bob.entities == 4);
  CHECK(bob.recurring == 3);      // Dee comes once
  CHECK(bob.state_changes == 8);  // 2 + 2 + 1 + 2 + 1
  CHECK(bob.steps == 5);          // gift, all, adds, swap, set
  CHECK(measure_structure(document, "How many beads does Cid hold at the end?", "test").answer == "0");
  CHECK(measure_structure(document, "How many beads does Dee hold at the end?", "test").steps == 0);
  CHECK(measure_structure("Ann lives in Umb. The lake of Sol is Ros. The lake of Umb is Kip.",
                          "What is the lake of the place where Ann lives?", "test")
            .answer == "Kip.");
  CHECK(measure_structure("", "What is 3 + 4 + 5?", "test").answer == "12.");
  CHECK_THROWS_AS(measure_structure("Ann likes Bob.", "What is 1 + 1 + 1?", "test"), Error);
  CHECK_THROWS_AS(measure_structure("Ann holds 1 beads. Ann gives 2 of its beads to Bob.", "What is 1 + 1 + 1?", "t"),
                  Error);
}

TEST_CASE("data: generated prompts have the structure that was asked for") {
  for (const auto& [entities, steps, distractors] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{2, 1, 0}, {3, 4, 2}, {5, 9, 6}, {12, 24, 24}}) {
    StructuralOptions options;
    options.n = 60;
    options.entities = entities;
    options.steps = steps;
    options.distractors = distractors;
    std::set<std::string> documents, answers;
    for (const Row& row : structural_drafts(options)) {
      CAPTURE(text(row, "document"));
      const Structure s = measure_structure(text(row, "document"), text(row, "question"), "test");
      const int64_t bystanders = distractors > 0 ? 2 : 0;
      CHECK(s.entities == entities + bystanders);
      CHECK(s.recurring == s.entities);  // every entity comes again
      CHECK(s.steps == steps);
      CHECK(s.state_changes >= steps + 2 * distractors);
      CHECK(s.answer == row.object.find("answers")->items()[0].string());
      CHECK(number(row, "entities") == s.entities);
      CHECK(number(row, "steps") == s.steps);
      CHECK(number(row, "state_changes") == s.state_changes);
      // The gold chain is the document's own statements in their order, each with what follows from it.
      size_t at = 0;
      const auto& chain = row.object.find("steps")->items();
      CHECK(static_cast<int64_t>(chain.size()) == steps);
      for (const json::Value& step : chain) {
        const std::string statement = step.string().substr(0, step.string().find(" So "));
        const size_t found = text(row, "document").find(statement, at);
        REQUIRE(found != std::string::npos);
        at = found + statement.size();
      }
      documents.insert(text(row, "document"));
      answers.insert(s.answer);
    }
    CHECK(documents.size() == 60);
    CHECK(answers.size() > 5);
  }
}

TEST_CASE("data: distractors do not change the answer, seeds do change the prompts") {
  StructuralOptions options;
  options.n = 30;
  options.distractors = 4;
  for (const Row& row : structural_drafts(options)) {
    // Without its gifts, which only distractors make, the text gives the same answer.
    std::string document = text(row, "document"), kept;
    for (size_t at = 0; at < document.size();) {
      const size_t end = std::min(document.find(". ", at), document.size() - 1) + 1;
      const std::string sentence = document.substr(at, end - at);
      if (sentence.find(" gives ") == std::string::npos || sentence.find(" gives all ") != std::string::npos)
        kept += (kept.empty() ? "" : " ") + sentence;
      at = end + 1;
    }
    CHECK(kept != document);
    CHECK(measure_structure(kept, text(row, "question"), "test").answer ==
          row.object.find("answers")->items()[0].string());
  }
  const std::string first = dump_records(structural_drafts(options));
  CHECK(first == dump_records(structural_drafts(options)));
  StructuralOptions more = options, other = options;
  more.n = 31;
  CHECK(dump_records(structural_drafts(more)).starts_with(first));
  other.seed = 1;
  CHECK(first != dump_records(structural_drafts(other)));
}

namespace {

// As zlib.crc32, which keeps 16 of 100 names out of the built-in model's training (tools/builtin/world.py).
uint32_t crc32(const std::string& bytes) {
  uint32_t crc = ~0u;
  for (unsigned char c : bytes) {
    crc ^= c;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
  }
  return ~crc;
}

}  // namespace

TEST_CASE("data: prompts in the built-in model's wording use names it never saw") {
  // Python: zlib.crc32(b"Sultol") % 100, zlib.crc32(b"Velmor") % 100
  CHECK(crc32("Sultol") % 100 == 5);
  CHECK(crc32("Velmor") % 100 == 16);
  StructuralOptions options;
  options.n = 200;
  options.builtin = true;
  options.distractors = 3;
  int sums = 0, names = 0;
  for (const Row& row : structural_drafts(options)) {
    const Structure s = measure_structure(text(row, "document"), text(row, "question"), "test");
    CHECK(s.steps == 2);
    CHECK(s.answer == row.object.find("answers")->items()[0].string());
    sums += text(row, "domain") == "sum";
    if (text(row, "domain") == "two_hop") CHECK(s.entities == 8);  // 3 of the chain, then 2, 1 and 2 of further facts
    const std::string document = text(row, "document");
    static const std::regex word("[A-Z][a-z]+");
    for (std::sregex_iterator at(document.begin(), document.end(), word), end; at != end; ++at) {
      if (at->str() == "The") continue;
      CHECK(crc32(at->str()) % 100 < 16);
      ++names;
    }
  }
  CHECK(sums == 100);
  CHECK(names == 1000);  // two a sentence, five sentences a document
}

TEST_CASE("data: structures that cannot be are refused") {
  const auto bad = [](auto change) {
    StructuralOptions options;
    change(options);
    CHECK_THROWS_AS(structural_drafts(options), UsageError);
  };
  bad([](StructuralOptions& o) { o.entities = 6, o.steps = 4; });
  bad([](StructuralOptions& o) { o.entities = 1; });
  bad([](StructuralOptions& o) { o.n = 0; });
  bad([](StructuralOptions& o) { o.steps = 25; });
  bad([](StructuralOptions& o) { o.builtin = true, o.distractors = 4; });
}
