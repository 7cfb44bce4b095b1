// Code points as Python's str sees them: classes, case mappings, white space. Templates are written for it, and scores
// must agree with published Python scripts. Categories are those of the installed utf8proc (2.8: Unicode 15), which
// agree with Python 3.11's on every code point of Unicode 14.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace signalbox {

bool is_space(char32_t c);       // str.isspace(), where split() splits
bool is_line_break(char32_t c);  // where str.splitlines() breaks
bool is_alpha(char32_t c);
bool is_alnum(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_printable(char32_t c);
bool is_word_character(char32_t c);     // \w of a regular expression: letters and numbers of any script, and '_'
bool is_ascii_punctuation(char32_t c);  // string.punctuation
bool is_cased(char32_t c);
bool is_case_ignorable(
    char32_t c);  // marks, format characters, modifiers, and the punctuation that stands inside words

// Full mappings as UTF-8 (U+00DF becomes SS), but for the sigma at the end of a word.
void append_upper(char32_t c, std::string& out);
void append_lower(char32_t c, std::string& out);
void append_title(char32_t c, std::string& out);
void append_folded(char32_t c, std::string& out);

// Whether a capital sigma ends a word and becomes U+03C2: a cased letter stands before it and none behind it,
// case-ignorable ones aside. Both functions give the next code point, walking away from the sigma.
using NextCodePoint = std::function<std::optional<char32_t>()>;
bool sigma_ends_word(const NextCodePoint& before, const NextCodePoint& behind);

// str.lower().
std::u32string lower_case(std::u32string_view text);

// ' '.join(text.split()).
std::u32string single_spaces(std::u32string_view text);

// text.split(): the parts between white space.
std::vector<std::string> split_words(std::string_view text);

}  // namespace signalbox
