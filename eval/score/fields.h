// What scorers read of a record beyond the keys that every record may have (docs/scores.md lists them). A value of a
// wrong type throws Error at the record's place.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// Whether "answers" is given; an empty list says that the right answer is none (SQuAD v2).
bool has_answers(const Record& record);

// The supporting text: "document"; else the span "document" of a prompt; else what stands in the prompt (or in the last
// message of role user) between "Document:" and the last "Question:" behind it (the end, where there is none). nullopt:
// there is none.
std::optional<std::string> document_of(const Record& record);

// What the model would answer from memory: "memory", a string or a list of them. Empty when absent.
std::vector<std::string> memory_of(const Record& record);

// What a text should name, beside or in place of an answer: "keywords", a string or a list of them. Empty when absent.
std::vector<std::string> keywords_of(const Record& record);

// "choices" with at least two strings and "choice", the index of the right one. nullopt when either is absent.
struct Choices {
  std::vector<std::string> options;
  int64_t right = 0;
};
std::optional<Choices> choices_of(const Record& record);

// Whether the question has an answer: "answerable"; else by "answers": no when it is empty or all of it abstains ("I do
// not know."), yes when none of it abstains or refuses. nullopt otherwise.
std::optional<bool> answerable_of(const Record& record);

// Whether a refusal is expected: "harmful"; else by "answers": yes when all refuse ("I will not help with that."), no
// when there are some and none refuses. nullopt otherwise.
std::optional<bool> harmful_of(const Record& record);

// The id of the record that this one rephrases: "paraphrase_of". Empty when absent.
std::string paraphrase_of(const Record& record);

}  // namespace signalbox::eval
