// docs/serving.md and the README: requests as pasted answer as they say.
#include "tests/docs.h"

#include <doctest/doctest.h>

#include "base/json.h"

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("docs: serving, as pasted" * doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  if (run_command("command -v curl").code != 0) return skip("curl is not there");
  const TemporaryDirectory scratch;
  for (const std::string& block : indented_blocks(page_of("docs/serving.md"))) {
    if (block.find("signalbox serve ") == std::string::npos) continue;
    const Ran ran = paste(block, scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
  }
  const auto answer = [&](const char* file) { return json::parse(read_file(scratch.path() / "tmp" / file), file); };
  const json::Value completion = answer("completion.json");
  CHECK(completion.find("choices")->items()[0].find("text")->string() == " a young crow named Voris walked to");
  const json::Value edited = answer("edited.json");
  CHECK(edited.find("choices")->items()[0].find("signalbox")->find("points")->find("router.original_ids"));
  for (const char* file : {"chat.txt", "branches.txt"}) {
    const std::string stream = read_file(scratch.path() / "tmp" / file);
    CHECK(stream.find("data: [DONE]") != std::string::npos);
  }
}

// The address of the README and of the page's last request is the port that a server without flags takes; here curl
// goes to a socket, whatever address it is given.
TEST_CASE("docs: requests to a server without flags, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  if (run_command("command -v curl").code != 0) return skip("curl is not there");
  const auto answer_of = [&](const std::string& page, const std::string& path) {
    const TemporaryDirectory scratch;
    std::string request;
    for (const std::string& block : indented_blocks(page_of(page)))
      if (block.find("curl -s http://127.0.0.1:8080" + path) != std::string::npos)
        request = block.substr(block.find("curl -s "));
    REQUIRE_MESSAGE(!request.empty(), page);
    const Ran ran = paste(
        "signalbox serve builtin --socket /tmp/serve/socket --exit-with-parent --quiet > /tmp/listening.txt &\n"
        "server=$!\n"
        "until grep -q listening /tmp/listening.txt; do sleep 0.05; done\n"
        "curl() { command curl --unix-socket /tmp/serve/socket \"$@\"; }\n" +
            request + "\nkill $server\n",
        scratch.path());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    return json::parse(ran.out, page);
  };
  const json::Value models = answer_of("docs/serving.md", "/v1/models");
  CHECK(models.find("data")->items()[0].find("id")->string() == "builtin");
  const json::Value completion = answer_of("README.md", "/v1/completions");
  const json::Value& choice = completion.find("choices")->items()[0];
  const TemporaryDirectory scratch;
  const std::string edits = R"('{"edits":[{"op":"deactivate","mode":"ban","experts":{"2":[1,3]}}]}')";
  const Ran ran = paste("echo " + edits + " > /tmp/ban.json\nsignalbox generate builtin --prompt 'Once upon a time' " +
                            "--max-tokens 9 --edits /tmp/ban.json --json --quiet",
                        scratch.path());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const json::Value printed = json::parse(ran.out, "generate");
  CHECK(choice.find("text")->string() == printed.find("text")->string());
  CHECK(choice.find("signalbox")->find("logits_hash")->string() == printed.find("logits_hash")->string());
}
