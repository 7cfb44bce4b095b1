// A session gives what the commands give, to the bit, and leaves other sessions alone.
#include "engine/session.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>

#include "base/safetensors.h"
#include "base/text.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"
#include "tools/builtin/builtin_files.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

// A model, the records that it is asked, and an edit.
struct Case {
  std::string name, model, records, edits;
};

const Case builtin = {
    "builtin", "builtin",
    R"({"id":"a","prompt":"User: Question: hello","target":" world."})"
    "\n"
    R"({"id":"b","tokens":[1,289,28,313],"condition":"c"})"
    "\n"
    R"({"id":"c","messages":[{"role":"user","content":"Question: Who is the king of Parjarrin?"}],"spans":{"name":[10,20]}})"
    "\n",
    R"({"edits":[{"op":"deactivate","mode":"ban","experts":{"2":[1,3],"4":[0,7,9]}},{"op":"misroute","policy":"random","tokens":{"phase":"generated"}}]})"};

Case checkpoint() {
  return {"checkpoint", (source_dir() / "tests/goldens/mixtral/model").string(),
          R"({"id":"a","tokens":[1,5,9,3,7,2]})"
          "\n"
          R"({"id":"b","tokens":[4,4,8]})"
          "\n",
          R"({"edits":[{"op":"misroute","policy":"next_best","layers":"0"}]})"};
}

Session open(const Case& one) {
  OpenOptions options;
  options.builtin = builtin_files();
  options.threads = 1;
  return open_session(one.model, options);
}

std::vector<Record> records_of(const Case& one) {
  std::vector<Record> records;
  std::istringstream in(one.records);
  for (std::string line; std::getline(in, line);)
    records.push_back(parse_record(json::parse(line, "records"), "record"));
  return records;
}

// What the binary prints, line by line.
std::vector<json::Value> command(const Case& one, const std::string& words, bool edited) {
  TemporaryDirectory scratch;
  write_file(scratch / "in", one.records);
  write_file(scratch / "edits.json", one.edits);
  const size_t space = words.find(' ');
  const Ran ran =
      run_command(binary() + " " + words.substr(0, space) + " " + one.model + " " +
                  words.substr(std::min(space, words.size())) + " --quiet --json --input " + (scratch / "in").string() +
                  (edited ? " --edits " + (scratch / "edits.json").string() : ""));
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  std::vector<json::Value> lines;
  std::istringstream in(ran.out);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line, "output"));
  return lines;
}

std::shared_ptr<const EditPlan> plan_of(const Session& session, const Case& one, bool edited) {
  if (!edited) return nullptr;
  const json::Value edits = json::parse(one.edits, "edits");
  return session.edits(json::Ref(edits, "edits"), ".", 5);
}

constexpr int64_t n_new = 6, n_samples = 2;
const Generate generating = {n_new, {.temperature = 0.8, .seed = 5}};
const std::string generating_flags = "--max-tokens 6 --samples 2 --temperature 0.8 --seed 5";

// Results in the order of the jobs.
std::vector<Result> results(const Session& session, const std::vector<Job>& jobs) {
  std::vector<Result> out(jobs.size());
  RunEvents events;
  events.on_done = [&](Result result) { out[static_cast<size_t>(result.index)] = std::move(result); };
  if (!session.run(jobs, session.options, events, nullptr)) out.clear();
  return out;
}

std::vector<Result> generated(const Session& session, const Case& one, bool edited) {
  return results(session,
                 make_jobs(session, records_of(one), generating, plan_of(session, one, edited), n_samples).jobs);
}

void check_same(const std::vector<Result>& a, const std::vector<Result>& b) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].tokens == b[i].tokens);
    CHECK(a[i].text == b[i].text);
    CHECK(a[i].logits_hash == b[i].logits_hash);
  }
}

}  // namespace

