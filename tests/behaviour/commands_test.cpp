// The commands as users meet them: output lines, exit codes, one-line errors.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>

#include "base/json.h"
#include "kernels/cpu/isa.h"
#include "probes/trace.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using test::Ran;

Ran signalbox_run(const std::string& arguments, const std::string& input = "") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "in", input);
  return test::run_command(test::binary() + " " + arguments + " < " + (scratch / "in").string());
}

std::vector<json::Value> lines(const std::string& text) {
  std::vector<json::Value> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line, "output"));
  return out;
}

// A failure is one line on standard error, nothing else, and the exit code.
void check_error(const Ran& ran, int code, const std::string& expected) {
  INFO(ran.err);
  CHECK(ran.code == code);
  CHECK(ran.err.starts_with("signalbox: error: "));
  CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  CHECK(ran.err.find(expected) != std::string::npos);
  CHECK(ran.out.empty());
}

const std::string records =
    R"({"id":"a","prompt":"User: Question: hello","note":{"x":[1,2]}})"
    "\n"
    R"({"id":"b","tokens":[1,289,28,313],"condition":"c"})"
    "\n"
    R"({"id":"c","messages":[{"role":"user","content":"Question: Who is the king of Parjarrin?"}],"spans":{"name":[10,20]}})"
    "\n";

}  // namespace

TEST_CASE("generate: lines in input order with every key, whatever the batch") {
  const Ran one =
      signalbox_run("generate builtin --input - --json --quiet --max-tokens 8 --samples 2 --temperature 0.7", records);
  REQUIRE(one.code == 0);
  const auto out = lines(one.out);
  REQUIRE(out.size() == 6);
  const char* const ids[] = {"a", "a", "b", "b", "c", "c"};
  for (size_t i = 0; i < out.size(); ++i) {
    json::Ref line(out[i], "line");
    CHECK(line.at("id").string() == ids[i]);
    CHECK(line.at("sample").integer() == static_cast<int64_t>(i % 2));
    CHECK(line.at("tokens").length() <= 8);
    CHECK(line.at("prompt_tokens").integer() > 0);
    const std::string reason = line.at("finish_reason").string();
    CHECK((reason == "eos" || reason == "length"));
    CHECK(line.at("logits_hash").string().size() == 16);
    CHECK(line.at("timings").at("prefill_seconds").number() >= 0);
  }
  CHECK(json::Ref(out[0], "line").at("note").at("x").length() == 2);
  CHECK(json::Ref(out[2], "line").at("condition").string() == "c");
  const auto other = lines(
      signalbox_run("generate builtin --input - --json --quiet --max-tokens 8 --samples 2 --temperature 0.7 --batch 1 "
                    "--chunk 3 --threads 1",
                    records)
          .out);
  REQUIRE(other.size() == out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    CHECK(*other[i].find("tokens") == *out[i].find("tokens"));
    CHECK(*other[i].find("logits_hash") == *out[i].find("logits_hash"));
  }
}

TEST_CASE("generate: stop strings cut the text, end tokens stop, --ignore-eos goes on") {
  const std::string question =
      R"({"id":"q","messages":[{"role":"user","content":"Question: Who is the king of Parjarrin?"}]})"
      "\n";
  const auto plain = lines(signalbox_run("generate builtin --input - --json --quiet", question).out);
  REQUIRE(plain.size() == 1);
  const std::string text = plain[0].find("text")->string();
  CHECK(plain[0].find("finish_reason")->string() == "eos");
  CHECK(plain[0].find("tokens")->items().back() == json::Value(2));
  CHECK(text.find("<eos>") == std::string::npos);
  REQUIRE(text.size() > 6);
  const std::string stop = text.substr(3, 3);
  const auto cut =
      lines(signalbox_run("generate builtin --input - --json --quiet --stop '" + stop + "'", question).out);
  CHECK(cut[0].find("text")->string() == text.substr(0, text.find(stop)));
  CHECK(cut[0].find("finish_reason")->string() == "stop");
  const auto on =
      lines(signalbox_run("generate builtin --input - --json --quiet --ignore-eos --max-tokens 40", question).out);
  CHECK(on[0].find("tokens")->items().size() == 40);
  CHECK(on[0].find("finish_reason")->string() == "length");
}

