// Pictures of characters: width, steps, shared columns, colour.
#include "tools/terminal/pictures.h"

#include <doctest/doctest.h>

#include <limits>

#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;

namespace {

size_t columns_of(const std::string& line) {
  size_t n = 0;
  for (const char c : line) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace

TEST_CASE("pictures: a character for each value, in steps of a quarter of the largest") {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const std::string text = character_map({{"layer 1", "a name that is far too long"},
                                          {{0, 0.25, 0.26, 0.5, 0.75, 0.76, 1}, {-1, -0.5, none, 0.1, 0, 0, -0.1}}},
                                         "%", {80, false});
  const std::vector<std::string> lines = test::lines_of(text);
  REQUIRE(lines.size() == 5);
  CHECK(lines[0] == "             0");
  CHECK(lines[1] == "layer 1      ·░▒▒▓██");
  CHECK(lines[2] == "a name that  #=·░··-");
  CHECK(lines[3] == "             · about 0  ░ 25 %  ▒ 50 %  ▓ 75 %  █ up to 100 %");
  CHECK(lines[4] == "             below 0:  - -25 %  = -50 %  % -75 %  # -100 %");
  CHECK(character_map({{"a"}, {{1}}}, "", {80, true}).find("\033[38;5;25m█\033[0m") != std::string::npos);
  CHECK(text.find('\033') == std::string::npos);
}

TEST_CASE("pictures: wide ones fit, by sharing columns or shortening bars") {
  std::vector<double> wide(256, 0.1);
  wide[255] = 1;
  for (const int width : {40, 80, 133}) {
    const std::string text = character_map({{"layer 1"}, {wide}}, "%", {width, false});
    const std::vector<std::string> lines = test::lines_of(text);
    CHECK(columns_of(lines[0]) <= static_cast<size_t>(width));
    CHECK(columns_of(lines[1]) <= static_cast<size_t>(width));
    CHECK(lines[1].ends_with("█"));  // the largest of those that share the last one
    CHECK(text.find("neighbours share a character") != std::string::npos);
    const std::vector<std::string> bars = test::lines_of(character_bars(
        {{"one", 1}, {"half", 0.5}, {"none", std::numeric_limits<double>::quiet_NaN()}}, 1, {width, false}));
    for (const std::string& line : bars) CHECK(columns_of(line) <= static_cast<size_t>(width));
    CHECK(bars[2] == "none         -");
    CHECK(columns_of(bars[0]) - columns_of(bars[1]) == (static_cast<size_t>(width) - 21) / 2);
  }
}

TEST_CASE("analyze: colours on a terminal alone, and not under NO_COLOR") {
  const test::TemporaryDirectory dir;
  const std::string analyze = test::binary() + " analyze " + (dir / "t").string() + " --tables balance --quiet";
  const std::string trace = test::binary() + " trace builtin --quiet --out " + (dir / "t").string() + " --input -";
  REQUIRE(test::run_command("echo '{\"id\":\"a\",\"prompt\":\"User: hello\"}' | " + trace).code == 0);
  const test::Ran piped = test::run_command(analyze);
  CHECK(piped.out.find("share of tokens that select each") != std::string::npos);
  CHECK(piped.out.find('\033') == std::string::npos);
  if (test::run_command("script --version").code != 0) {
    test::skip("no script(1), which makes a terminal");
    return;
  }
  const auto on_terminal = [&](const std::string& environment) {
    return test::run_command("env TERM=xterm-256color " + environment + " script -qec '" + analyze + "' /dev/null").out;
  };
  CHECK(on_terminal("").find("\033[38;5;") != std::string::npos);
  CHECK(on_terminal("NO_COLOR=1").find('\033') == std::string::npos);
}
