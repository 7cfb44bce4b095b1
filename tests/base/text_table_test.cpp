// Columns of text on a terminal, names that are cut, tables that fit.
#include "base/text_table.h"

#include <doctest/doctest.h>

#include <set>
#include <sstream>

#include "base/display_width.h"

using namespace signalbox;
using Names = std::vector<std::string>;

namespace {

size_t widest_line(const std::string& text) {
  std::istringstream in(text);
  size_t widest = 0;
  for (std::string line; std::getline(in, line);) widest = std::max(widest, display_width(line));
  return widest;
}

TextTable results() {
  TextTable table({{"metric", false, true}, {"intervention", false, true}, {"n"}, {"baseline"}, {"difference"}, {"p"}});
  for (const char* metric : {"em", "f1"})
    for (const char* span : {"document", "question"})
      table.add({metric, std::string("mis/policy=next_best,span=") + span + ",fraction=0.25", "60", "0.500",
                 "-0.400 [-0.600, -0.200]", "0.0010"},
                std::string(span) == "document");
  return table;
}

}  // namespace

TEST_CASE("display width: East Asian letters, marks, emoji, controls, broken bytes") {
  CHECK(display_width("") == 0);
  CHECK(display_width("abc") == 3);
  CHECK(display_width("日本語") == 6);
  CHECK(display_width("ｱｲｳ") == 3);       // half-width
  CHECK(display_width("e\u0301a") == 2);  // an accent of its own
  CHECK(display_width("\u00e9") == 1);
  CHECK(display_width("😀!") == 3);
  CHECK(display_width("a\u200bb") == 2);  // zero-width space
  CHECK(display_width("a\tb\n") == 2);
  CHECK(display_width("a\xff\xfe") == 3);
  CHECK(display_width("\xe6\x97") == 2);  // the beginning of a character
  CHECK(padded("日", 4) == "日  ");
  CHECK(padded("7", 3, true) == "  7");
}

TEST_CASE("cut names: whole characters, the middle left out, different names stay different") {
  CHECK(beginning_of("日本語", 5) == "日本");
  CHECK(beginning_of("e\u0301a", 1) == "e\u0301");
  CHECK(end_of("abe\u0301", 1) == "e\u0301");
  CHECK(end_of("日本語", 3) == "語");
  CHECK(cut_in_the_middle("abcdefghij", 10) == "abcdefghij");
  CHECK(cut_in_the_middle("abcdefghijk", 10) == "abcd...ijk");
  CHECK(cut_in_the_middle("abcdefghijk", 4) == "abcd");
  CHECK(cut_names({"short", "a-rather-long-name"}, 9) == Names{"short", "a-r...ame"});
  const Names alike = {"begin/document/the end of it", "begin/question/the end of it", "begin/document/the end of it"};
  const Names cut = cut_names(alike, 12);
  CHECK(cut[0] == cut[2]);
  CHECK(cut[0] != cut[1]);
  CHECK(display_width(cut[0]) < display_width(alike[0]));
  CHECK(cut_names({"x1x", "x2x"}, 2) == Names{"x1", "x2"});
}

TEST_CASE("text tables: as they are where there is room") {
  TextTable table({{"name", false, true}, {"n"}});
  table.add({"a", "1"});
  table.add({"日本", "22"}, true);
  CHECK(table.text(0) == "name   n\na      1\n\n日本  22\n");
  CHECK(table.text(8) == table.text(0));
  CHECK(results().text(0) == results().text(200));
}

TEST_CASE("text tables: keys are cut, then columns go into blocks behind the keys") {
  for (const int width : {72, 80, 90, 100, 110}) {
    CAPTURE(width);
    const std::string text = results().text(width);
    CHECK(widest_line(text) <= static_cast<size_t>(width));
    // Nothing is lost, and the two spans stay apart.
    for (const char* part : {"baseline", "difference", "-0.400 [-0.600, -0.200]", "0.0010", "60"})
      CHECK(text.find(part) != std::string::npos);
    std::set<std::string> names;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);)
      if (line.starts_with("em  ") || line.starts_with("f1  ")) names.insert(line.substr(0, line.find("  ", 8)));
    CHECK(names.size() == 4);
  }
  // No keys to repeat: nothing is split.
  TextTable plain({{"a"}, {"b"}});
  plain.add({"11111", "22222"});
  CHECK(plain.text(5) == "    a      b\n11111  22222\n");
}
