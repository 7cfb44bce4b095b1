// What a timeline stands for: forced tokens, rows that edits take, and the commands that give all of it again.
#include <doctest/doctest.h>

#include <cstring>
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

json::Value last_event(const HttpReply& reply) {
  const std::vector<std::string> events = reply.events();
  REQUIRE_MESSAGE((reply.status == 200 && events.size() >= 2 && events.back() == "[DONE]"), reply.body);
  return json::parse(events[events.size() - 2], "event");
}

std::vector<int64_t> ids_of(const json::Value& list) {
  std::vector<int64_t> out;
  for (const json::Value& one : list.items()) out.push_back(one.integer());
  return out;
}

json::Value export_of(Connection& connection, const json::Value& timeline) {
  const HttpReply reply = connection.request("GET", "/signalbox/v1/timelines/" + timeline.string() + "/export");
  REQUIRE_MESSAGE(reply.status == 200, reply.body);
  return reply.json();
}

void check_export(Connection& connection, const json::Value& of, const char* tokens = "token_ids") {
  const TemporaryDirectory scratch;
  const json::Value line = run_export(scratch.path(), export_of(connection, *of.find("timeline")));
  CHECK(line.find("logits_hash")->string() == of.find("logits_hash")->string());
  if (of.find(tokens)) CHECK(json::dump(*line.find("tokens")) == json::dump(*of.find(tokens)));
}

}  // namespace

TEST_CASE("serve: a branch takes another token where it is told to") {
  Connection connection(shared_server().port());
  const std::string record =
      R"("record":{"prompt":"Once upon a time"},"generate":{"max_tokens":6,"temperature":1,"seed":4})";
  const json::Value end = last_event(
      connection.post("/signalbox/v1/branches",
                      "{" + record + R"(,"branches":[{"name":"as it is"},{"name":"forced","force":{"7":300}}]})"));
  const auto& branches = end.find("branches")->items();
  const std::vector<int64_t> plain = ids_of(*branches[0].find("token_ids")),
                             forced = ids_of(*branches[1].find("token_ids"));
  // Five given tokens: position 7 is the third new one.
  CHECK((forced.at(2) == 300 && plain.at(2) != 300));
  CHECK(std::equal(plain.begin(), plain.begin() + 2, forced.begin()));
  CHECK(branches[1].find("diverges_at")->integer() == 7);
  check_export(connection, branches[1]);
  for (const char* force : {R"({"4":1})", R"({"11":1})", R"({"a":1})", R"({"7":99999})", R"({"7":"x"})", "[]"}) {
    const HttpReply reply = connection.post("/signalbox/v1/branches",
                                            "{" + record + R"(,"branches":[{"name":"a","force":)" + force + "}]}");
    CHECK(reply.status == 400);
    CHECK(reply.json().find("error")->find("param")->string().starts_with("branches[0].force"));
  }
}

