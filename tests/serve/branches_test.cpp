// Branches, scores and timelines: several edits side by side, and what reproduces each.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/text.h"
#include "probes/trace.h"
#include "tests/serve/server_process.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::probes;
using namespace signalbox::test;

const std::string swap_edit =
    R"([{"op":"misroute","policy":"fixed","experts":[1,2,3,4],"layers":"1-4","tokens":{"positions":"3:4"},)"
    R"("weights":"renormalize"}])";

}  // namespace

TEST_CASE("serve: branches share what comes before their edits, and each can be had again by a command") {
  Connection connection(shared_server().port());
  const std::string body = R"({"record":{"id":"a","prompt":"Once upon a time"},"generate":{"max_tokens":8,)"
                           R"("temperature":1,"seed":9},"top":3,"branches":[{"name":"baseline"},{"name":"same"},)"
                           R"({"name":"swapped","edits":)" +
                           swap_edit + R"(}])";
  const HttpReply reply = connection.post("/signalbox/v1/branches", body + "}");
  REQUIRE_MESSAGE(reply.status == 200, reply.body);
  const std::vector<std::string> events = reply.events();
  REQUIRE(events.size() >= 3);
  CHECK(events.back() == "[DONE]");
  const json::Value end = json::parse(events[events.size() - 2], "event");
  const auto& branches = end.find("branches")->items();
  REQUIRE(branches.size() == 3);
  size_t n_tokens = 0;
  for (const json::Value& branch : branches) n_tokens += branch.find("token_ids")->items().size();
  CHECK(events.size() == n_tokens + 2);
  const json::Value first = json::parse(events.front(), "event");
  CHECK(first.find("position")->integer() == 5);
  CHECK(first.find("top")->items().size() == 3);
  CHECK(branches[1].find("diverges_at")->is_null());
  CHECK(branches[1].find("logits_hash")->string() == branches[0].find("logits_hash")->string());
  CHECK(branches[2].find("logits_hash")->string() != branches[0].find("logits_hash")->string());
  if (!branches[2].find("diverges_at")->is_null()) CHECK(branches[2].find("diverges_at")->integer() >= 5);

  TemporaryDirectory scratch;
  const std::string id = branches[2].find("timeline")->string();
  const json::Value exported = connection.request("GET", "/signalbox/v1/timelines/" + id + "/export").json();
  const json::Value line = run_export(scratch.path(), exported);
  CHECK(json::dump(*line.find("tokens")) == json::dump(*branches[2].find("token_ids")));
  CHECK(line.find("logits_hash")->string() == branches[2].find("logits_hash")->string());
  CHECK(json::dump(*exported.find("expect")->find("tokens")) == json::dump(*line.find("tokens")));

  // Rows that nobody asked for are made afterwards; the file is a trace.
  const HttpReply trace = connection.request("GET", "/signalbox/v1/timelines/" + id + "/trace");
  CHECK(trace.field("content-type") == "application/octet-stream");
  write_file(scratch / "trace.safetensors", trace.body);
  const HttpReply recorded =
      connection.post("/signalbox/v1/branches", body + R"(,"points":"*.router.ids","format":"json"})");
  const std::vector<std::string> again = recorded.events();
  std::vector<int64_t> ids;
  for (const std::string& event : again) {
    if (event == "[DONE]") continue;
    const json::Value value = json::parse(event, "event");
    std::vector<const json::Value*> parts = {&value};
    if (const json::Value* list = value.find("branches")) {
      parts.clear();
      for (const json::Value& one : list->items()) parts.push_back(&one);
    }
    for (const json::Value* part : parts) {
      if (part->find("branch")->string() != "swapped") continue;
      const json::Value* points = part->find("rows")->find("points")->find("router.ids");
      if (!points) continue;
      for (const json::Value& row : points->find("data")->items())
        for (const json::Value& layer : row.items())
          for (const json::Value& one : layer.items()) ids.push_back(one.integer());
    }
  }
  const TraceReader reader(scratch / "trace.safetensors");
  const std::vector<int32_t> expected = reader.ids(reader.rows(0));
  CHECK(ids == std::vector<int64_t>(expected.begin(), expected.end()));

  CHECK(connection.request("DELETE", "/signalbox/v1/timelines/" + id).status == 200);
  CHECK(connection.request("GET", "/signalbox/v1/timelines/" + id + "/export").status == 404);
  CHECK(connection.request("GET", "/signalbox/v1/timelines/../../etc/passwd").status == 404);
}

