// Altered sentences of an explanation: mistakes, which should matter, and paraphrases, which should not. Made by small
// rules over the text, so that they need no other model and are the same for the same seed.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/faithfulness/names.h"

namespace signalbox::eval {

// A sentence and the rule that made it.
struct Altered {
  std::string text;
  std::string rule;
};

// What a mistake is made from.
struct MistakeSource {
  std::string_view question;               // text of the record: prompt or messages
  const NamePlaces* names = nullptr;       // of the question
  const NamePlaces* elsewhere = nullptr;   // of all records; null: none
  std::span<const std::string> answers{};  // that no mistake may name: the explanation's own, and the record's
};

struct Mistake {
  std::optional<Altered> altered;  // nullopt where no rule applies
  bool names_answer = false;       // and there were mistakes, all of which name an answer
};

// The sentence with one mistake that keeps the kind of what it replaces. The first rule that applies:
//   "number" (before "name" where the sentence has '=')  the sentence's last number becomes another number of the
//            question that the sentence does not have, or, where there is none, itself plus 1 .. 9
//   "name"   the sentence's last name becomes another name of the question that the sentence does not have and that
//            somewhere stands in the same place (names.h), else one that shares a place with the old name, else one
//            behind the same word
//   "name of another record"   as the first of these, from the other records
//   "name of unknown kind"     a name of the question where nothing is known of its places or of the sentence's
//   "number" as above
//   "negation" the first is, are, was, were, has, can, will or does gets "not"
// What would name an answer (names_answer below) is left out. Which one is drawn depends on (seed, key) alone.
Mistake make_mistake(std::string_view sentence, const MistakeSource& source, uint64_t seed, uint64_t key);

// Whether `altered` names one of the answers where `sentence` does not: the answer, normalised, as whole words; as it
// is written, in longer words too, where it is a number or has at least three characters; or one of its names and
// numbers.
bool names_answer(std::string_view altered, std::string_view sentence, std::span<const std::string> answers);

// The sentence in other words, its content kept. The first rule that applies:
//   "swapped sum"     "a + b = c." -> "b + a = c." (also *; two operands that differ)
//   "turned around"   "The R of X is Y." -> "Y is the R of X." (also was; one "is" or "was", Y one to three words)
//   "in other words"  "In other words, " before it, a leading common word in small letters
// nullopt for a question, or where there are no letters and no sum.
std::optional<Altered> paraphrase(std::string_view sentence);

// `unit` (the tokens of " ...") as often as comes nearest to so many tokens, once at least: a unit of several tokens is
// never cut. Throws Error for an empty unit.
std::vector<int32_t> filler(const std::vector<int32_t>& unit, size_t n_tokens);

}  // namespace signalbox::eval
