// Every field of a request: what is taken, what is refused, and which field an error names.
#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/text.h"
#include "tests/serve/server_process.h"

namespace {

using namespace signalbox;
using namespace signalbox::test;

// Values of a field that are taken, and that are not. C completions, H chat.
struct FieldCase {
  const char* endpoints;
  const char* name;
  std::vector<const char*> good, bad;
};

const std::vector<FieldCase> field_cases = {
    {"CH", "temperature", {"0", "0.5", "2", "1.0", "null"}, {"-0.1", "2.1", "\"1\"", "true", "[]", "1e400"}},
    {"CH", "top_p", {"1", "0.1", "null"}, {"0", "-1", "1.1", "\"1\"", "false"}},
    {"CH", "top_k", {"0", "-1", "5", "null"}, {"-2", "1.5", "\"5\"", "true", "99999999999"}},
    {"CH", "seed", {"0", "-5", "9223372036854775807", "null"}, {"1.0", "\"1\"", "true", "9223372036854775808"}},
    {"CH", "n", {"1", "3", "null"}, {"0", "129", "1.0", "\"1\"", "true", "-1"}},
    {"CH", "max_tokens", {"1", "3"}, {"-1", "1.0", "\"1\"", "true", "100000", "0"}},
    {"H", "max_completion_tokens", {"2", "null"}, {"3", "-1", "\"2\"", "2.0"}},
    {"C", "max_completion_tokens", {}, {"2"}},
    {"CH",
     "stop",
     {"\"a\"", "[]", "[\"a\",\"b\",\"c\",\"d\",\"e\"]", "null"},
     {"\"\"", "[\"\"]", "5", "[5]", "{}", "[null]"}},
    {"C", "logprobs", {"0", "20", "null"}, {"21", "-1", "true", "1.0", "\"1\""}},
    {"H", "logprobs", {"true", "false", "null"}, {"1", "\"true\"", "0"}},
    {"H", "top_logprobs", {"null"}, {"0", "1", "21", "true", "\"1\""}},
    {"C", "top_logprobs", {}, {"1"}},
    {"C", "echo", {"true", "false", "null"}, {"1", "\"true\"", "[]"}},
    {"H", "echo", {}, {"true"}},
    {"CH",
     "logit_bias",
     {"{}", "{\"5\":1}", "{\"5\":-100,\"6\":100.0}", "null"},
     {"[]", "{\"a\":1}", "{\"5\":101}", "{\"-1\":1}", "{\"999999\":1}", "{\"5\":\"1\"}", "{\"5.0\":1}", "{\"05\":1}"}},
    {"CH", "stream", {"false", "null"}, {"1", "\"false\""}},
    {"CH", "stream_options", {"null"}, {"{}", "{\"include_usage\":true}", "[]", "{\"other\":1}"}},
    {"CH", "frequency_penalty", {"0", "0.0", "null"}, {"0.5", "3", "\"0\"", "false"}},
    {"CH", "presence_penalty", {"0", "-0.0", "null"}, {"-0.5", "-3", "\"0\""}},
    {"CH", "best_of", {"1", "null"}, {"2", "\"1\"", "1.0"}},
    {"CH", "suffix", {"null"}, {"\"a\"", "\"\""}},
    {"CH", "tools", {"[]", "null"}, {"[{}]", "{}", "\"a\""}},
    {"CH", "tool_choice", {"\"none\"", "null"}, {"\"auto\"", "5", "{}"}},
    {"CH",
     "response_format",
     {"{\"type\":\"text\"}", "null"},
     {"{\"type\":\"json_object\"}", "{}", "\"text\"", "{\"type\":\"json_schema\",\"json_schema\":{}}"}},
    {"CH", "num_beams", {"1", "null"}, {"2", "1.0"}},
    {"CH", "store", {"false", "null"}, {"true", "0"}},
    {"CH", "service_tier", {"\"auto\"", "\"default\"", "null"}, {"\"flex\"", "5"}},
    {"CH", "reasoning_effort", {"null"}, {"\"low\""}},
    {"CH", "parallel_tool_calls", {"true", "false", "null"}, {"1"}},
    {"CH", "user", {"\"x\"", "null"}, {"5"}},
    {"CH", "metadata", {"{}", "{\"a\":\"b\"}"}, {"[]"}},
    {"CH", "safety_identifier", {"\"x\""}, {"{}"}},
    {"CH", "prompt_cache_key", {"\"x\""}, {"1"}},
    {"CH", "ignore_eos", {"true", "false"}, {"1"}},
    {"CH", "return_token_ids", {"true", "false"}, {"\"a\""}},
    {"C", "add_special_tokens", {"true", "false"}, {"1"}},
    {"H", "add_generation_prompt", {"true", "false"}, {"1"}},
    {"H", "continue_final_message", {"false", "true"}, {"\"a\""}},
    {"H", "chat_template_kwargs", {"{}", "null"}, {"[]", "{\"no_such_name\":1}", "{\"messages\":[]}"}},
    {"CH",
     "signalbox",
     {"{}", "{\"edits\":[]}", "{\"id\":\"a\",\"hash\":false}", "{\"rows\":\"given\",\"points\":\"router.ids\"}",
      "{\"special\":\"template-only\",\"reasoning\":\"keep\"}", "null"},
     {"[]", "{\"edit\":[]}", "{\"edits\":{}}", "{\"edits\":[{\"op\":\"none\"}]}", "{\"points\":\"no.such\"}",
      "{\"rows\":\"some\"}", "{\"format\":5}", "{\"id\":\"\"}", "{\"hash\":1}", "{\"points\":\"attn.pattern\"}",
      "{\"edits\":[{\"op\":\"replay\",\"trace\":\"/etc/passwd\"}]}",
      "{\"edits\":[{\"op\":\"deactivate\",\"mode\":\"ban\",\"experts\":{\"from\":\"../rd.csv\",\"top\":1}}]}",
      "{\"edits\":[{\"op\":\"add\",\"point\":\"resid_out\",\"layers\":\"1\",\"vector\":\"a:b\",\"scale\":1}]}",
      "{\"edits\":[{\"op\":\"top_k\",\"k\":99}]}"}},
    {"CH", "max_new_tokens", {}, {"5"}},
    {"CH", "guided_json", {}, {"{}", "null"}},
    {"CH", "top_a", {}, {"0"}},
};

// Those that stand for the whole input.
const std::vector<FieldCase> input_cases = {
    {"C",
     "prompt",
     {"\"a\"", "[\"a\",\"b\"]", "[1,2]", "[[1,2],[3]]"},
     {"\"\"", "[]", "[[]]", "[\"a\",1]", "[1,\"a\"]", "[[1],\"a\"]", "[\"\"]", "[-1]", "[999999]", "[1.5]", "[true]",
      "5", "{}", "null", "[null]", "[[1,null]]", "[9223372036854775808]"}},
    {"H",
     "messages",
     {"[{\"role\":\"user\",\"content\":\"a\"}]",
      "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]",
      "[{\"role\":\"assistant\",\"content\":\"a\",\"refusal\":null,\"tool_calls\":[]},"
      "{\"role\":\"user\",\"content\":\"b\"}]"},
     {"[{\"role\":\"wizard\",\"content\":\"a\"}]", "[{\"role\":\"tool\",\"content\":\"a\"}]",
      "[{\"role\":\"user\",\"content\":\"a\",\"zz\":1}]", "[]", "\"a\"", "[5]", "[{}]",
      "[{\"role\":5,\"content\":\"a\"}]", "[{\"role\":\"user\",\"content\":5}]",
      "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]", "null"}},
    {"CH", "model", {"\"builtin\""}, {"\"other\"", "\"\"", "5", "null"}},
};

std::string body_of(bool chat, const std::string& name, const std::string& value) {
  std::string out = "{";
  const auto put = [&](const std::string& key, const std::string& text) {
    if (key == name) return;
    out += "\"" + key + "\":" + text + ",";
  };
  put("model", "\"builtin\"");
  if (name != "max_tokens") put("max_tokens", "2");
  put("temperature", "0");
  if (chat)
    put("messages", "[{\"role\":\"user\",\"content\":\"Question: hello\"}]");
  else
    put("prompt", "\"Once\"");
  return out + "\"" + name + "\":" + value + "}";
}

}  // namespace

