// Whether an answer occurs in a longer text.
#pragma once
#include <string_view>

#include "base/namespaces.h"

namespace signalbox::eval {

inline constexpr const char* contains_rules_version = "contains 1";

// Whether `part` occurs in `text` as whole words, both normalised as for exact_match (normalize_answer). A word ends
// where white space, punctuation or another character that is no letter, digit or mark stands in the text as it was
// written, so "Paris" occurs in "Paris's" and "(Paris)" and not in "Parisian". Numbers are whole: a dot or comma
// between two digits joins them ("12" does not occur in "112", "12.5", "1,12" or "1,012"), and between two digits
// punctuation counts, commas aside ("1,000" is "1000"; "3.14" is not "314", "1/2" is not "12"). In scripts that are
// written without spaces (Han, kana, Thai, Lao, Myanmar, Khmer) a word may begin and end at every character. False
// where `part` normalises to nothing.
bool occurs(std::string_view text, std::string_view part);

}  // namespace signalbox::eval
