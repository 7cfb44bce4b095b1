// The page that the binary holds: one file that asks for no other, and the headers that let it do nothing else.
#include "tools/serve/page.h"

#include <doctest/doctest.h>

#include <string>

#include "base/base64.h"
#include "base/sha256.h"
#include "eval/report/page_data.h"
#include "tests/docs.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

size_t times(std::string_view text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

}  // namespace

TEST_CASE("page: one file of modules put together") {
  const std::string_view html = page().html;
  CHECK(html.size() <= 300000);
  CHECK(times(html, "<script") == 1);
  CHECK(times(html, "</script>") == 1);
  CHECK(times(html, "<style>") == 1);
  CHECK(times(html, "\nimport ") == 0);
  CHECK(times(html, "\nexport ") == 0);
  CHECK(times(html, "@SCRIPT@") + times(html, "@STYLE@") == 0);
  CHECK(times(html, "https://") + times(html, "http://") == 0);
  // Whatever CMake's lists make of brackets, semicolons and backslashes, the text went through as it was.
  CHECK(times(html, "const named = /^<[^<>\\s]+>$/;") == 1);
  CHECK(times(html, "'\\\\u") + times(html, "`\\\\u") >= 1);
  CHECK(times(html, "startPage(document.getElementById('page'));") == 1);
}

TEST_CASE("page: its policy names its script and its style, and nothing from elsewhere") {
  std::string policy;
  for (const auto& [name, value] : page().headers)
    if (name == "Content-Security-Policy") policy = value;
  const std::string_view html = page().html;
  const size_t script = html.find("<script type=\"module\">") + 22, style = html.find("<style>") + 7;
  CHECK(policy.starts_with("default-src 'none'; script-src 'self' 'sha256-"));
  CHECK(policy.find("unsafe") == std::string::npos);
  for (const std::string_view text :
       {html.substr(script, html.find("</script>") - script), html.substr(style, html.find("</style>") - style)}) {
    const std::string hex = sha256_hex(text);
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    CHECK(policy.find("'sha256-" + base64(bytes) + "'") != std::string::npos);
  }
}

TEST_CASE("docs: the page's command, as pasted") {
  const TemporaryDirectory scratch;
  const std::string text = page_of("docs/page.md");
  std::string printed;
  for (const std::string& block : indented_blocks(text)) {
    if (block.find("signalbox generate ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    printed += ran.out;
  }
  CHECK(printed.find("\"text\":\" Ethcas.") != std::string::npos);
}