TEST_CASE("session: generates and scores the bits of the commands, with edits and without") {
  for (const Case& one : {builtin, checkpoint()}) {
    const Session session = open(one);
    for (const bool edited : {false, true}) {
      CAPTURE(one.name);
      CAPTURE(edited);
      const std::vector<Result> texts = generated(session, one, edited);
      const auto lines = command(one, "generate " + generating_flags, edited);
      REQUIRE(texts.size() == lines.size());
      for (size_t i = 0; i < lines.size(); ++i) {
        const json::Ref line(lines[i], "line");
        std::vector<int32_t> tokens;
        for (const json::Ref& token : line.at("tokens").items())
          tokens.push_back(static_cast<int32_t>(token.integer()));
        CHECK(texts[i].tokens == tokens);
        CHECK(hex64(texts[i].logits_hash) == line.at("logits_hash").string());
        if (session.tokenizer) CHECK(texts[i].text == line.at("text").string());
      }
      const std::vector<Result> scored =
          results(session, make_jobs(session, records_of(one), Score{}, plan_of(session, one, edited)).jobs);
      const auto scores = command(one, "score --seed 5", edited);
      REQUIRE(scored.size() == scores.size());
      for (size_t i = 0; i < scores.size(); ++i) {
        const json::Ref line(scores[i], "line");
        CHECK(hex64(scored[i].logits_hash) == line.at("logits_hash").string());
        REQUIRE(scored[i].logprobs.size() == line.at("logprobs").length());
        for (size_t t = 0; t < scored[i].logprobs.size(); ++t)
          CHECK(scored[i].logprobs[t] == line.at("logprobs")[t].number());
      }
    }
    // The edits do something.
    CHECK(generated(session, one, true)[0].logits_hash != generated(session, one, false)[0].logits_hash);
  }
}

TEST_CASE("session: records the trace of the command, to the byte") {
  for (const Case& one : {builtin, checkpoint()}) {
    CAPTURE(one.name);
    TemporaryDirectory scratch;
    const Session session = open(one);
    const std::vector<Record> records = records_of(one);
    const auto plan = plan_of(session, one, true);
    const RecordJobs made = make_jobs(session, records, generating, plan, n_samples);
    const std::string points = "*.router.ids,*.router.weights,logits";
    TraceRequest request;
    request.dir = scratch / "own";
    request.points = PointSet::parse(points, session.shape);
    request.span_names = made.span_names;
    request.plan = plan;
    const auto line = [&](int64_t job) { return records[static_cast<size_t>(job / n_samples)].source; };
    REQUIRE(session.trace(made.jobs, session.options, request, line, {}));
    command(one,
            "trace --generate 6 --samples 2 --temperature 0.8 --seed 5 --points '" + points + "' --out " +
                (scratch / "commands").string(),
            true);
    for (const char* file : {"trace.safetensors", "records.jsonl"})
      CHECK(read_file(scratch / "own" / file) == read_file(scratch / "commands" / file));
  }
}

TEST_CASE("session: text, messages and tokens become the tokens of the command") {
  const Session session = open(builtin);
  const auto lines = command(builtin, "tokenize", false);
  const auto ids = [&](size_t line) {
    std::vector<int32_t> out;
    for (const json::Value& id : lines[line].find("ids")->items()) out.push_back(static_cast<int32_t>(id.integer()));
    return out;
  };
  const std::vector<Record> records = records_of(builtin);
  CHECK(encode_prompt(records[0].prompt, session.encode).tokens == ids(0));
  const EncodedText messages = encode_messages(records[2].messages, session.encode);
  CHECK(messages.tokens == ids(2));
  CHECK(messages.text == lines[2].find("text")->string());
  CHECK(messages.offsets.size() == messages.tokens.size());
  CHECK_NOTHROW(check_vocabulary(ids(1), session.encode));
  const int32_t beyond[] = {1, static_cast<int32_t>(session.model.n_vocab)};
  CHECK_THROWS_WITH_AS(check_vocabulary(beyond, session.encode),
                       doctest::Contains("token 1: expected an id below the vocabulary's"), Error);
  const Session bare = open(checkpoint());
  CHECK_THROWS_WITH_AS(encode_prompt("x", bare.encode), "prompt: expected a model with a tokenizer, found none", Error);
}