TEST_CASE("serve: edits take the rows of a timeline, made again where they are gone") {
  Connection connection(shared_server().port());
  const auto complete = [&](const std::string& prompt, const std::string& edits) {
    const HttpReply reply = connection.post(
        "/v1/completions", R"({"model":"builtin","prompt":")" + prompt +
                               R"(","max_tokens":4,"temperature":0,"signalbox":{"edits":)" + edits + "}}");
    REQUIRE_MESSAGE(reply.status == 200, reply.body);
    return *reply.json().find("choices")->items()[0].find("signalbox");
  };
  const json::Value source =
      complete("The capital of Rulfar is", R"([{"op":"misroute","policy":"worst","layers":"2"}])");
  const std::string name = "timeline:" + source.find("timeline")->string();
  const json::Value plain = complete("The capital of Rulfar is", "[]");
  const json::Value replayed = complete("The capital of Rulfar is",
                                        R"([{"op":"replay","trace":")" + name + R"(","layers":"2","past":"leave"}])");
  CHECK(replayed.find("logits_hash")->string() != plain.find("logits_hash")->string());
  check_export(connection, replayed);
  // Points that nobody had recorded; the source's own edits act when it is run again.
  const json::Value patched = complete(
      "The capital of Quodri is",
      R"([{"op":"patch","point":"resid_out","layers":"3","tokens":{"positions":"2:4"},"from":")" + name + "\"}]");
  CHECK(patched.find("logits_hash")->string() != plain.find("logits_hash")->string());
  check_export(connection, patched);
  check_export(connection,
               complete("The capital of Quodri is",
                        R"([{"op":"ablate","point":"moe.out","layers":"3","value":{"mean_of":")" + name + "\"}}]"));
  for (const std::string& value : {std::string("timeline:none"), std::string("timeline:"), std::string("other:a")}) {
    const HttpReply reply =
        connection.post("/signalbox/v1/check", R"({"edits":[{"op":"replay","trace":")" + value + "\"}]}");
    CHECK(reply.status == 400);
    CHECK(reply.json().find("error")->find("param")->string() == "edits[0].trace");
  }
  CHECK(connection
            .post("/signalbox/v1/check",
                  R"({"edits":[{"op":"add","point":"resid_out","layers":"1","vector":")" + name + "\"}]}")
            .status == 400);
}

TEST_CASE("serve: recorded branches run their prompt once, and give rows by ref and of some layers") {
  ServerProcess& server = shared_server();
  Connection connection(server.port());
  std::string tokens;
  for (int i = 0; i < 120; ++i) tokens += (i > 0 ? "," : "") + std::to_string(100 + i % 50);
  const std::string start =
      R"({"record":{"tokens":[)" + tokens +
      R"(]},"generate":{"max_tokens":3,"ignore_eos":true},"branches":[{"name":"a"},)"
      R"({"name":"b","edits":[{"op":"misroute","policy":"worst","layers":"2","tokens":{"positions":"100:101"}}]},)"
      R"({"name":"c","edits":[{"op":"top_k","k":2,"layers":"3","tokens":{"positions":"110:120"}}]}],)";
  const int64_t before = server.metric("signalbox_rows_total");
  const json::Value end = last_event(connection.post(
      "/signalbox/v1/branches",
      start + R"("points":"*.router.ids,*.router.weights,*.resid_out","format":"ref","layers":"2-3"})"));
  // 120 of the longest shared part, and what each runs alone: not three times 123.
  CHECK(server.metric("signalbox_rows_total") - before < 120 + 3 * (23 + 3));
  for (const json::Value& branch : end.find("branches")->items()) {
    const std::string id = branch.find("timeline")->string();
    CHECK(branch.find("rows")->find("points")->find("ref")->string() == id);
    CHECK(json::dump(*branch.find("rows")->find("layers")) == "[2,3]");
    CHECK(json::dump(*branch.find("rows")->find("positions")) == "[0,123]");
    // As the command line records it.
    const TemporaryDirectory scratch;
    json::Value exported = export_of(connection, *branch.find("timeline"));
    json::Value argv = *exported.find("argv");
    argv.push_back("--trace")
        .push_back("t")
        .push_back("--points")
        .push_back("*.router.ids,*.router.weights,*.resid_out");
    run_export(scratch.path(), exported.set("argv", argv));
    const HttpReply reply =
        connection.request("GET", "/signalbox/v1/timelines/" + id + "/trace?from=90&to=122&layers=2-3");
    REQUIRE_MESSAGE(reply.status == 200, reply.body);
    write_file(scratch / "part.safetensors", reply.body);
    const TraceReader whole(scratch / "t"), part(scratch / "part.safetensors");
    CHECK(part.layers() == std::vector<int32_t>{2, 3});
    CHECK(part.floats("layer.2.resid_out", {0, 32}) == whole.floats("layer.2.resid_out", {90, 122}));
    const std::vector<int32_t> some = part.ids({0, 32}), all = whole.ids({90, 122});
    const size_t k = static_cast<size_t>(whole.n_slots()), n = whole.layers().size();
    REQUIRE(part.n_slots() == whole.n_slots());
    const size_t first = static_cast<size_t>(*whole.layer_index(2));
    for (size_t row = 0; row < 32; ++row)
      CHECK(std::equal(some.begin() + static_cast<ptrdiff_t>(row * 2 * k),
                       some.begin() + static_cast<ptrdiff_t>((row + 1) * 2 * k),
                       all.begin() + static_cast<ptrdiff_t>((row * n + first) * k)));
  }
  const std::string id = end.find("branches")->items()[0].find("timeline")->string();
  const auto trace = [&](const std::string& query) {
    return connection.request("GET", "/signalbox/v1/timelines/" + id + "/trace?" + query).status;
  };
  CHECK(trace("points=*.router.margin&layers=1%2C3") == 200);
  CHECK(trace("layers=99") == 400);
  CHECK(trace("points=none") == 400);
  CHECK(trace("other=1") == 400);
  CHECK(trace("from=5&to=4") == 400);
  const HttpReply json =
      connection.post("/signalbox/v1/branches", start + R"("points":"*.router.ids","layers":"2","format":"json"})");
  const json::Value rows = *last_event(json).find("branches")->items()[0].find("rows");
  CHECK(json::dump(*rows.find("layers")) == "[2]");
  CHECK(connection.post("/signalbox/v1/branches", start + R"("layers":"2"})").status == 400);
}