TEST_CASE("score: log p of every token, sums over the target") {
  const auto out = lines(signalbox_run("score builtin --input - --json --quiet",
                                       R"({"id":"a","prompt":"User: hello","target":" world."})"
                                       "\n"
                                       R"({"id":"b","tokens":[1,289,28,313,28]})"
                                       "\n"
                                       R"({"id":"c","tokens":[1]})"
                                       "\n")
                             .out);
  REQUIRE(out.size() == 3);
  const json::Ref a(out[0], "line"), b(out[1], "line"), c(out[2], "line");
  const int64_t start = a.at("target_start").integer();
  CHECK(a.at("logprobs").length() + 1 == a.at("tokens").length());
  double sum = 0;
  for (size_t i = static_cast<size_t>(start) - 1; i < a.at("logprobs").length(); ++i)
    sum += a.at("logprobs")[i].number();
  CHECK(sum == doctest::Approx(a.at("sum_logprob").number()));
  CHECK(!out[1].find("target_start"));
  CHECK(b.at("logprobs").length() == 4);
  CHECK(c.at("logprobs").length() == 0);
  CHECK(c.at("sum_logprob").number() == 0);
}

TEST_CASE("tokenize: there and back, empty text, messages") {
  const auto out = lines(signalbox_run("tokenize builtin --input - --json", records + R"({"id":"e","prompt":""})"
                                                                                      "\n"
                                                                                      R"({"id":"t","tokens":[]})"
                                                                                      "\n")
                             .out);
  REQUIRE(out.size() == 5);
  CHECK(out[0].find("ids")->items().size() == out[0].find("pieces")->items().size());
  CHECK(out[2].find("text")->string().find("Assistant:") != std::string::npos);
  CHECK(out[3].find("ids")->items().size() == 1);  // the begin token alone
  CHECK(out[4].find("ids")->items().empty());
  json::Value record = json::Value::object();
  record.set("id", "c").set("tokens", *out[2].find("ids"));
  const auto back = lines(signalbox_run("tokenize builtin --decode --input - --json", json::dump(record) + "\n").out);
  REQUIRE(back.size() == 1);
  CHECK(back[0].find("text")->string() == out[2].find("text")->string());
  CHECK(lines(signalbox_run("tokenize builtin --no-special --json", "").out)[0].find("ids")->items().empty());
}

TEST_CASE("trace: a row for every token, in every mode; records and spans travel") {
  test::TemporaryDirectory scratch;
  std::string expected;
  for (const std::string mode : {"--batch 1", "--batch 4 --chunk 2", "--threads 1 --chunk 1"}) {
    for (const int n : {0, 1, 5}) {
      const std::string dir = (scratch / (mode + " t" + std::to_string(n))).string();
      const Ran ran = signalbox_run("trace builtin --input - --quiet --ignore-eos --generate " + std::to_string(n) +
                                        " " + mode + " --out '" + dir + "'",
                                    records);
      INFO(ran.err);
      REQUIRE(ran.code == 0);
      const TraceReader trace(dir);
      REQUIRE(trace.n_samples() == 3);
      CHECK(trace.sample_ids() == std::vector<std::string>{"a", "b", "c"});
      CHECK(trace.rows(1).size() == 4 + n);
      const auto phase = trace.phase(trace.rows(1));
      CHECK(std::count(phase.begin(), phase.end(), 1) == n);
      CHECK(trace.span_names() == std::vector<std::string>{"name"});
      const auto spans = trace.spans(trace.rows(2));
      CHECK(std::count(spans.begin(), spans.end(), 1u) > 0);
      const auto stored = lines(test::read_file(dir + "/records.jsonl"));
      REQUIRE(stored.size() == 3);
      CHECK(*stored[1].find("condition") == json::Value("c"));
      if (n == 5) {
        const std::string bytes = test::read_file(dir + "/trace.safetensors");
        if (expected.empty()) expected = bytes;
        CHECK(bytes == expected);  // batch, chunk and threads leave no mark
      }
    }
  }
}