TEST_CASE("session: says what it has opened") {
  const Session own = open(builtin), other = open(checkpoint());
  CHECK(own.name == "builtin");
  CHECK(own.path == "builtin");
  CHECK(own.family == "deepseek_v2");
  CHECK(own.tokenizer);
  CHECK(own.chat_template);
  CHECK(own.model_hash.size() == 64);
  CHECK(own.stop_tokens == std::vector<int32_t>{2});
  CHECK(other.family == "mixtral");
  CHECK(!other.tokenizer);
  CHECK(other.shape.n_layers() == other.model.n_layers());
  const auto hashes = other.hash_weights({});
  REQUIRE(!hashes.empty());
  CHECK(hashes[0].second.size() == 64);
  CHECK_THROWS_WITH_AS(open_session("builtin", {}), doctest::Contains("expected the built-in model"), Error);
  CHECK_THROWS_WITH_AS(open_session("/no/such/model", {}), doctest::Contains("/no/such/model"), Error);
  CHECK(parse_device("cuda:2")->index == 2);
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x"}) CHECK(!parse_device(wrong));
}

TEST_CASE("session: refuses jobs that cannot run, before the first token") {
  const Session session = open(builtin);
  std::vector<Record> records = records_of(builtin);
  CHECK_THROWS_WITH_AS(make_jobs(session, records, Generate{100000, {}}, nullptr),
                       doctest::Contains("record: expected at most the model's 512 positions, found "), Error);
  records[1].tokens.clear();
  CHECK_THROWS_WITH_AS(make_jobs(session, records, Score{}, nullptr), "record: expected at least one token, found none",
                       Error);
  const json::Value edits =
      json::parse(R"([{"op":"misroute","policy":"next_best","tokens":{"span":"nowhere"}}])", "edits");
  CHECK_THROWS_WITH_AS(
      make_jobs(session, records_of(builtin), Score{}, session.edits(json::Ref(edits, "edits"), ".", 0)),
      doctest::Contains("nowhere"), Error);
  CHECK_NOTHROW(check_length("x", 4, 4, 8));
  CHECK_NOTHROW(check_length("x", 4, 1000000, 0));  // a model that names no limit
  CHECK_THROWS_AS(check_length("x", 4, 5, 8), Error);
}

TEST_CASE("session: what generation_config.json asks of greedy text is refused unless it is ignored") {
  TemporaryDirectory scratch;
  std::filesystem::copy(checkpoint().model, scratch / "m");
  write_file(scratch / "m/generation_config.json", R"({"repetition_penalty":1.3,"temperature":0.7})");
  Case penal = checkpoint();
  penal.model = (scratch / "m").string();
  const auto run = [&](const std::string& words) {
    return run_command("echo '{\"id\":\"a\",\"tokens\":[1,5,9]}' | " + binary() + " " + words + " --quiet --input -");
  };
  const std::string trace = " --out " + (scratch / "t").string();
  CHECK(run("generate " + penal.model + " --max-tokens 2").err ==
        "signalbox: error: " + penal.model +
            "/generation_config.json: expected no key that changes greedy text, found repetition_penalty = 1.3: not "
            "applied here (--generation-config ignore generates without)\n");
  CHECK(run("trace " + penal.model + trace + " --generate 2").code == 1);
  CHECK(run("generate " + penal.model + " --max-tokens 2 --generation-config ignore").code == 0);
  CHECK(run("trace " + penal.model + trace).code == 0);
  CHECK(run("score " + penal.model).code == 0);
  write_file(scratch / "data.jsonl", "{\"id\":\"a\",\"tokens\":[1,5,9],\"answers\":[]}\n");
  write_file(scratch / "spec.json", R"({"model":"m","data":"data.jsonl","generate":{"max_tokens":2},
    "interventions":[{"name":"baseline"}],"metrics":["length"],"controls":false})");
  const std::string experiment = binary() + " run " + (scratch / "spec.json").string() + " --quiet --out ";
  CHECK(run_command(experiment + (scratch / "r1").string()).err.find("repetition_penalty = 1.3") != std::string::npos);
  CHECK(run_command(experiment + (scratch / "r2").string() + " --generation-config ignore").code == 0);
}