TEST_CASE("serve: scores of several targets, and against the edits of a branch") {
  Connection connection(shared_server().port());
  const std::string edits = R"([{"op":"deactivate","mode":"ban","experts":[1,3],"layers":"2"}])";
  const HttpReply both = connection.post(
      "/signalbox/v1/score",
      R"({"record":{"id":"a","prompt":"User: hello"},"targets":[" world"," there you"],"baseline":[],"edits":)" +
          edits + "}");
  REQUIRE_MESSAGE(both.status == 200, both.body);
  const json::Value answer = both.json();
  const auto& lines = answer.find("targets")->items();
  REQUIRE(lines.size() == 2);
  const json::Value one =
      connection
          .post("/signalbox/v1/score",
                R"({"record":{"id":"a","prompt":"User: hello","target":" there you"},"baseline":[],"edits":)" + edits +
                    "}")
          .json();
  for (const char* key : {"tokens", "logprobs", "target_start", "sum_logprob", "logits_hash", "kl", "same_top"})
    CHECK(json::dump(*lines[1].find(key)) == json::dump(*one.find(key)));
  check_export(connection, lines[1]);
  // The same edits on both sides.
  const HttpReply made = connection.post(
      "/v1/completions",
      R"({"model":"builtin","prompt":"User: hello","max_tokens":1,"signalbox":{"edits":)" + edits + "}}");
  const std::string id = made.json().find("choices")->items()[0].find("signalbox")->find("timeline")->string();
  const json::Value same =
      connection
          .post("/signalbox/v1/score",
                R"({"record":{"prompt":"User: hello"},"baseline":"timeline:)" + id + R"(","edits":)" + edits + "}")
          .json();
  for (const json::Value& kl : same.find("kl")->items()) CHECK(kl.real() == 0);
  for (const char* wrong : {R"("targets":[])", R"("targets":[5])", R"("targets":"a")", R"("targets":[""])",
                            R"("baseline":"timeline:none")"})
    CHECK(connection.post("/signalbox/v1/score", R"({"record":{"prompt":"a"},)" + std::string(wrong) + "}").status ==
          400);
}