TEST_CASE("diff: finds where an edit acted and nothing where none did") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "edit.json",
                   R"({"edits":[{"op":"misroute","policy":"next_best","layers":"3","tokens":{"positions":"2:"}}]})");
  const std::string base = "trace builtin --quiet --input - --points '*router*,logits,*.resid_mid' --out ";
  REQUIRE(signalbox_run(base + (scratch / "a").string(), records).code == 0);
  REQUIRE(
      signalbox_run(base + (scratch / "b").string() + " --edits " + (scratch / "edit.json").string(), records).code ==
      0);
  const std::string a = (scratch / "a").string(), b = (scratch / "b").string();
  const auto same = lines(signalbox_run("diff " + a + " " + a + " --json").out);
  CHECK(same[0].find("first_divergence")->is_null());
  CHECK(json::Ref(same[0], "d").at("logits").at("mean_kl").number() == 0);
  const auto other = lines(signalbox_run("diff " + a + " " + b + " --json").out);
  const json::Ref first = json::Ref(other[0], "d").at("first_divergence");
  CHECK(first.at("point").string() == "layer.3.router.ids");
  CHECK(first.at("position").integer() == 2);
  CHECK(json::Ref(other[0], "d").at("logits").at("mean_kl").number() > 0);
  for (const json::Ref& layer : json::Ref(other[0], "d").at("expert_agreement").items())
    if (layer.at("layer").integer() < 3) CHECK(layer.at("same_route").number() == 1);
}

TEST_CASE("inspect and version tell what is there") {
  const auto out = lines(signalbox_run("inspect builtin --json --tensors").out);
  REQUIRE(out.size() == 1);
  const json::Ref model(out[0], "inspect");
  CHECK(model.at("layers").length() == static_cast<size_t>(model.at("n_layers").integer()));
  CHECK(model.at("layers")[0].at("ffn").string() == "dense");
  CHECK(model.at("layers")[1].at("router").at("renormalize").boolean() == false);
  CHECK(model.at("parameters").integer() > model.at("active_parameters").integer());
  CHECK(model.at("tensors").length() > 100);
  const auto version = lines(signalbox_run("--version --json").out);
  CHECK(json::Ref(version[0], "v").at("backends")[0].string() == "cpu");
}

TEST_CASE("make-model: what a killed one left is made anew, a directory of others is refused") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "spec.json", R"({"family":"mixtral","shards":2})");
  const std::string spec = (scratch / "spec.json").string();
  const auto make = [&](const std::string& dir) {
    return signalbox_run("make-model " + spec + " --quiet --out " + (scratch / dir).string());
  };
  REQUIRE(make("whole").code == 0);
  // Killed within the second weight file.
  std::filesystem::create_directory(scratch / "killed");
  for (const char* name : {"make-model.json", "model-00001-of-00002.safetensors"})
    std::filesystem::copy_file(scratch / "whole" / name, scratch / "killed" / name);
  test::write_file(scratch / "killed/model-00002-of-00002.safetensors.tmp-77", "half");
  check_error(signalbox_run("inspect " + (scratch / "killed").string()), 1, "config.json");
  REQUIRE(make("killed").code == 0);
  for (const auto& entry : std::filesystem::directory_iterator(scratch / "killed")) {
    const std::filesystem::path name = entry.path().filename();
    CHECK_MESSAGE(test::read_file(entry.path()) == test::read_file(scratch / "whole" / name), name.string());
  }
  std::filesystem::create_directory(scratch / "mine");
  test::write_file(scratch / "mine/notes.txt", "x");
  check_error(make("mine"), 1, "expected a new directory, or one that make-model wrote (make-model.json)");
}