TEST_CASE("session: logits that are no numbers end scoring with the record's name") {
  TemporaryDirectory scratch;
  synthetic::make_model(json::parse(R"({"family":"mixtral","tokenizer":"bytes"})", "spec"), "spec", scratch / "m");
  const std::filesystem::path weights = scratch / "m/model.safetensors";
  std::string bytes = read_file(weights);
  {
    const auto file = safetensors::File::open(weights);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    std::memcpy(bytes.data() + 8 + header + file->at("lm_head.weight").begin, "\xc0\x7f\xc0\x7f", 4);
  }
  write_file(weights, bytes);
  Case damaged = checkpoint();
  damaged.model = (scratch / "m").string();
  const Session session = open(damaged);
  std::vector<Record> records = records_of(damaged);
  const auto run = [&](const Score& score) { results(session, make_jobs(session, records, score, nullptr).jobs); };
  CHECK_THROWS_WITH_AS(run(Score{}),
                       "logits: expected finite numbers, found none for the log p of token 1 (record \"a\")", Error);
  CHECK_THROWS_WITH_AS(run(Score{2, {}}), doctest::Contains("log p of token 2 (record \"a\")"), Error);
}

TEST_CASE("session: a target that nothing stands before is refused") {
  TemporaryDirectory scratch;
  synthetic::make_model(json::parse(R"({"family":"mixtral","tokenizer":"bytes"})", "spec"), "spec", scratch / "m");
  Case bytes = checkpoint();
  bytes.model = (scratch / "m").string();
  const Session session = open(bytes);
  const auto jobs = [&](const char* record) {
    make_jobs(session, {parse_record(json::parse(record, "r"), "here")}, Score{}, nullptr);
  };
  CHECK_THROWS_WITH_AS(jobs(R"({"id":"a","tokens":[],"target":"x"})"),
                       doctest::Contains("here: target: expected a token before it"), Error);
  CHECK_NOTHROW(jobs(R"({"id":"a","tokens":[5],"target":"x"})"));
}

TEST_CASE("session: two in one process do not disturb each other") {
  const Case one = builtin, two = checkpoint();
  const std::vector<Result> alone_one = generated(open(one), one, true), alone_two = generated(open(two), two, false),
                            alone_bare = generated(open(one), one, false);
  Session a = open(one), b = open(two), c = open(one);
  // What one session is told stays with it.
  a.encode.template_variables.set("date", "2001-02-03");
  a.options.batch = 1;
  CHECK(!c.encode.template_variables.find("date"));
  CHECK(c.options.batch != 1);
  std::vector<Result> got_a, got_b, got_c;
  const std::vector<Job> jobs_a = make_jobs(a, records_of(one), generating, plan_of(a, one, true), n_samples).jobs,
                         jobs_b = make_jobs(b, records_of(two), generating, nullptr, n_samples).jobs,
                         jobs_c = make_jobs(c, records_of(one), generating, nullptr, n_samples).jobs;
  std::thread on_a([&] { got_a = results(a, jobs_a); }), on_b([&] { got_b = results(b, jobs_b); }),
      on_c([&] { got_c = results(c, jobs_c); });
  on_a.join();
  on_b.join();
  on_c.join();
  check_same(got_a, alone_one);
  check_same(got_b, alone_two);
  check_same(got_c, alone_bare);
  // One after the other in a session is as good as alone.
  check_same(results(a, jobs_a), alone_one);
}
