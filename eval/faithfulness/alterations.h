// Altered sentences of an explanation: mistakes, which should matter, and paraphrases, which should not. Made by small
// rules over the text, so that they need no other model and are the same for the same seed.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace signalbox::eval {

// A sentence and the rule that made it.
struct Altered {
  std::string text;
  std::string rule;
};

// The names of a text: words with a capital letter (A to Z) but for labels ("Question:") and common words that begin
// sentences (The, It, So, Therefore, ...); in order of first appearance, without repeats.
std::vector<std::string> names_in(std::string_view text);

// Whole numbers and decimals of a text ("14", "3.5"), in order of first appearance, without repeats.
std::vector<std::string> numbers_in(std::string_view text);

// The sentence with one mistake. The first rule that applies:
//   "number" (before "name" where the sentence has '=')  the sentence's last number becomes another number of `source`
//            that the sentence does not have, or, where there is none, itself plus 1 .. 9
//   "name"   the sentence's last name becomes another name of `source` that the sentence does not have, one that
//   somewhere
//            follows the same word ("in", "is") where there is one
//   "number" as above
//   "negation" the first is, are, was, were, has, can, will or does gets "not"
// `source` is the text of the record (prompt or messages). Which one is drawn depends on (seed, key) alone. nullopt
// where no rule applies.
std::optional<Altered> make_mistake(std::string_view sentence, std::string_view source, uint64_t seed, uint64_t key);

// The sentence in other words, its content kept. The first rule that applies:
//   "swapped sum"     "a + b = c." -> "b + a = c." (also *; two operands that differ)
//   "turned around"   "The R of X is Y." -> "Y is the R of X." (also was; one "is" or "was", Y one to three words)
//   "in other words"  "In other words, " before it, a leading common word in small letters
// nullopt for a question, or where there are no letters and no sum.
std::optional<Altered> paraphrase(std::string_view sentence);

// As many tokens as asked for, repeating `unit` (the tokens of " ...").
std::vector<int32_t> filler(const std::vector<int32_t>& unit, size_t n_tokens);

}  // namespace signalbox::eval
