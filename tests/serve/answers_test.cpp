// What answers look like where there is no text, for those who take gzip, and what the log says of requests.
#include <doctest/doctest.h>

#include <set>
#include <string>

#include "base/text.h"
#include "tests/serve/server_process.h"
#include "tests/support.h"
#include "tools/serve/api_error.h"
#include "tools/serve/page.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

TEST_CASE("serve: tokens of a model without a tokenizer are told by their ids") {
  const TemporaryDirectory scratch;
  write_file(scratch / "spec.json", R"({"family":"mixtral","seed":2})");
  REQUIRE(run_command(binary() + " make-model " + (scratch / "spec.json").string() + " --quiet --out " +
                      (scratch / "m").string())
              .code == 0);
  const ServerProcess server((scratch / "m").string());
  Connection connection(server.port());
  for (const bool stream : {false, true}) {
    const HttpReply reply =
        connection.post("/v1/completions",
                        std::string(R"({"model":"m","prompt":[5,9],"max_tokens":3,"temperature":0,"ignore_eos":true,)"
                                    R"("echo":true,"logprobs":5,"stream":)") +
                            (stream ? "true}" : "false}"));
    REQUIRE_MESSAGE(reply.status == 200, reply.body);
    std::vector<std::string> tokens;
    const auto take = [&](const json::Value& answer) {
      const json::Value& found = *answer.find("choices")->items()[0].find("logprobs");
      if (found.is_null()) return;
      for (const json::Value& one : found.find("tokens")->items()) tokens.push_back(one.string());
      for (const json::Value& top : found.find("top_logprobs")->items()) {
        if (top.is_null()) continue;
        CHECK((top.members().size() == 5 || top.members().size() == 6));
        for (const auto& [name, value] : top.members()) CHECK(name.starts_with("token_id:"));
      }
    };
    if (stream)
      for (const std::string& event : reply.events())
        if (event != "[DONE]") take(json::parse(event, "event"));
    if (!stream) take(reply.json());
    REQUIRE(tokens.size() == 5);
    CHECK((tokens[0] == "token_id:5" && tokens[1] == "token_id:9"));
    CHECK(tokens[4].starts_with("token_id:"));
  }
  const HttpReply wrong = connection.post("/v1/completions", R"({"model":"m","prompt":"a"})");
  CHECK(wrong.status == 400);
}

TEST_CASE("serve: an end token that follows a scored prompt has its entry") {
  // What scores texts by echo throws the last entry away: one that was missing would cost the text's own last token.
  Connection connection(shared_server().port());
  std::string prompts;
  for (int i = 0; i < 50; ++i) prompts += (i > 0 ? ",[1,684," : "[1,684,") + std::to_string(300 + i) + "]";
  const HttpReply reply = connection.post(
      "/v1/completions", R"({"model":"builtin","prompt":[)" + prompts +
                             R"(],"max_tokens":1,"temperature":0,"echo":true,"logprobs":1,"logit_bias":{"2":100}})");
  REQUIRE_MESSAGE(reply.status == 200, reply.body);
  const json::Value answer = reply.json();
  REQUIRE(answer.find("choices")->items().size() == 50);
  CHECK(answer.find("usage")->find("completion_tokens")->integer() == 50);
  for (const json::Value& choice : answer.find("choices")->items()) {
    const json::Value &ours = *choice.find("signalbox"), &values = *choice.find("logprobs")->find("token_logprobs");
    CHECK(json::dump(*ours.find("token_ids")) == "[2]");
    CHECK(choice.find("finish_reason")->string() == "stop");
    REQUIRE(values.items().size() == 4);
    const json::Value line =
        connection
            .post("/signalbox/v1/score", R"({"record":{"tokens":)" + json::dump(*ours.find("prompt_token_ids")) + "}}")
            .json();
    for (size_t t = 0; t < 2; ++t) CHECK(values.items()[t + 1].real() == line.find("logprobs")->items()[t].real());
    CHECK(values.items()[3].real() < 0);
  }
}

TEST_CASE("serve: the page comes compressed to those who take it so") {
  Connection connection(shared_server().port());
  const auto get = [&](const std::string& accepted) {
    return connection.request("GET", "/", "", "Host: localhost\r\n" + accepted);
  };
  for (const char* accepted : {"Accept-Encoding: gzip, deflate, br\r\n", "Accept-Encoding: br;q=1.0, GZIP;q=0.8\r\n"}) {
    const HttpReply reply = get(accepted);
    CHECK(reply.field("content-encoding") == "gzip");
    CHECK((reply.body == page().gzip && reply.body.size() < page().html.size() / 2));
  }
  for (const char* accepted : {"", "Accept-Encoding: br, gzip;q=0\r\n", "Accept-Encoding: gzip;q=0.000\r\n"}) {
    const HttpReply reply = get(accepted);
    CHECK(reply.field("content-encoding").empty());
    CHECK((reply.body == page().html && reply.field("vary") == "Accept-Encoding"));
  }
  const TemporaryDirectory scratch;
  write_file(scratch / "page.gz", std::string(page().gzip));
  CHECK(run_command("gzip -dc " + (scratch / "page.gz").string()).out == page().html);
}

TEST_CASE("serve: the log has no texts unless it is asked for them") {
  if (run_command("command -v curl").code != 0) return skip("curl is not there");
  for (const bool asked : {false, true}) {
    const TemporaryDirectory scratch;
    write_file(scratch / "run.sh",
               "cd " + scratch.path().string() + "\n" + binary() + " serve builtin --socket made/s" +
                   (asked ? " --log-prompts" : "") +
                   " >out 2>log &\nuntil [ -s out ]; do sleep 0.02; done\n"
                   "curl -s --unix-socket made/s http://localhost/tokenize -H 'Content-Type: application/json' "
                   "-d '{\"prompt\": \"my\\nsecret\"}' >/dev/null\nkill $!\nwait $!\ncat log\n");
    const Ran ran = run_command("bash " + (scratch / "run.sh").string());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    CHECK((ran.out.find("secret") != std::string::npos) == asked);
    CHECK((ran.out.find(R"(POST /tokenize {"prompt":"my\nsecret"})") != std::string::npos) == asked);
    CHECK(ran.out.find("POST /tokenize 200") != std::string::npos);
  }
  CHECK(run_command(binary() + " serve builtin --log-prompts --quiet").code == 2);
}

TEST_CASE("serve: who may come again is told when") {
  const auto fields = [](const ApiError& error) {
    std::set<std::string> names;
    for (const auto& [name, value] : error_answer(error).fields) names.insert(name);
    return names;
  };
  CHECK(fields(ApiError(503, "server: stops", "", "shutdown")).contains("Retry-After"));
  CHECK(fields(ApiError(503, "took too long", "", "too_long")) == std::set<std::string>{"x-should-retry"});
  CHECK(fields(ApiError(500, "broken")) == std::set<std::string>{"x-should-retry"});
  CHECK(fields(ApiError(400, "wrong")).empty());
}
