// UTF-8 and Python's str: every code point there and back, what is not valid, the classes and the final sigma.
#include "base/unicode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "base/sha256.h"
#include "base/utf8.h"

using namespace signalbox;

namespace {

bool is_surrogate(char32_t c) { return c >= 0xD800 && c < 0xE000; }

std::string lower(std::u32string_view text) { return to_utf8(lower_case(text)); }

}  // namespace

TEST_CASE("UTF-8: every code point there and back") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    std::string text;
    append_utf8(text, c);
    const bool valid = first_invalid_utf8(text) == std::string::npos;
    if (valid != !is_surrogate(c)) FAIL("valid: " << static_cast<uint32_t>(c));
    size_t pos = 0;
    if (next_code_point(text, pos) != c || pos != text.size()) FAIL("forwards: " << static_cast<uint32_t>(c));
    if (previous_code_point(text, pos) != c || pos != 0) FAIL("backwards: " << static_cast<uint32_t>(c));
    if (utf8_length(static_cast<unsigned char>(text[0])) != text.size() || count_code_points(text) != 1)
      FAIL("length: " << static_cast<uint32_t>(c));
    if (valid && to_utf8(code_points(text)) != text) FAIL("text: " << static_cast<uint32_t>(c));
  }
}

TEST_CASE("UTF-8: what is not valid") {
  for (const char* text : {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                           "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x82", "\xE2\x28\xA1"}) {
    CAPTURE(text);
    CHECK(first_invalid_utf8(std::string("ab") + text) == 2);
    size_t pos = 0;
    next_code_point(text, pos);  // stays within the text
    CHECK(pos <= std::string_view(text).size());
  }
  // Each byte of an ill-formed part, and each part.
  CHECK(to_utf8(code_points("a\xE2\x82z")) == "a\uFFFD\uFFFDz");
  std::string out;
  CHECK(append_lossy(out, "a\xE2\x82z\xE2\x82", true) == 4);
  CHECK(out == "a\uFFFDz");
  CHECK(utf8_prefix("a\u00e9\u20ac", 5) == "a\u00e9");
  CHECK(utf8_prefix("a\u00e9\u20ac", 2) == "a");
  CHECK(utf8_prefix("a\u00e9", 9) == "a\u00e9");
}

TEST_CASE("the case-ignorable code points are those of Unicode 14, and what Unicode 15 added") {
  struct Range {
    char32_t first, last;
  };
  // Unassigned in Unicode 14, case-ignorable in 15 (utf8proc 2.8): 105 code points.
  constexpr Range added[] = {{0x0ECE, 0x0ECE},   {0x10EFD, 0x10EFF}, {0x11241, 0x11241}, {0x11F00, 0x11F01},
                             {0x11F36, 0x11F3A}, {0x11F40, 0x11F40}, {0x11F42, 0x11F42}, {0x13439, 0x13440},
                             {0x13447, 0x13455}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E4EB, 0x1E4EF}};
  // DerivedCoreProperties 14.0, Case_Ignorable: 2602 of them; the hash is of their numbers, "27,2e,3a,...".
  std::string members;
  int n = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    const auto holds = [&](const Range& range) { return c >= range.first && c <= range.last; };
    if (!is_case_ignorable(c) || std::any_of(std::begin(added), std::end(added), holds)) continue;
    char number[16];
    std::snprintf(number, sizeof number, "%s%x", n++ > 0 ? "," : "", static_cast<unsigned>(c));
    members += number;
  }
  CHECK(n == 2602);
  CHECK(sha256_hex(members) == "53284d9921e77083b10bdec430bd043c8fe9224fe1c4b309321c9c1587a95593");
}

TEST_CASE("str.lower: final sigma and full mappings") {
  CHECK(lower(U"\u039F\u0394\u039F\u03A3") == "\u03BF\u03B4\u03BF\u03C2");
  CHECK(lower(U"\u03A3\u0391") == "\u03C3\u03B1");
  CHECK(lower(U"A\u03A3.") == "a\u03C2.");
  CHECK(lower(U"A\u03A3.B") == "a\u03C3.b");
  CHECK(lower(U"A'\u03A3") == "a'\u03C2");
  CHECK(lower(U"1\u03A3") == "1\u03C3");
  CHECK(lower(U"\u03A3") == "\u03C3");
  CHECK(lower(U"\u0130") == "i\u0307");
  CHECK(lower(U"\u00C4\u1E9E") == "\u00E4\u00DF");
}

TEST_CASE("str classes at their edges") {
  for (const char32_t c : {U'\t', U'\x1c', U'\x1f', U' ', U'\u0085', U'\u00a0', U'\u3000'}) CHECK(is_space(c));
  for (const char32_t c : {U'\x1b', U'\u200b', U'\u180e', U'\ufeff'}) CHECK(!is_space(c));
  CHECK((is_digit(U'\u00b2') && !is_decimal(U'\u00b2') && is_alnum(U'\u00b2')));
  CHECK((is_upper(U'\u2160') && is_lower(U'\u00aa') && is_title(U'\u01c5') && is_cased(U'\u01c5')));
  CHECK((is_word_character(U'_') && is_word_character(U'\u4e2d') && !is_word_character(U'-')));
  CHECK((is_line_break(U'\u2028') && !is_line_break(U'\t') && !is_printable(U'\u00ad') && is_printable(U' ')));
  std::string out;
  append_upper(U'\u00df', out);
  append_title(U'\u01c6', out);
  append_folded(U'\u00df', out);
  append_lower(U'\u0130', out);
  CHECK(out == "SS\u01c5ssi\u0307");
  CHECK(split_words(" a\tb\u00a0c\u3000\x1c d\u200b ") == std::vector<std::string>{"a", "b", "c", "d\u200b"});
}