TEST_CASE("serve: every choice has a timeline whose command reproduces it, a bias too") {
  Connection connection(shared_server().port());
  const HttpReply reply = connection.post(
      "/v1/completions",
      R"({"model":"builtin","prompt":"Once upon","max_tokens":6,"temperature":0.5,"seed":-3,"logit_bias":{"300":4.5,"17":-100}})");
  REQUIRE_MESSAGE(reply.status == 200, reply.body);
  const json::Value ours = *reply.json().find("choices")->items()[0].find("signalbox");
  CHECK(ours.find("prompt_token_ids")->items().size() == 3);
  CHECK(json::dump(*export_of(connection, *ours.find("timeline")).find("argv")).find("\"300:4.5\"") !=
        std::string::npos);
  check_export(connection, ours);
  // A prompt that is only scored, with edits that the seed draws.
  const json::Value scored =
      *connection
           .post(
               "/v1/completions",
               R"({"model":"builtin","prompt":"Once upon","max_tokens":0,"echo":true,"logprobs":1,"seed":5,"signalbox":)"
               R"({"edits":[{"op":"misroute","policy":"random","layers":"2"}]}})")
           .json()
           .find("choices")
           ->items()[0]
           .find("signalbox");
  const TemporaryDirectory scratch;
  CHECK(run_export(scratch.path(), export_of(connection, *scored.find("timeline"))).find("logits_hash")->string() ==
        scored.find("logits_hash")->string());
  const Ran ran =
      run_command(binary() + " generate builtin --prompt Once --max-tokens 2 --quiet --logit-bias 9999999:1");
  CHECK((ran.code == 2 && ran.err.find("--logit-bias") != std::string::npos));
  for (const char* flag :
       {"--logit-bias 5", "--logit-bias 5:a", "--logit-bias 5:1 --logit-bias 5:2", "--force-token -1:5"})
    CHECK(run_command(binary() + " generate builtin --prompt Once --max-tokens 2 --quiet " + flag).code == 2);
  CHECK(run_command(binary() + " generate builtin --prompt Once --max-tokens 2 --quiet --force-token 0:5").code == 2);
}

TEST_CASE("serve: errors name the field, whatever endpoint has it") {
  Connection connection(shared_server().port());
  struct Wrong {
    const char *path, *body, *param, *code;
  };
  for (const Wrong& wrong : {
           Wrong{"/detokenize", R"({"tokens":[1],"foo":1})", "foo", "unknown_parameter"},
           Wrong{"/tokenize", R"({"prompt":"a","foo":1})", "foo", "unknown_parameter"},
           Wrong{"/signalbox/v1/check", R"({"edits":[],"foo":1})", "foo", "unknown_parameter"},
           Wrong{"/signalbox/v1/check", R"({"edits":[{"op":"top_k","k":99}]})", "edits[0].k", ""},
           Wrong{"/signalbox/v1/score", R"({"record":{"prompt":"a"},"foo":1})", "foo", "unknown_parameter"},
           Wrong{"/signalbox/v1/score", R"({"record":{"prompt":5}})", "record.prompt", ""},
           Wrong{"/signalbox/v1/score", R"({"record":{"tokens":[99999]}})", "record", ""},
           Wrong{"/signalbox/v1/branches",
                 R"({"record":{"prompt":"a"},"generate":{"foo":1},"branches":[{"name":"a"}]})", "generate.foo",
                 "unknown_parameter"},
           Wrong{"/signalbox/v1/branches", R"({"record":{"prompt":"a"},"branches":[{"name":"a","foo":1}]})",
                 "branches[0].foo", "unknown_parameter"},
           Wrong{"/signalbox/v1/branches", R"({"record":{"prompt":"a"},"points":"zz","branches":[{"name":"a"}]})",
                 "points", ""},
           Wrong{"/v1/completions", R"({"model":"builtin","prompt":"a","signalbox":{"foo":1}})", "signalbox.foo",
                 "unknown_parameter"},
       }) {
    const HttpReply reply = connection.post(wrong.path, wrong.body);
    CAPTURE(reply.body);
    CHECK(reply.status == 400);
    const json::Value answer = reply.json(), &error = *answer.find("error");
    CHECK(error.find("param")->string() == wrong.param);
    CHECK((error.find("code")->is_null() ? "" : error.find("code")->string()) == wrong.code);
  }
}
