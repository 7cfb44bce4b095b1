// HTTP gives the command line's bits, whatever else runs: tokens, log-probabilities, logits_hash, routes.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "base/safetensors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "probes/trace.h"
#include "tests/serve/server_process.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::probes;
using namespace signalbox::test;

const std::string ban = R"({"edits":[{"op":"deactivate","mode":"ban","experts":{"2":[1,3],"4":[0,7,9]}},)"
                        R"({"op":"misroute","policy":"random","tokens":{"phase":"generated"}}]})";

std::vector<json::Value> lines_of_command(const std::string& words, const std::string& input) {
  TemporaryDirectory scratch;
  write_file(scratch / "in", input);
  write_file(scratch / "edits.json", ban);
  std::string command = binary() + " " + words + " --quiet --json --threads 1 --input " + (scratch / "in").string();
  if (const size_t at = command.find("EDITS"); at != std::string::npos)
    command.replace(at, 5, (scratch / "edits.json").string());
  const Ran ran = run_command(command);
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  std::vector<json::Value> out;
  for (const std::string& line : lines_of(ran.out)) out.push_back(json::parse(line, "line"));
  return out;
}

struct Asked {
  std::string body;
  const json::Value* expected;  // a line of the command
};

// All of them, `at_once` at a time, in an order of their own.
std::vector<HttpReply> ask_all(const std::vector<Asked>& asked, size_t at_once, size_t stride) {
  std::vector<HttpReply> replies(asked.size());
  std::atomic<size_t> next{0};
  std::vector<std::thread> clients;
  for (size_t c = 0; c < at_once; ++c)
    clients.emplace_back([&] {
      Connection connection(shared_server().port());
      for (size_t i; (i = next++) < asked.size();) {
        const size_t at = i * stride % asked.size();
        replies[at] = connection.post("/v1/completions", asked[at].body);
      }
    });
  for (std::thread& client : clients) client.join();
  return replies;
}

std::string text_of(const json::Value& value) { return json::dump(value); }

// Streamed text and tokens of one choice, put together.
struct Streamed {
  std::string text, finish_reason, hash;
  std::vector<std::string> tokens;
  std::vector<double> log_probs;
  std::vector<int64_t> offsets;
  int64_t rows = 0;
  bool done = false, usage = false;
};