TEST_CASE("errors are one line and an exit code") {
  check_error(signalbox_run("nonsense"), 2, "nonsense");
  check_error(signalbox_run("generate builtin"), 2, "--prompt");
  check_error(signalbox_run("generate builtin --prompt x --no-such-flag"), 2, "no-such-flag");
  if (!kernels::cpu::has_isa("amx")) check_error(signalbox_run("generate builtin --prompt x --isa amx"), 2, "amx");
  check_error(signalbox_run("generate builtin --prompt x --device cuda:99"), 1, "--device");
  check_error(signalbox_run("generate /no/such/model --prompt x"), 1, "/no/such/model");
  check_error(signalbox_run("generate builtin --input /no/such/file"), 1, "/no/such/file");
  check_error(signalbox_run("generate builtin --prompt x --max-tokens 100000"), 2, "positions");
  check_error(signalbox_run("generate builtin --prompt x --top-p 2"), 2, "top-p");
  check_error(signalbox_run("generate builtin --prompt x --seed -1"), 2, "--seed");
  check_error(signalbox_run("generate builtin --prompt x --edits ''"), 2, "--edits");
  check_error(signalbox_run("generate builtin --input ''"), 2, "--input");
  check_error(signalbox_run("generate builtin --prompt x --stop= --max-tokens=3"), 2,
              "--stop: expected a value behind =, found none");
  check_error(signalbox_run("trace builtin --input - --out ''", records), 2, "--out");
  check_error(signalbox_run("generate builtin --prompt x --date hello"), 2, "--date");
  check_error(signalbox_run("inspect builtin --tensors >/dev/full"), 1, "standard output");
  check_error(signalbox_run("generate builtin --prompt x --temperature nan"), 2, "--temperature");
  check_error(signalbox_run("generate builtin --prompt $(printf 'a\\377')"), 2, "--prompt: ");
  check_error(signalbox_run("generate builtin --input -", ""), 1, "at least one record");
  check_error(signalbox_run("generate builtin --input -", "{\"id\":\"a\"}\n"), 1, "standard input:1");
  check_error(signalbox_run("generate builtin --input -", "{\"id\":\"a\",\"tokens\":[]}\n"), 1, "token");
  check_error(signalbox_run("generate builtin --input -", "{\"id\":\"a\",\"tokens\":[99999]}\n"), 1, "99999");
  check_error(signalbox_run("generate builtin --input -", records + records), 1, "standard input:4");
  check_error(signalbox_run("generate builtin --input -", "{\"id\":\"a\",\"id\":\"b\",\"prompt\":\"x\"}\n"), 1,
              "duplicate");
  check_error(signalbox_run("generate builtin --input -", "{\"id\":\"a\",\"prompt\":\"x\",\"spans\":{\"s\":[0,9]}}\n"),
              1, "spans.s");
  check_error(signalbox_run("generate builtin --input -", "{\"id\":\"a\",\"prompt\":\"\xff\"}\n"), 1,
              "standard input:1");
  check_error(signalbox_run("trace builtin --input - --out /tmp/x --points nothing.like.it", records), 2,
              "nothing.like.it");
  check_error(signalbox_run("diff /no/such/trace /no/such/trace"), 1, "/no/such/trace");
}

TEST_CASE("edits that cannot be are refused before the first token") {
  test::TemporaryDirectory scratch;
  const auto refuse = [&](const std::string& edit, const std::string& expected) {
    test::write_file(scratch / "e.json", "{\"edits\":[" + edit + "]}");
    check_error(signalbox_run("generate builtin --quiet --prompt x --edits " + (scratch / "e.json").string()), 1,
                expected);
  };
  refuse(R"({"op":"deactivate","mode":"ban","experts":[1],"layers":"0"})", "layer");
  refuse(R"({"op":"deactivate","mode":"ban","experts":[99]})", "99");
  refuse(R"({"op":"deactivate","mode":"ban"})", "experts");
  refuse(R"({"op":"deactivate","mode":"ban","experts":[1],"layers":"77"})", "77");
  refuse(R"({"op":"misroute","policy":"next_best","tokens":{"span":"nowhere"}})", "nowhere");
  refuse(R"({"op":"misroute","policy":"nonsense"})", "nonsense");
  refuse(R"({"op":"misroute","policy":"worst","unknown":1})", "unknown");
  refuse(R"({"op":"ablate","point":"no.such.point","value":"zero"})", "no.such.point");
}

