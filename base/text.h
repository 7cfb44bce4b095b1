// Small texts: lists, quotes, numbers for people, and the ASCII part of characters.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace signalbox {

// "a, b, c": the items of a list with a separator between them. `text_of` makes the text of an item, or is the member
// that holds it.
template <class List, class TextOf = std::identity>
std::string joined(const List& list, std::string_view separator = ", ", TextOf text_of = {}) {
  std::string out;
  bool first = true;
  for (const auto& item : list) {
    if (!first) out += separator;
    first = false;
    out += std::invoke(text_of, item);
  }
  return out;
}

// In double quotes, as it is: for messages. (A function named `quoted` would lose to the standard one.)
std::string in_quotes(std::string_view text);

std::string short_number(double value);  // at most six figures: "0.25", "1e-05"
std::string gigabytes(int64_t bytes);    // "12.35 GB", of 10^9 bytes
std::string hex64(uint64_t value);       // 16 lower-case digits: how hashes of 64 bits are written

inline bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_ascii_capital(char c) { return c >= 'A' && c <= 'Z'; }
inline bool is_ascii_small(char c) { return c >= 'a' && c <= 'z'; }
inline bool is_ascii_letter(char c) { return is_ascii_capital(c) || is_ascii_small(c); }
inline bool is_json_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
inline bool is_ascii_space(char c) { return is_json_space(c) || c == '\f' || c == '\v'; }
// Without white space of ASCII at either end.
std::string_view trimmed(std::string_view text);
inline char ascii_lower(char c) { return is_ascii_capital(c) ? static_cast<char>(c + 32) : c; }
std::string ascii_lower(std::string_view text);

}  // namespace signalbox