Streamed put_together(const HttpReply& reply, int64_t index, bool chat) {
  Streamed out;
  for (const std::string& event : reply.events()) {
    CHECK_FALSE(out.done);
    if (event == "[DONE]") {
      out.done = true;
      continue;
    }
    const json::Value chunk = json::parse(event, "event");
    const auto& choices = chunk.find("choices")->items();
    if (choices.empty()) out.usage = chunk.find("usage")->find("total_tokens")->integer() > 0;
    for (const json::Value& choice : choices) {
      if (choice.find("index")->integer() != index) continue;
      if (chat) {
        if (const json::Value* content = choice.find("delta")->find("content")) out.text += content->string();
      } else {
        out.text += choice.find("text")->string();
      }
      if (const json::Value* of = choice.find("logprobs"); of && !of->is_null() && !chat) {
        for (const json::Value& one : of->find("tokens")->items()) out.tokens.push_back(one.string());
        for (const json::Value& one : of->find("token_logprobs")->items())
          out.log_probs.push_back(one.is_null() ? 1 : one.real());
        for (const json::Value& one : of->find("text_offset")->items()) out.offsets.push_back(one.integer());
      }
      if (const json::Value* reason = choice.find("finish_reason"); reason && reason->is_string())
        out.finish_reason = reason->string();
      if (const json::Value* ours = choice.find("signalbox")) {
        if (const json::Value* hash = ours->find("logits_hash")) out.hash = hash->string();
        if (const json::Value* points = ours->find("points"))
          if (const json::Value* ids = points->find("router.ids")) out.rows += ids->find("shape")->items()[0].integer();
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("serve: tokens, log-probabilities and hashes are those of generate and score, whatever else runs") {
  const std::vector<std::string> texts = {"User: Question: hello",         "Once upon a time",
                                          "Who is the king of Parjarrin?", "A",
                                          "The capital of Velmora is",     "caf\xC3\xA9 \xF0\x9F\x98\x80 na\xC3\xAFve"};
  std::string records;
  for (size_t i = 0; i < 18; ++i)
    records += json::dump(json::Value::object()
                              .set("id", "r" + std::to_string(i))
                              .set("prompt", texts[i % texts.size()] + std::string(i / 6, '!'))) +
               "\n";
  const auto greedy = lines_of_command("generate builtin --max-tokens 9", records);
  const auto drawn =
      lines_of_command("generate builtin --max-tokens 9 --temperature 0.9 --top-p 0.95 --seed 7", records);
  const auto edited = lines_of_command(
      "generate builtin --max-tokens 9 --temperature 0.9 --top-p 0.95 --seed 7 --edits EDITS", records);
  const auto scored = lines_of_command("score builtin", records);

  std::vector<Asked> asked;
  for (size_t i = 0; i < greedy.size(); ++i) {
    const std::string start =
        "{\"model\":\"builtin\",\"prompt\":" + text_of(json::Value(texts[i % texts.size()] + std::string(i / 6, '!'))) +
        ",";
    const std::string id = "\"id\":\"r" + std::to_string(i) + "\"";
    const std::string sampling = "\"max_tokens\":9,\"temperature\":0.9,\"top_p\":0.95,\"seed\":7,";
    asked.push_back({start + "\"max_tokens\":9,\"temperature\":0,\"signalbox\":{" + id + "}}", &greedy[i]});
    asked.push_back({start + sampling + "\"signalbox\":{" + id + "}}", &drawn[i]});
    asked.push_back({start + sampling + "\"signalbox\":{" + id + "," + ban.substr(1) + "}", &edited[i]});
    asked.push_back(
        {start + sampling + "\"logprobs\":3,\"echo\":true,\"signalbox\":{" + id + ",\"points\":\"router.ids\"}}",
         &drawn[i]});
    asked.push_back({start + "\"max_tokens\":0,\"temperature\":0,\"logprobs\":1,\"echo\":true}", &scored[i]});
  }
  for (const size_t stride : {size_t{1}, size_t{37}}) {
    const std::vector<HttpReply> replies = ask_all(asked, 12, stride);
    for (size_t i = 0; i < asked.size(); ++i) {
      CAPTURE(asked[i].body);
      REQUIRE(replies[i].status == 200);
      const json::Value answer = replies[i].json();
      const json::Value& choice = answer.find("choices")->items().front();
      const json::Value& ours = *choice.find("signalbox");
      CHECK(ours.find("logits_hash")->string() == asked[i].expected->find("logits_hash")->string());
      if (i % 5 == 4) {
        const auto& values = choice.find("logprobs")->find("token_logprobs")->items();
        const auto& expected = asked[i].expected->find("logprobs")->items();
        REQUIRE(values.size() == expected.size() + 1);
        CHECK(values[0].is_null());
        for (size_t t = 0; t < expected.size(); ++t) CHECK(values[t + 1].real() == expected[t].real());
        continue;
      }
      CHECK(text_of(*ours.find("token_ids")) == text_of(*asked[i].expected->find("tokens")));
      const std::string front = i % 5 == 3 ? texts[i / 5 % texts.size()] + std::string(i / 5 / 6, '!') : "";
      CHECK(choice.find("text")->string() == front + asked[i].expected->find("text")->string());
    }
  }
  CHECK(shared_server().metric("signalbox_banned_expert_violations_total") == 0);
}

TEST_CASE("serve: arrays of log-probabilities have an entry for every token, in the places of its text") {
  Connection connection(shared_server().port());
  const std::vector<std::string> texts = {"Once upon", "caf\xC3\xA9 \xF0\x9F\x98\x80 x", "A",
                                          "\xE6\xBC\xA2\xE5\xAD\x97"};
  std::vector<std::string> prompts;
  for (const std::string& text : texts) prompts.push_back(text_of(json::Value(text)));
  prompts.push_back("[1,289,28,313]");
  prompts.push_back("[7]");
  for (const std::string& prompt : prompts)
    for (const char* max_tokens : {"0", "1", "8"}) {
      const std::string fields = "{\"model\":\"builtin\",\"prompt\":" + prompt + ",\"max_tokens\":" + max_tokens +
                                 ",\"temperature\":0,\"logprobs\":5,\"echo\":true,\"return_token_ids\":true";
      const HttpReply reply = connection.post("/v1/completions", fields + "}");
      CAPTURE(fields);
      REQUIRE(reply.status == 200);
      const json::Value answer = reply.json();
      const json::Value& choice = answer.find("choices")->items().front();
      const json::Value& of = *choice.find("logprobs");
      const size_t n = choice.find("prompt_token_ids")->items().size() + choice.find("token_ids")->items().size();
      CHECK(static_cast<int64_t>(choice.find("token_ids")->items().size()) ==
            answer.find("usage")->find("completion_tokens")->integer());
      const std::string& text = choice.find("text")->string();
      const std::u32string points = code_points(text);
      int64_t last = 0;
      for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
        REQUIRE(of.find(name)->items().size() == n);
      for (size_t t = 0; t < n; ++t) {
        const int64_t offset = of.find("text_offset")->items()[t].integer();
        const std::string& token = of.find("tokens")->items()[t].string();
        CHECK(offset >= last);
        CHECK(offset <= static_cast<int64_t>(points.size()));
        if (!token.starts_with("bytes:")) CHECK(to_utf8(points.substr(static_cast<size_t>(offset))).starts_with(token));
        last = offset;
        const json::Value& value = of.find("token_logprobs")->items()[t];
        const json::Value& top = of.find("top_logprobs")->items()[t];
        CHECK(value.is_null() == (t == 0));
        CHECK(top.is_null() == (t == 0));
        if (t == 0) continue;
        REQUIRE(top.find(token));
        CHECK(top.find(token)->real() >= value.real());
        CHECK(top.members().size() <= 6);
      }
      // A stream says the same in pieces.
      const HttpReply stream = connection.post("/v1/completions", fields + ",\"stream\":true}");
      const Streamed streamed = put_together(stream, 0, false);
      CHECK(stream.whole);
      CHECK(streamed.done);
      CHECK(streamed.text == text);
      CHECK(streamed.hash == choice.find("signalbox")->find("logits_hash")->string());
      REQUIRE(streamed.tokens.size() == n);
      for (size_t t = 0; t < n; ++t) {
        CHECK(streamed.tokens[t] == of.find("tokens")->items()[t].string());
        CHECK(streamed.offsets[t] == of.find("text_offset")->items()[t].integer());
        if (t > 0) CHECK(streamed.log_probs[t] == of.find("token_logprobs")->items()[t].real());
      }
    }
}

TEST_CASE("serve: streams, batches, samples and stop strings say what whole answers say") {
  Connection connection(shared_server().port());
  const std::string chat =
      R"({"model":"builtin","messages":[{"role":"user","content":"Question: What is the capital of)"
      R"( Velmora?"}],"temperature":0.8,"seed":3,"n":2,"max_tokens":12)";
  const json::Value whole = connection.post("/v1/chat/completions", chat + "}").json();
  const HttpReply stream =
      connection.post("/v1/chat/completions", chat + R"(,"stream":true,"stream_options":{"include_usage":true}})");
  CHECK(stream.field("content-type") == "text/event-stream");
  CHECK(stream.field("cache-control") == "no-cache");
  for (int64_t i = 0; i < 2; ++i) {
    const json::Value& choice = whole.find("choices")->items()[static_cast<size_t>(i)];
    const Streamed streamed = put_together(stream, i, true);
    CHECK(streamed.text == choice.find("message")->find("content")->string());
    CHECK(streamed.finish_reason == choice.find("finish_reason")->string());
    CHECK(streamed.usage);
  }
  // Choices are prompt-major.
  const std::string batch =
      R"({"model":"builtin","prompt":["Once upon a","User: hello"],"max_tokens":5,"n":2,"seed":1)";
  const json::Value both = connection.post("/v1/completions", batch + "}").json();
  REQUIRE(both.find("choices")->items().size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    const json::Value& choice = both.find("choices")->items()[i];
    CHECK(choice.find("index")->integer() == static_cast<int64_t>(i));
    CHECK(choice.find("signalbox")->find("id")->string() == "prompt/" + std::to_string(i / 2));
    CHECK(choice.find("signalbox")->find("sample")->integer() == static_cast<int64_t>(i % 2));
  }
  // The text ends before the stop string, in streams too.
  const std::string plain = R"({"model":"builtin","prompt":"Once upon a time","max_tokens":20,"temperature":0)";
  const std::string text =
      connection.post("/v1/completions", plain + "}").json().find("choices")->items()[0].find("text")->string();
  const std::string word = text.substr(text.size() / 2, 5);
  const std::string stops = plain + ",\"stop\":[\"zzz\",\"yyy\",\"xxx\",\"www\"," + text_of(json::Value(word)) + "]";
  const json::Value stopped = connection.post("/v1/completions", stops + "}").json();
  const json::Value& choice = stopped.find("choices")->items()[0];
  CHECK(choice.find("text")->string() == text.substr(0, text.find(word)));
  CHECK(choice.find("finish_reason")->string() == "stop");
  CHECK(choice.find("signalbox")->find("stopped_by")->string() == "stop");
  const Streamed streamed = put_together(connection.post("/v1/completions", stops + ",\"stream\":true}"), 0, false);
  CHECK(streamed.text == choice.find("text")->string());
  CHECK(streamed.finish_reason == "stop");
  // A fresh seed is told, and gives the same again.
  const std::string fresh = R"({"model":"builtin","prompt":"Once","max_tokens":6,"temperature":1)";
  const json::Value first = connection.post("/v1/completions", fresh + "}").json();
  const std::string seed = std::to_string(first.find("signalbox")->find("seed")->integer());
  const json::Value again = connection.post("/v1/completions", fresh + ",\"seed\":" + seed + "}").json();
  CHECK(again.find("choices")->items()[0].find("text")->string() ==
        first.find("choices")->items()[0].find("text")->string());
  // A bias decides.
  const json::Value biased = connection.post("/v1/completions", plain + R"(,"logit_bias":{"309":100}})").json();
  for (const json::Value& id : biased.find("choices")->items()[0].find("signalbox")->find("token_ids")->items())
    CHECK(id.integer() == 309);
}

