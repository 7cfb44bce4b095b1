// Prompt programs: what becomes of prompts, messages, spans and settings.
#include "eval/data/programs.h"

#include <doctest/doctest.h>

#include <functional>

#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

Record record(const std::string& text) { return parse_record(json::parse(text, "r"), "f.jsonl:1"); }

std::vector<Program> programs(const std::string& text, const std::filesystem::path& dir = ".") {
  const json::Value value = json::parse(text, "p.json");
  return parse_programs(json::Ref(value, "p.json"), dir);
}

std::string failure(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a program without text changes only names") {
  const Record base = record(R"({"id":"q1","prompt":"Who?","condition":"c","mine":7,"spans":{"w":[0,3]}})");
  const Record derived = apply_program(programs(R"([{"name":"R0"}])").front(), base);
  CHECK(derived.id == "q1@R0");
  CHECK(derived.prompt == "Who?");
  CHECK(derived.condition == "R0");
  CHECK(derived.pair == "q1");
  CHECK(derived.source.find("base")->string() == "q1");
  CHECK(derived.source.find("base_condition")->string() == "c");
  CHECK(derived.source.find("mine")->integer() == 7);
  CHECK(derived.spans.at("w") == std::pair<int64_t, int64_t>(0, 3));
  CHECK(apply_program(programs(R"([{"name":"R0"}])").front(), record(R"({"id":"q","pair":"p","prompt":"x"})")).pair ==
        "p");
}

TEST_CASE("prompts: persona, exemplars and suffix are text, and spans move with theirs") {
  const auto list = programs(R"([{"name":"A","persona":"Bé.","exemplars":[{"user":"Q: x","assistant":"y"},
      {"user":"Q: z\nA:","assistant":" w"}],"suffix":" Go."}])");
  const Record base = record(R"({"id":"q","prompt":"Q: ü?\nA:","spans":{"s":[3,4],"t":[3,5]}})");
  const Record derived = apply_program(list.front(), base);
  CHECK(derived.prompt == "Bé.\n\nQ: x y\n\nQ: z\nA: w\n\nQ: ü?\nA: Go.");
  // In front of the base prompt stand 5 + 8 + 11 = 24 code points, 25 bytes.
  CHECK(derived.spans.at("s") == std::pair<int64_t, int64_t>(27, 28));
  CHECK(derived.spans.at("t") == std::pair<int64_t, int64_t>(27, 29));
}

TEST_CASE("messages: persona is the system message, exemplars are turns, the suffix ends the last message") {
  const auto list = programs(R"([{"name":"A","persona":"P","exemplars":[{"user":"u","assistant":"a"}],"suffix":" S"},
      {"name":"B","like":"A","persona_role":"user"}])");
  const Record base = record(R"({"id":"q","messages":[{"role":"user","content":"Hi"}]})");
  CHECK(json::dump(apply_program(list[0], base).messages) ==
        R"([{"role":"system","content":"P"},{"role":"user","content":"u"},{"role":"assistant","content":"a"},)"
        R"({"role":"user","content":"Hi S"}])");
  CHECK(json::dump(apply_program(list[1], base).messages) ==
        R"([{"role":"user","content":"P\n\nu"},{"role":"assistant","content":"a"},{"role":"user","content":"Hi S"}])");
  const Record with_system =
      record(R"({"id":"q","messages":[{"role":"system","content":"Y"},{"role":"user","content":"Hi"}]})");
  CHECK(json::dump(apply_program(list[0], with_system).messages) ==
        R"([{"role":"system","content":"P\n\nY"},{"role":"user","content":"u"},{"role":"assistant","content":"a"},)"
        R"({"role":"user","content":"Hi S"}])");
}

