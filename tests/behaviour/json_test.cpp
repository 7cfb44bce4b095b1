// The strict JSON reader and its writer.
#include "base/json.h"

#include <doctest/doctest.h>

using namespace signalbox;

TEST_CASE("json: what strictness refuses") {
  for (const std::string& text : std::initializer_list<std::string>{
           "", "{", "{}x", "{} {}", "[1,]", "{\"a\":1,\"a\":2}", "{\"a\":{\"b\":1,\"b\":1}}", "1e999", "\"\xff\"",
           "\"\\ud800\"", "// c\n1", "nan", "01", std::string("{}\0x", 4), "\xef\xbb\xbf{}", std::string(200, '[')}) {
    CAPTURE(text);
    CHECK_THROWS_AS(json::parse(text, "file"), Error);
  }
}

TEST_CASE("json: bytes that are no UTF-8 are written as U+FFFD") {
  const json::Value value = json::Value::object().set(
      "donn\xe9"
      "es",
      "a\xff\"\xc3\xa9\xe2\x82");
  const std::string text = json::dump(value);
  CHECK(text ==
        "{\"donn\xef\xbf\xbd"
        "es\":\"a\xef\xbf\xbd\\\"\xc3\xa9\xef\xbf\xbd\"}");
  CHECK_NOTHROW(json::parse(text, "again"));
}

TEST_CASE("json: integers, reals and the way back") {
  const json::Value value = json::parse(
      R"({"a":1,"b":1.0,"c":-5,"d":18446744073709551615,"e":1000000000000000019884624838656,"f":0.1,"g":"é\n","h":[true,null]})",
      "file");
  CHECK(
      json::dump(value) ==
      R"({"a":1,"b":1.0,"c":-5,"d":18446744073709551615,"e":1000000000000000019884624838656,"f":0.1,"g":"é\n","h":[true,null]})");
  CHECK(json::parse(json::dump(value), "again") == value);
  const json::Ref root(value, "file");
  CHECK(root.at("a").size() == 1);
  CHECK_THROWS_WITH(root.at("b").size(), "file: b: expected an integer, found 1.0");
  CHECK_THROWS_AS(root.at("c").size(), Error);
  CHECK_THROWS_AS(root.at("d").integer(), Error);
  CHECK_THROWS_AS(root.at("e").integer(), Error);
  CHECK_THROWS_WITH(root.at("g").number(), "file: g: expected a number, found \"é\\n\"");
  CHECK_THROWS_WITH(root.at("h")[5], "file: h: expected an item 5, found 2 items");
  CHECK_THROWS_AS(root.reject_unknown({"a"}), Error);
  CHECK_FALSE(root.find("zz"));
}
