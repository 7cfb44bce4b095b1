#include "tests/docs.h"

#include <doctest/doctest.h>

#include <algorithm>

namespace signalbox::test {

namespace {

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

}  // namespace

std::string page_of(const std::string& file) { return read_file(source_dir() / file); }

std::vector<std::string> fenced_blocks(const std::string& page, const std::string& tag) {
  std::vector<std::string> blocks;
  const std::string open = "```" + tag + "\n";
  for (size_t at = page.find(open); at != std::string::npos;) {
    const size_t begin = at + open.size(), end = page.find("```", begin);
    REQUIRE(end != std::string::npos);
    blocks.push_back(page.substr(begin, end - begin));
    at = page.find(open, end + 3);
  }
  return blocks;
}

std::vector<std::string> indented_blocks(const std::string& page) {
  std::vector<std::string> blocks;
  bool inside = false;
  for (size_t at = 0; at < page.size();) {
    const size_t end = std::min(page.find('\n', at), page.size());
    const std::string line = page.substr(at, end - at);
    if (line.starts_with("    ")) {
      if (!inside) blocks.emplace_back();
      blocks.back() += line.substr(4) + "\n";
      inside = true;
    } else {
      inside = false;
    }
    at = end + 1;
  }
  return blocks;
}

Ran paste(std::string script, const std::filesystem::path& scratch) {
  const std::string out = (scratch / "out").string(), tmp = (scratch / "tmp").string();
  replace_all(script, "build/signalbox", "signalbox");
  replace_all(script, " /tmp/", " " + tmp + "/");
  replace_all(script, " out/", " " + out + "/");
  return run_command("(set -e; cd " + source_dir().string() + "; mkdir -p " + out + " " + tmp + "; signalbox() { " +
                     binary() + " \"$@\"; }\n" + script + ")");
}

}  // namespace signalbox::test
