// Scores of a text against what it should say.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace signalbox {

// Lower case (ASCII), punctuation removed, the words a, an and the dropped, runs of white space made one space: the
// normalisation of the SQuAD evaluation script.
std::string normalize_answer(std::string_view text);

// True when the normalised text equals one of the normalised answers.
bool exact_match(std::string_view text, const std::vector<std::string>& answers);

// True when the text declines for want of knowledge ("I do not know", "not mentioned", ...): phrases at a clause's
// beginning, version 1; never the bare word "not".
bool abstained(std::string_view text);

// True when the text declines to help ("Sorry, I cannot help", "I will not help", ...), version 1.
bool refused(std::string_view text);

}  // namespace signalbox
