// Abstention and refusal in a text, by phrases at word boundaries. The rules have versions; a run's manifest carries
// them, since a changed list changes rates. A phrase list is not a judge: docs/scores.md says what it gets wrong.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

inline constexpr const char* abstention_rules_version = "abstention 3";
inline constexpr const char* refusal_rules_version = "refusal 3";
inline constexpr const char* faitheval_rules_version = "faitheval 1.0";

// True when the text declines for want of knowledge ("I do not know", "the document does not mention it", "Unknown.").
// Looked for in the first three sentences, and in the final answer of a text that marks one. Never the bare word "not".
// What the text quotes does not count, nor what it presents as a draft ("Here is a letter: ...").
bool abstained(std::string_view text);

// True when the text declines to help ("Sorry, I cannot help with that", "I won't assist", "I must decline"). Looked
// for in the first three sentences, quotations and drafts aside as for abstained. Idioms are no refusals ("I cannot
// recommend it enough", "I can't help but smile").
bool refused(std::string_view text);

// FaithEval's own rules: whether one of its phrases is a substring of the text as its script normalises it. Not
// strict, "not" is one of them, so that "Notre Dame" and "It is not far" count as abstentions: for comparison with
// published numbers only.
bool abstained_by_faitheval(std::string_view text, bool strict);
bool conflict_by_faitheval(std::string_view text, bool strict);

}  // namespace signalbox::eval
