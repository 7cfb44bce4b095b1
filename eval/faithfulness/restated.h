// Answers that are no answers: the model writes a sentence of its explanation again.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// The number, from 0, of the first of `sentences` that a sentence of `answer` restates; -1: none. Both are compared as
// words of SQuAD's normalisation, without a first word such as "so", "then" or "therefore". A sentence restates another
//   - whole: all words are the same, at least two; or
//   - in its main part: what stands before the sentence's last name or number (at least two words) stands at its
//     beginning too, and a word follows: another step of the same form, with another value ("The answer is ..." is no
//     step); or
//   - `cut` at the limit of tokens: all its words but the last, at least two, begin the other.
// A sentence whose whole or main part `full_answer` restates too is left out: there the answer itself has that form.
int restated_sentence(std::string_view answer, bool cut, const std::vector<std::string>& sentences,
                      std::string_view full_answer);

}  // namespace signalbox::eval
