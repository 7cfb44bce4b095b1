// The option that a text chooses in a multiple-choice question.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

inline constexpr const char* choice_rules_version = "choice 1";

// The 0-based index of the option that `text` chooses, or nullopt where none or more than one can be read. Options are
// lettered A, B, C, ... in capitals (at most 26 of them). Rules, version 1, the first that finds an option decides:
//   1. behind the last "answer:", "answer is" or "####" (answer_of), the letter or option text that begins there;
//   2. the letter that begins the whole text, or the option text that is its first line;
//   3. letters anywhere that are marked as such: in brackets or bold, "B)" at a line's beginning, or behind one of the
//      words answer, option, choice, letter, pick, choose, select, is: if all are the same;
//   4. the options whose normalised text stands in the text as whole words (one that is part of another does not
//      count beside it): if there is one.
// A letter is a capital that stands alone. A bare one at the beginning (1, 2) ends the text or line, is followed by
// punctuation or by a word such as "is" or "because", or repeats its option's text; so the article in "A good idea" and
// the pronoun in "I think" are no answers. A second letter joined by "and", "or", "," or "/" makes it more than one.
std::optional<int64_t> parse_choice(std::string_view text, const std::vector<std::string>& choices);

}  // namespace signalbox::eval
