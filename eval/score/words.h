// Text as Python's str sees it, for scores that must agree with published Python scripts: lower(), split() and the word
// characters of regular expressions. All take UTF-8; a byte that is not part of valid UTF-8 counts as U+FFFD.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace signalbox {

// Code points of UTF-8, and back.
std::u32string code_points(std::string_view text);
std::string to_utf8(std::u32string_view text);

// str.lower(): full mappings, U+0130 as two code points, a capital sigma at the end of a word as U+03C2.
std::u32string lower_case(std::u32string_view text);

bool is_space(char32_t c);              // str.isspace(), what split() splits at
bool is_word_character(char32_t c);     // \w: letters and numbers of any script, and '_'
bool is_ascii_punctuation(char32_t c);  // string.punctuation

// ' '.join(text.split()).
std::u32string single_spaces(std::u32string_view text);

// text.split(): the parts between white space.
std::vector<std::string> split_words(std::string_view text);

}  // namespace signalbox