TEST_CASE("settings, like, and exemplars from a file") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "e.jsonl",
                   "{\"user\":\"u\",\"assistant\":\"a\"}\r\n{\"user\":\"v\",\"assistant\":\"b\"}\n");
  const auto list = programs(R"([{"name":"R1","suffix":"x","exemplars":"e.jsonl","top_k":5},
      {"name":"R3","like":"R1","samples":10,"temperature":0.7,"top_p":0.95,"max_tokens":9}])",
                             scratch.path());
  REQUIRE(list.size() == 2);
  CHECK(list[1].suffix == "x");
  CHECK(list[1].exemplars == std::vector<Exemplar>{{"u", "a"}, {"v", "b"}});
  CHECK(list[1].samples == 10);
  CHECK(list[1].temperature == 0.7);
  CHECK(list[1].top_p == 0.95);
  CHECK(list[1].top_k == 5);
  CHECK(list[1].max_tokens == 9);
  CHECK(!list[0].samples);
  // What is recorded reads back to the same programs.
  const json::Value again = programs_json(list);
  const auto reread = parse_programs(json::Ref(again, "again"), ".");
  CHECK(json::dump(programs_json(reread)) == json::dump(again));
  CHECK(reread[1].exemplars == list[1].exemplars);

  const auto regimes = programs("\"regimes\"");
  REQUIRE(regimes.size() == 4);
  CHECK(!regimes[0].changes_text());
  CHECK(regimes[2].exemplars.size() == 3);
  CHECK(regimes[3].samples == 10);
  CHECK(regimes[3].suffix == regimes[1].suffix);
}

TEST_CASE("what is refused") {
  CHECK(failure([] { programs("\"other\""); }) ==
        "p.json: expected a list of programs or \"regimes\", found \"other\"");
  CHECK(failure([] { programs("[]"); }) == "p.json: expected at least one program, found none");
  CHECK(failure([] { programs(R"([{"name":"A"},{"name":"A"}])"); }).find("expected a name of its own") !=
        std::string::npos);
  CHECK(failure([] { programs(R"([{"name":"A b"}])"); }).find("without spaces") != std::string::npos);
  CHECK(failure([] { programs(R"([{"name":"A","like":"B"}])"); }).find("earlier program") != std::string::npos);
  CHECK(failure([] { programs(R"([{"name":"A","sufix":"x"}])"); }).find("sufix") != std::string::npos);
  CHECK(failure([] { programs(R"([{"name":"A","top_p":1.5}])"); }).find("from 0 to 1") != std::string::npos);
  CHECK(failure([] { programs(R"([{"name":"A","persona_role":"user"}])"); }).find("persona") != std::string::npos);
  CHECK(failure([] { programs(R"([{"name":"A","exemplars":"none.jsonl"}])"); }) ==
        "./none.jsonl: expected a file, found none");
  const Program suffix = programs(R"([{"name":"A","suffix":"x"}])").front();
  CHECK(failure([&] { apply_program(suffix, record(R"({"id":"q","tokens":[1]})")); }) ==
        "f.jsonl:1: program \"A\": expected a prompt or messages, found tokens");
  CHECK(failure([&] { apply_program(suffix, record(R"({"id":"q","prompt":"x","base":"y"})")); }).find("base record") !=
        std::string::npos);
  CHECK(failure([&] {
          apply_program(suffix, record(R"({"id":"q","messages":[{"role":"user","content":"x"}],"spans":{"s":[0,1]}})"));
        }).find("spans: expected none in messages") != std::string::npos);
  CHECK(failure([&] {
          apply_program(suffix, record(R"({"id":"q","messages":[{"role":"assistant","content":"x"}]})"));
        }).find("role user") != std::string::npos);
  const std::vector<Record> twins = {record(R"({"id":"q","prompt":"x"})"), record(R"({"id":"q@A","prompt":"x"})")};
  CHECK(apply_programs({suffix}, twins).size() == 2);
  CHECK(failure([&] { apply_programs({suffix}, {twins[0], twins[0]}); }).find("\"q@A\" again") != std::string::npos);
}
