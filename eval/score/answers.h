// Short answers against what they should be: the normalisations and scores of published scripts, and where the final
// answer of a longer text stands.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/score/phrases.h"

namespace signalbox::eval {

// The normalisation of the SQuAD evaluation scripts (v1.1 and v2.0): lower case, ASCII punctuation removed, the words
// a, an and the dropped, runs of white space made one space. Unicode as Python 3 does it.
std::string normalize_answer(std::string_view text);

// The normalisation of FaithEval's script: as above, but punctuation (with the quotes U+2018, U+2019, U+00B4) becomes a
// space instead of vanishing.
std::string normalize_faitheval(std::string_view text);

// Exact match and F1 over tokens of normalised text, the best over the answers, as the SQuAD v2.0 script does it: an
// answer that normalises to nothing does not count, and where none is left the right answer is the empty text. On
// answers that do not normalise to nothing this is also what the v1.1 script does.
bool exact_match(std::string_view text, const std::vector<std::string>& answers);
double token_f1(std::string_view text, const std::vector<std::string>& answers);

inline constexpr const char* final_answer_rules_version = "final-answer 1";

// The final answer of a text that explains first. Rules, version 1: what "</think>" closes is left out. Then the last
// of the markers "answer:", "answer is" (any case, with "*" and "_" around, a colon after "is" allowed; "answer" begins
// a word) and "####" that text other than white space follows: the rest of its line, or of the next line that is not
// blank, without white space and "*" at its ends. A text without a marker is its own final answer, white space at the
// ends removed.
std::string answer_of(std::string_view text);
// Whether answer_of found a marker.
bool has_answer_marker(std::string_view text);

// The text behind the last "</think>"; all of it where there is none.
std::string_view after_thinking(std::string_view text);

// Whether the normalised `part` is not empty and stands in the normalised `text` as whole words.
bool holds_words(std::string_view text, std::string_view part);

}  // namespace signalbox::eval
