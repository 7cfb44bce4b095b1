// Code points as Python's str sees them: classes, case mappings, white space.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace signalbox::jinja {

// The code point at `pos` of valid UTF-8; moves `pos` past it.
char32_t decode(std::string_view text, size_t& pos);
void encode(char32_t c, std::string& out);
size_t count_code_points(std::string_view text);
bool valid_utf8(std::string_view text);

bool is_space(char32_t c);       // str.isspace
bool is_line_break(char32_t c);  // where str.splitlines breaks
bool is_alpha(char32_t c);
bool is_alnum(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_printable(char32_t c);
bool is_word(char32_t c);  // \w of a regular expression

// Full mappings (ß becomes SS); the sigma that ends a word is lower()'s concern.
void append_upper(char32_t c, std::string& out);
void append_lower(char32_t c, std::string& out);
void append_title(char32_t c, std::string& out);
void append_folded(char32_t c, std::string& out);
bool is_cased(char32_t c);
bool is_case_ignorable(char32_t c);

}  // namespace signalbox::jinja