TEST_CASE("serve: routes of a request are those that the command line records") {
  TemporaryDirectory scratch;
  write_file(scratch / "edits.json", ban);
  const Ran ran = run_command(binary() + " generate builtin --prompt 'Once upon a time' --max-tokens 6 --quiet --json" +
                              " --seed 4 --edits " + (scratch / "edits.json").string() + " --trace " +
                              (scratch / "trace").string());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const TraceReader trace(scratch / "trace");
  const auto rows = trace.rows(0);
  const std::vector<int32_t> ids = trace.ids(rows);
  const std::vector<float> weights = trace.weights(rows);

  Connection connection(shared_server().port());
  const std::string body = R"({"model":"builtin","prompt":"Once upon a time","max_tokens":6,"temperature":0,"seed":4,)"
                           R"("signalbox":{"points":"*.router.ids,*.router.weights","format":"json",)" +
                           ban.substr(1);
  const HttpReply reply = connection.post("/v1/completions", body + "}");
  REQUIRE_MESSAGE(reply.status == 200, reply.body);
  const json::Value answer = reply.json();
  const json::Value& ours = *answer.find("choices")->items()[0].find("signalbox");
  CHECK(ours.find("logits_hash")->string() == json::parse(ran.out, "line").find("logits_hash")->string());
  const json::Value& points = *ours.find("points");
  CHECK(points.find("router.original_ids"));
  size_t at = 0;
  for (const json::Value& row : points.find("router.ids")->find("data")->items())
    for (const json::Value& layer : row.items())
      for (const json::Value& id : layer.items()) {
        REQUIRE(at < ids.size());
        CHECK(id.integer() == ids[at++]);
      }
  CHECK(at == ids.size());
  at = 0;
  for (const json::Value& row : points.find("router.weights")->find("data")->items())
    for (const json::Value& layer : row.items())
      for (const json::Value& weight : layer.items()) CHECK(static_cast<float>(weight.real()) == weights[at++]);
  CHECK(at == weights.size());
  CHECK(ours.find("positions")->items()[1].integer() == rows.size());
  const Streamed streamed = put_together(connection.post("/v1/completions", body + ",\"stream\":true}"), 0, false);
  CHECK(streamed.rows == rows.size());
}
