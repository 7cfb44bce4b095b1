// The invented world of the built-in model: which sentences of a document answer a question. Sentences and questions
// are read by the forms that the world has, so evidence is exact and not a guess.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// "The river of X is Y.", "X lives in Y.", "Glimmer dust is found in Y.": what, of whom, and its value.
struct WorldFact {
  std::string relation, subject, value;
  bool operator==(const WorldFact&) const = default;
};
std::optional<WorldFact> parse_world_fact(std::string_view sentence);

// "What is the river of X?", "Who is the king of the place where X was born?": the relations that lead from the subject
// to the answer, in order.
struct WorldQuestion {
  std::string subject;
  std::vector<std::string> relations;
  bool operator==(const WorldQuestion&) const = default;
};
std::optional<WorldQuestion> parse_world_question(std::string_view question);

// A record of the world with its evidence. Tokens are words: what stands between spaces.
struct WorldRecord {
  std::string id, document, question, split;        // split: train, val or test
  std::vector<std::vector<std::string>> sentences;  // of the document, words each
  std::vector<std::string> choices;                 // " Y." each
  int64_t choice = 0;                               // the right one
  struct Evidence {
    int64_t sentence = 0, start = 0, end = 0;  // words [start, end) of the document
    std::string text;
  };
  std::vector<Evidence> evidence;  // one fact a relation, in the order of the question
};

// Of a record whose text has the lines "Document: ..." and "Question: ...". Its `choices` and `choice` where it has
// some; else the values of the document's facts, of which `answers` says the right one. Throws Error at the record: no
// such lines, a question or a chain of facts that the document does not have exactly once, or an answer that is not
// what the facts say.
WorldRecord world_record(const Record& record);

}  // namespace signalbox::eval
