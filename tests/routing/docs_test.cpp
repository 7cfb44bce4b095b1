// The pages of routing analyses do, as pasted and one behind the other, what they show.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/files.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

// docs/routing.md first, whose traces the others read; then that of similarity, whose traces checkpoints.md compares.
std::vector<std::string> pages() {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "docs/routing"))
    if (entry.path().filename() != "similarity.md") found.push_back("docs/routing/" + entry.path().filename().string());
  std::sort(found.begin(), found.end());
  found.insert(found.begin(), {"docs/routing.md", "docs/routing/similarity.md"});
  return found;
}

// How many lines stand indented behind a page's commands; each that was not printed fails.
size_t shown_lines(const std::string& page, const std::string& printed) {
  const size_t commands = page.find("```sh\n");
  REQUIRE(commands != std::string::npos);
  size_t begin = page.find("\n    ", commands), found = 0;
  REQUIRE(begin != std::string::npos);
  for (++begin; page.compare(begin, 4, "    ") == 0; ++found) {
    const size_t end = page.find('\n', begin);
    const std::string line = page.substr(begin + 4, end - begin - 4);
    CAPTURE(line);
    CHECK(("\n" + printed).find("\n" + line + "\n") != std::string::npos);
    begin = end + 1;
    if (page.compare(begin, 5, "\n    ") == 0) ++begin;  // a blank line between two blocks
  }
  return found;
}

}  // namespace

TEST_CASE("docs: routing, every page as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  TemporaryDirectory scratch;
  const std::string index = page_of("docs/routing.md");
  for (const std::string& name : pages()) {
    CAPTURE(name);
    const std::string page = page_of(name);
    const std::vector<std::string> blocks = fenced_blocks(page, "sh");
    REQUIRE(blocks.size() == 1);
    Ran ran = paste(blocks[0], scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    std::erase(ran.out, '\r');  // lines of tables end with it
    CHECK(shown_lines(page, ran.out) >= 3);
    if (name != "docs/routing.md") CHECK(index.find("](" + name.substr(5) + ")") != std::string::npos);
    for (const std::string& graph : fenced_blocks(page, "mermaid"))
      CHECK(graph == read_file(scratch / "tmp/routes/analysis/pipelines.mmd"));
  }
}