TEST_CASE("serve: every field at its values: taken, or refused by name") {
  auto connection = std::make_unique<Connection>(shared_server().port());
  int64_t n = 0, n_on_connection = 0;
  const auto ask = [&](bool chat, const std::string& body) {
    if (++n_on_connection == 100) {
      connection = std::make_unique<Connection>(shared_server().port());
      n_on_connection = 1;
    }
    ++n;
    return connection->post(chat ? "/v1/chat/completions" : "/v1/completions", body);
  };
  for (const auto* list : {&field_cases, &input_cases})
    for (const FieldCase& field : *list)
      for (const char endpoint : std::string(field.endpoints)) {
        const bool chat = endpoint == 'H';
        for (const char* value : field.good) {
          const std::string body = body_of(chat, field.name, value);
          const HttpReply reply = ask(chat, body);
          CHECK_MESSAGE(reply.status == 200, (body + " " + reply.body));
        }
        for (const char* value : field.bad) {
          const std::string body = body_of(chat, field.name, value);
          const HttpReply reply = ask(chat, body);
          const bool other_model = std::string(field.name) == "model" && std::string(value) == "\"other\"";
          CHECK_MESSAGE(reply.status == (other_model ? 404 : 400), (body + " " + reply.body));
          if (std::string(value) == "1e400") continue;  // no JSON number
          const json::Value answer = reply.json();
          const json::Value& param = *answer.find("error")->find("param");
          // A field may be refused for what another says of it.
          const bool named =
              param.is_string() && (param.string().starts_with(field.name) ||
                                    (std::string(field.name) == "max_tokens" && std::string(value) == "100000"));
          CHECK_MESSAGE(named, (body + " " + reply.body));
          CHECK(answer.find("error")->find("type")->string() ==
                (other_model ? "not_found_error" : "invalid_request_error"));
        }
      }
  CHECK(n >= 250);
  for (const char* body : {"", "[]", "5", "{", "{\"a\":1,\"a\":2}", "{\"model\":\"\\ud800\"}", "nul"}) {
    const HttpReply reply = ask(false, body);
    CHECK(reply.status == 400);
    CHECK(reply.json().find("error")->find("code")->string() == "invalid_json");
  }
  CHECK(ask(false, std::string(40, '[') + std::string(40, ']')).status == 400);
}
