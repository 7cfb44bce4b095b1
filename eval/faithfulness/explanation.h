// Cutting what a model wrote into an explanation, its sentences, and an answer.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0, end = 0;
  std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
  bool operator==(const TextRange&) const = default;
};

// Words that begin English sentences and are no names: "The", "It", "So", "Therefore", ...
bool is_common_word(std::string_view word);

// Sentences of a text. Each has the white space before it, so that together they are the text; white space at the end
// belongs to the last. A sentence ends
//   - after '.', '!' or '?' (several, and closing quotes and brackets, count with it) before white space or the end,
//   and
//   - at a line end.
// A full stop does not end one when the word before it is an abbreviation (e.g., vs., Mr., Dr.; No. and Fig. before a
// number), a single capital letter that no common word follows ("J. Doe", but not "is B. The"), or a number that begins
// the sentence ("1. First"), or when a small letter follows. "3.5" has no white space inside. A text of white space has
// no sentences.
std::vector<TextRange> split_sentences(std::string_view text);

// An output cut at its answer marker.
struct CutText {
  size_t explanation_end = 0;  // bytes of the explanation; the white space before the marker is the marker's
  size_t answer_begin = 0;     // after the marker
};

// Cuts at the last occurrence of the marker ("Answer:"); nullopt where there is none.
std::optional<CutText> cut_at_marker(std::string_view text, std::string_view marker);

// The answer as it is compared: the first line that is not white space, without white space around it.
std::string answer_line(std::string_view text);

// Bytes of a text without the white space at its end.
size_t trimmed_size(std::string_view text);

}  // namespace signalbox::eval
