// Lists, quotes, numbers and ASCII.
#include "base/text.h"

#include <doctest/doctest.h>

#include <set>
#include <utility>
#include <vector>

using namespace signalbox;

TEST_CASE("lists") {
  CHECK(joined(std::vector<std::string>{}) == "");
  CHECK(joined(std::vector<std::string>{"a"}) == "a");
  CHECK(joined(std::set<std::string>{"b", "a", ""}) == ", a, b");
  CHECK(joined(std::vector<std::string_view>{"a", "b"}, " or ", in_quotes) == "\"a\" or \"b\"");
  const std::vector<std::pair<int, std::string>> pairs = {{1, "x"}, {2, "y"}};
  CHECK(joined(pairs, "; ", &std::pair<int, std::string>::second) == "x; y");
  CHECK(joined(pairs, ",", [](const auto& pair) { return std::to_string(pair.first); }) == "1,2");
}

TEST_CASE("numbers and letters") {
  CHECK(short_number(0.25) == "0.25");
  CHECK(short_number(1234567) == "1.23457e+06");
  CHECK(gigabytes(12'345'678'901) == "12.35 GB");
  CHECK(ascii_lower("AbZ\u00c4@[") == "abz\u00c4@[");
  for (int c = 0; c < 256; ++c) {
    const char byte = static_cast<char>(c);
    CHECK(is_ascii_letter(byte) == ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')));
    CHECK(is_ascii_space(byte) == (c == ' ' || (c >= 9 && c <= 13)));
  }
  CHECK(trimmed(" \t a b\r\n\v") == "a b");
  CHECK(trimmed(" \f ") == "");
  CHECK(trimmed("\u00a0x") == "\u00a0x");  // not of ASCII
}