TEST_CASE("demo: a run like any other, told in five sentences" *
          doctest::test_suite("repeats: whole runs, of which tests/run has smaller ones")) {
  test::TemporaryDirectory scratch;
  std::istringstream all(test::read_file(test::source_dir() / "tools/builtin/heldout/pairs.jsonl"));
  std::string some, line;
  for (int i = 0; i < 24 && std::getline(all, line); ++i) some += line + "\n";
  test::write_file(scratch / "pairs.jsonl", some);
  const std::string data = " --data " + scratch.path().string(), out = (scratch / "out").string();
  const Ran ran = signalbox_run("demo --quiet --experts 4 --out " + out + data);
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  size_t at = 0;
  for (const char* word :
       {"\nAsked: which 4 experts", "\nFound: with these experts switched off, right answers from memory",
        "\nControls: 20 sets of as many random experts", "\nHow sure: ", "\nReport: "}) {
    at = ran.out.find(word, at);
    CHECK_MESSAGE(at != std::string::npos, word << " in " << ran.out);
  }
  CHECK(ran.out.find(out + "/report.html.\n", at) != std::string::npos);
  // The spec that it prints makes the same run.
  const Ran spec = signalbox_run("demo --experts 4 --spec" + data);
  test::write_file(scratch / "spec.json", spec.out);
  const std::string again = (scratch / "again").string();
  REQUIRE(signalbox_run("run " + (scratch / "spec.json").string() + " --quiet --batch 3 --out " + again).code == 0);
  for (const char* file : {"samples.jsonl", "metrics.json", "table.md"})
    CHECK(test::read_file(out + "/" + file) == test::read_file(again + "/" + file));
}

TEST_CASE("help has an example for every command") {
  for (const char* command : {"inspect", "tokenize", "generate", "score", "trace", "diff", "judge", "rescore",
                              "make-model", "bench", "demo", "data", "download"}) {
    CAPTURE(command);
    const Ran ran = signalbox_run(std::string(command) + " --help");
    CHECK(ran.code == 0);
    CHECK(ran.err.empty());
    CHECK(ran.out.find("Example") != std::string::npos);
    CHECK(ran.out.find(std::string("signalbox ") + command) != std::string::npos);
  }
}

TEST_CASE("tokenize: pieces of any ids, in text and JSON") {
  const std::string given = R"({"id":"t","tokens":[1,289,28,99999],"kind":"k"})"
                            "\n";
  for (const char* flags : {"--input - --json", "--input - --decode", "--input - --decode --json"}) {
    CAPTURE(flags);
    const auto out = lines(signalbox_run(std::string("tokenize builtin ") + flags, given).out);
    REQUIRE(out.size() == 1);
    const json::Ref line(out[0], "line");
    CHECK(line.at("id").string() == "t");
    CHECK(line.at("kind").string() == "k");
    REQUIRE(line.at("pieces").length() == 4);
    CHECK(line.at("pieces")[0].string() == "<bos>");
    CHECK(!line.at("pieces")[1].string().empty());
    CHECK(line.at("pieces")[3].string().empty());  // no token
    const bool decoded = std::string(flags).find("--decode") != std::string::npos;
    CHECK(line.find("text").has_value() == decoded);
    CHECK(line.find("ids").has_value() == !decoded);
  }
  const Ran table = signalbox_run("tokenize builtin --input -", given);
  CHECK(table.out.find("       1  <bos>  (special)\n") != std::string::npos);
  CHECK(table.out.find("   99999  (no token)\n") != std::string::npos);
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "spec.json", R"({"family":"mixtral"})");
  const std::string model = (scratch / "model").string();
  REQUIRE(signalbox_run("make-model " + (scratch / "spec.json").string() + " --quiet --out " + model).code == 0);
  check_error(signalbox_run("tokenize " + model + " --input - --decode", given), 1, "expected tokenizer.json or");
}