TEST_CASE("serve: a completion's timeline, and a score, are the command line's") {
  Connection connection(shared_server().port());
  const std::string body =
      R"({"model":"builtin","prompt":"User: hello","max_tokens":7,"temperature":0.7,"seed":2,"n":2,)"
      R"("stop":["zz"],"signalbox":{"points":"*.router.ids","format":"ref","edits":)" +
      swap_edit + "}}";
  const HttpReply reply = connection.post("/v1/completions", body);
  REQUIRE_MESSAGE(reply.status == 200, reply.body);
  const json::Value answer = reply.json();
  const json::Value& ours = *answer.find("choices")->items()[1].find("signalbox");
  const std::string id = ours.find("timeline")->string();
  CHECK(ours.find("points")->find("ref")->string() == id);
  TemporaryDirectory scratch;
  const json::Value line =
      run_export(scratch.path(), connection.request("GET", "/signalbox/v1/timelines/" + id + "/export").json());
  CHECK(line.find("sample")->integer() == 1);
  CHECK(line.find("logits_hash")->string() == ours.find("logits_hash")->string());

  write_file(scratch / "in", R"({"id":"a","prompt":"User: hello","target":" world"})");
  const Ran ran = run_command(binary() + " score builtin --json --quiet --input " + (scratch / "in").string());
  REQUIRE(ran.code == 0);
  const json::Value scored = json::parse(ran.out, "line");
  const std::string record = R"({"record":{"id":"a","prompt":"User: hello","target":" world"})";
  const json::Value plain = connection.post("/signalbox/v1/score", record + "}").json();
  for (const char* key : {"id", "tokens", "logprobs", "target_start", "sum_logprob", "logits_hash"})
    CHECK(json::dump(*plain.find(key)) == json::dump(*scored.find(key)));
  const json::Value edited =
      connection.post("/signalbox/v1/score", record + ",\"baseline\":[],\"edits\":" + swap_edit + "}").json();
  CHECK(edited.find("kl")->items().size() == scored.find("logprobs")->items().size());
  CHECK(edited.find("kl")->items()[0].real() == 0);
  CHECK(edited.find("kl")->items().back().real() > 0);

  const auto status = [&](const char* path, const std::string& text) { return connection.post(path, text).status; };
  CHECK(status("/signalbox/v1/check", "{\"edits\":" + swap_edit + "}") == 200);
  CHECK(status("/signalbox/v1/check", R"({"edits":[{"op":"deactivate","mode":"ban","experts":[99]}]})") == 400);
  CHECK(status("/signalbox/v1/branches", R"({"record":{"prompt":"a"},"branches":[]})") == 400);
  CHECK(status("/signalbox/v1/branches", R"({"record":{"prompt":"a"},"branches":[{"name":"a"},{"name":"a"}]})") == 400);
  CHECK(status("/signalbox/v1/branches", R"({"record":{"tokens":[]},"branches":[{"name":"a"}]})") == 400);
  CHECK(status("/signalbox/v1/score", R"({"record":{"prompt":"a"},"edit":[]})") == 400);
}

TEST_CASE("serve: edits name assets, and no other file") {
  TemporaryDirectory scratch;
  std::filesystem::create_directory(scratch / "assets");
  const std::string csv = "layer,expert,rd\n2,1,0.5\n2,3,0.4\n3,7,-0.2\n";
  write_file(scratch / "assets/rd.csv", csv);
  write_file(scratch / "secret.csv", csv);
  std::filesystem::create_symlink(scratch / "secret.csv", scratch / "assets/link.csv");
  REQUIRE(::mkfifo((scratch / "assets/fifo").c_str(), 0600) == 0);
  const ServerProcess server("builtin", {"--assets", (scratch / "assets").string()});
  Connection connection(server.port());
  const auto check = [&](const std::string& name) {
    const json::Value edit =
        json::Value::object()
            .set("op", "deactivate")
            .set("mode", "ban")
            .set("experts", json::Value::object().set("from", name).set("top", 2).set("sign", "+"));
    json::Value edits = json::Value::array();
    edits.push_back(edit);
    return connection.post("/signalbox/v1/check", json::dump(json::Value::object().set("edits", edits)));
  };
  const HttpReply good = check("asset:rd.csv");
  CHECK_MESSAGE(good.status == 200, good.body);
  for (const std::string& name :
       {std::string("asset:link.csv"), std::string("asset:fifo"), std::string("asset:none.csv"), std::string("asset:."),
        std::string("asset:.."), std::string("asset:../secret.csv"), std::string("asset:%2e%2e"), std::string("asset:"),
        "asset:" + (scratch / "secret.csv").string(), (scratch / "assets/rd.csv").string(), std::string("rd.csv"),
        std::string("asset:a\0b", 9), "asset:" + std::string(1 << 20, 'a')}) {
    const HttpReply reply = check(name);
    CHECK(reply.status == 400);
    CHECK(reply.body.find("/proc") == std::string::npos);
  }
}

TEST_CASE("serve: models and tokens as clients ask for them") {
  Connection connection(shared_server().port());
  const json::Value models = connection.request("GET", "/v1/models").json();
  const json::Value& model = models.find("data")->items().front();
  CHECK(model.find("id")->string() == "builtin");
  CHECK(model.find("created")->type() == json::Type::integer);
  CHECK(connection.request("GET", "/v1/models/builtin").status == 200);
  CHECK(connection.request("GET", "/v1/models/other").json().find("error")->find("code")->string() ==
        "model_not_found");
  const json::Value info = connection.request("GET", "/tokenizer_info").json();
  const std::string end = info.find("eos_token")->string();
  for (const char* key : {"bos_token", "pad_token", "chat_template", "tokenizer_class"}) CHECK(info.find(key));
  const auto tokens = [&](const std::string& body) {
    return json::dump(*connection.post("/tokenize", body).json().find("tokens"));
  };
  CHECK(tokens(json::dump(json::Value::object().set("prompt", end).set("add_special_tokens", false))) == "[2]");
  CHECK(tokens(R"({"prompt":"Once upon"})") == tokens(R"({"content":"Once upon","add_special_tokens":true})"));
  CHECK(tokens(R"({"prompt":""})") == "[1]");
  CHECK(connection.post("/detokenize", R"({"tokens":[684,685]})").json().find("prompt")->string() == "Once upon");
  CHECK(connection.post("/tokenize", R"({"prompt":"a","content":"a"})").status == 400);
  CHECK(connection.post("/detokenize", R"({"tokens":[999999]})").status == 400);
  CHECK(connection.request("GET", "/signalbox/v1/model").json().find("n_layers")->integer() == 6);
}