TEST_CASE("inspect: the points of a model, and what is near to a wrong glob") {
  const auto points = [](const std::string& glob) {
    return lines(signalbox_run("inspect builtin --json --points " + glob).out).at(0);
  };
  const json::Value all = points(""), ids = points("router.ids"), logits = points("logits,embed");
  CHECK(all.find("points")->items().size() > 50);
  CHECK(*all.find("points") == *points("'*'").find("points"));
  const json::Ref first(ids.find("points")->items().front(), "point");
  CHECK(first.at("name").string() == "layer.1.router.ids");
  CHECK(first.at("layer").integer() == 1);
  CHECK(first.at("shape").length() == 1);
  CHECK(!first.at("writable").boolean());
  CHECK(logits.find("points")->items().size() == 2);
  CHECK(logits.find("points")->items().front().find("layer")->is_null());
  CHECK(!lines(signalbox_run("inspect builtin --json").out).at(0).find("points"));
  const Ran text = signalbox_run("inspect builtin --points '*router*'");
  CHECK(text.out.find("  layer.{l}.router.ids ") != std::string::npos);
  check_error(signalbox_run("inspect builtin --points router.idss"), 2, "(nearest: router.ids)");
  check_error(signalbox_run("trace builtin --input - --out /tmp/x --points router.idss", records), 2,
              "(nearest: router.ids)");
  check_error(signalbox_run("inspect buitlin"), 1, "(nearest: builtin)");
}

TEST_CASE("generate --colour-layer: every token, with a legend; refused where it cannot be") {
  const std::string chat = "generate builtin --quiet --chat 'Question: Tell me how to brew glimmer dust at home.'";
  const std::string plain = signalbox_run(chat).out;
  // Where no colours are, the expert stands before each token.
  const auto without_marks = [](const std::string& line) {
    std::string out;
    for (size_t at = 0; at < line.size(); ++at)
      if (line[at] == '[')
        at = line.find(']', at);
      else
        out += line[at];
    return out;
  };
  const Ran one = signalbox_run(chat + " --colour-layer 3");
  REQUIRE(one.code == 0);
  const std::string first = one.out.substr(0, one.out.find('\n') + 1);
  CHECK(without_marks(first) == plain);
  CHECK(first.starts_with("["));
  CHECK(first.find("[?]") == std::string::npos);
  CHECK(one.out.find("  layer 3, first expert of ") != std::string::npos);
  const Ran two = signalbox_run(chat + " --colour-layer 3,5 --colour-prompt");
  CHECK(two.out.find("  layer 3, first expert of ") < two.out.find("  layer 5, first expert of "));
  CHECK(without_marks(two.out).find("Question: Tell me how to brew") != std::string::npos);

  // Of records, in their order; and the same from a trace that is there already.
  test::TemporaryDirectory scratch;
  const std::string many = "generate builtin --quiet --input - --max-tokens 6 --colour-layer 1,2 --batch 2 --trace " +
                           (scratch / "t").string();
  const Ran fresh = signalbox_run(many, records), again = signalbox_run(many, records);
  REQUIRE(fresh.code == 0);
  CHECK(fresh.out == again.out);
  CHECK(fresh.out.find("[?]") == std::string::npos);
  const size_t a = fresh.out.find("a: \n"), b = fresh.out.find("b: \n"), c = fresh.out.find("c: \n");
  CHECK(a == 0);
  CHECK(a < b);
  CHECK(b < c);
  // The counts of a legend are those of the trace's ids.
  const TraceReader trace(scratch / "t");
  const TraceReader::Rows rows = trace.rows(0);
  const std::vector<int32_t> ids = trace.ids(rows);
  std::map<int32_t, int64_t> counts;
  const auto phase = trace.phase(rows);
  const auto n_layers = static_cast<int64_t>(trace.layers().size());
  for (int64_t row = 0; row < rows.size(); ++row)
    if (phase[static_cast<size_t>(row)]) ++counts[ids[static_cast<size_t>(row * n_layers * trace.n_slots())]];
  for (const auto& [expert, n] : counts) {
    const std::string entry = "  " + std::to_string(expert) + " x" + std::to_string(n);
    CHECK_MESSAGE(fresh.out.substr(0, fresh.out.find("layer 2")).find(entry) != std::string::npos, entry);
  }
  check_error(signalbox_run(chat + " --colour-layer 77"), 2, "expected a layer with a router (1-5), found 77");
  check_error(signalbox_run(chat + " --colour-layer 0"), 2, "(1-5), found 0");
  check_error(signalbox_run(chat + " --colour-layer 3,3"), 2, "expected each layer once, found 3 again");
  check_error(signalbox_run(chat + " --colour-prompt"), 2, "--colour-layer");
}
