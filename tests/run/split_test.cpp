// Splits, and what the data refuses before a model is opened.
#include "eval/experiment/split.h"

#include "eval/data/prompt_hash.h"
#include "eval/store/facts.h"
#include "tests/run/experiment_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

const std::string both = ", 'split': {'detect': 'a', 'test': 'b'}";
const std::string three = ", 'split': {'detect': 'a', 'tune': 'c', 'test': 'b'}";

std::string indices(const std::vector<int64_t>& list) {
  std::string text;
  for (int64_t i : list) text += std::to_string(i) + " ";
  return text;
}

// Messages with the command at their end that mends the data, and without it.
std::string whole_split_error(const std::string& spec, const std::vector<std::string>& lines) {
  return error_of([&] { split_records(spec_of(entries() + spec), records_of(lines)); });
}

std::string whole_data_error(const std::string& spec, const std::vector<std::string>& lines,
                             const std::filesystem::path& base_dir = ".") {
  return error_of([&] { check_against_records(spec_of(spec, base_dir), records_of(lines)); });
}

std::string without_hint(const std::string& message) {
  const size_t hint = message.find("signalbox data ");
  return hint == std::string::npos ? message : message.substr(0, message.rfind("; ", hint));
}

std::string split_error(const std::string& spec, const std::vector<std::string>& lines) {
  return without_hint(whole_split_error(spec, lines));
}

std::string data_error(const std::string& spec, const std::vector<std::string>& lines,
                       const std::filesystem::path& base_dir = ".") {
  return without_hint(whole_data_error(spec, lines, base_dir));
}

std::vector<std::string> notes(const std::string& spec, const std::vector<std::string>& lines) {
  return check_against_records(spec_of(spec), records_of(lines)).notes;
}

std::vector<RankingOrigin> origins(const std::string& spec, const std::vector<std::string>& lines,
                                   const std::filesystem::path& base_dir) {
  return check_against_records(spec_of(spec, base_dir), records_of(lines)).facts.rankings;
}

}  // namespace

TEST_CASE("split: each record serves the purpose that its key says") {
  const std::vector<std::string> lines = {
      "'id': '0', 'prompt': 'p', 'split': 'b'", "'id': '1', 'prompt': 'q', 'split': 'a'",
      "'id': '2', 'prompt': 'r', 'split': 'x'", "'id': '3', 'prompt': 's', 'split': 'c'",
      "'id': '4', 'prompt': 't', 'split': 'a'"};
  Splits splits = split_records(spec_of(entries() + three), records_of(lines));
  CHECK(indices(splits.detect) == "1 4 ");
  CHECK(indices(splits.tune) == "3 ");
  CHECK(indices(splits.test) == "0 ");
  CHECK(splits.unused == 1);
  splits = split_records(spec_of(entries() + ", 'split': {'test': 'a'}"), records_of(lines));
  CHECK(indices(splits.test) == "1 4 ");
  CHECK(splits.detect.empty());
  CHECK(splits.unused == 3);
  splits = split_records(spec_of(entries()), records_of(lines));
  CHECK(indices(splits.test) == "0 1 2 3 4 ");
  CHECK(splits.test == splits.detect);
  CHECK(splits.tune.empty());
  CHECK(splits.unused == 0);
  splits = split_records(spec_of(entries() + ", 'split': {'key': 'part', 'test': 'z'}"),
                         records_of({"'id': '0', 'prompt': 'p', 'part': 'z', 'split': 'b'"}));
  CHECK(indices(splits.test) == "0 ");
  CHECK(notes(entries() + both, lines) ==
        std::vector<std::string>{"2 records are of no split that the experiment uses: they are left out"});
}

TEST_CASE("split: the key must be there, and every value be used") {
  const std::string a = "'id': '0', 'prompt': 'p', 'split': 'a'", b = "'id': '1', 'prompt': 'q', 'split': 'b'";
  CHECK(split_error(both, {a, b, "'id': '2', 'prompt': 'r'"}) == "D.jsonl:3: expected the key \"split\", found none");
  CHECK(split_error(", 'split': {'key': 'part', 'test': 'b'}", {a}) ==
        "D.jsonl:1: expected the key \"part\", found none");
  CHECK(split_error(both, {a, b, "'id': '2', 'prompt': 'r', 'split': 'b', 'split2': 1"}) == "no error");
  CHECK(split_error(", 'split': {'key': 'n', 'test': 'b'}", {a + ", 'n': 1"}) ==
        "D.jsonl:1: n: expected a string, found 1");
  CHECK(split_error(three, {a, b}) ==
        "S.json: split.tune: expected a value of the records' \"split\" (a, b), found \"c\"");
  CHECK(split_error(both, {a}) == "S.json: split.test: expected a value of the records' \"split\" (a), found \"b\"");
  CHECK(split_error(both, {b}) == "S.json: split.detect: expected a value of the records' \"split\" (b), found \"a\"");
}

TEST_CASE("split: one example may not serve two purposes") {
  const auto record = [](const std::string& id, const std::string& prompt, const std::string& split,
                         const std::string& more = "") {
    return "'id': '" + id + "', 'prompt': '" + prompt + "', 'split': '" + split + "'" + more;
  };
  const std::string pair = ", 'pair': 'p1'";
  CHECK(split_error(both, {record("0", "x", "a", pair), record("1", "y", "b", pair)}) ==
        "D.jsonl:2: expected the records of one example in one split, found \"0\" in detect and \"1\" in test (pair "
        "\"p1\")");
  CHECK(split_error(three, {record("0", "x", "c", pair), record("1", "y", "b", pair), record("2", "z", "a")}) ==
        "D.jsonl:2: expected the records of one example in one split, found \"0\" in tune and \"1\" in test (pair "
        "\"p1\")");
  // A record that no purpose uses is no matter.
  CHECK(split_error(both, {record("0", "x", "a", pair), record("1", "y", "z", pair), record("2", "w", "b")}) ==
        "no error");
  CHECK(split_error(both, {record("0", "x", "a"), record("1", "y", "b", ", 'paraphrase_of': '0'")}) ==
        "D.jsonl:2: expected the records of one example in one split, found \"0\" in detect and \"1\" in test (one is "
        "the "
        "other's paraphrase)");
  CHECK(
      split_error(both, {record("1", "y", "b", ", 'paraphrase_of': '0'"), record("0", "x", "a")})
          .starts_with(
              "D.jsonl:2: expected the records of one example in one split, found \"1\" in test and \"0\" in detect"));
  // The same text under two ids.
  CHECK(split_error(both, {record("0", "x", "a"), record("1", "y", "b"), record("2", "x", "b")}) ==
        "D.jsonl:1: expected an example in one split, found the same prompt as \"2\" in test and as \"0\" in detect");
  CHECK(split_error(both, {record("0", "x", "a"), record("1", "x", "b", ", 'target': 'other', 'condition': 'B'")})
            .starts_with("D.jsonl:1: expected an example in one split"));
  CHECK(split_error(both, {"'id': '0', 'tokens': [1, 2], 'split': 'a'", "'id': '1', 'tokens': [1, 2], 'split': 'b'"})
            .starts_with("D.jsonl:1: expected an example in one split"));
  CHECK(split_error(both, {"'id': '0', 'tokens': [1, 2], 'split': 'a'", "'id': '1', 'tokens': [12], 'split': 'b'",
                           record("2", "1 2 ", "b")}) == "no error");
  CHECK(split_error(both, {"'id': '0', 'messages': [{'role': 'user', 'content': 'q'}], 'split': 'a'",
                           "'id': '1', 'messages': [{'content': 'q', 'role': 'user'}], 'split': 'b'"})
            .starts_with("D.jsonl:1: expected an example in one split"));
  CHECK(split_error(both, {record("0", "x", "a"), record("1", "x", "a"), record("2", "y", "b")}) == "no error");
  // White space and the form of accents make no other prompt.
  CHECK(split_error(both, {record("0", "caf\u00e9 x", "a"), record("1", " cafe\u0301  x ", "b")})
            .starts_with("D.jsonl:1: expected an example in one split, found the same prompt as \"1\""));
  // A whole pair again under other names, or one of its records alone.
  const std::string p2 = ", 'pair': 'p2'";
  CHECK(split_error(both, {record("0", "d+q", "a", pair), record("1", "q", "a", pair), record("2", "q", "b", p2),
                           record("3", "d+q", "b", p2)})
            .starts_with("D.jsonl:1: expected an example in one split, found the same prompt as \"3\" in test"));
  CHECK(split_error(both, {record("0", "d+q", "a", pair), record("1", "q", "a", pair), record("2", "q", "b")}) ==
        "D.jsonl:3: expected an example in one split, found the same prompt as \"1\" in detect and as \"2\" in test");
}

TEST_CASE("split: different pairs that share one side are told, not refused") {
  const std::vector<std::string> lines = {
      "'id': '0', 'prompt': 'd1 q', 'pair': '1', 'split': 'a'", "'id': '1', 'prompt': 'q', 'pair': '1', 'split': 'a'",
      "'id': '2', 'prompt': 'd2 q', 'pair': '2', 'split': 'b'", "'id': '3', 'prompt': 'q', 'pair': '2', 'split': 'b'"};
  CHECK(notes(entries() + both, lines) ==
        std::vector<std::string>{
            "2 records share their prompt with another split, as one side of different pairs (first: "
            "\"1\"). Their pairs were not seen as a whole, but on these records effects may be too large, for their "
            "experts were chosen on prompts that are tested too. signalbox data split DATA --replace deals such pairs "
            "out together"});
}

TEST_CASE("data: conditions, spans and pairs that detection asks for") {
  const std::string
      a = "'id': '0', 'prompt': 'xyz', 'condition': 'A', 'pair': '1', 'spans': {'s': [0, 1]}, 'split': 'a'",
      b = "'id': '1', 'prompt': 'yz', 'condition': 'B', 'pair': '1', 'target': 't', 'split': 'a'",
      c = "'id': '2', 'prompt': 'zz', 'condition': 'C', 'split': 'b'";
  const auto stage = [&](const std::string& keys, const std::string& more = "") {
    return data_error(entries() + ", 'detect': {'m': {" + keys + "}}" + more, {a, b, c});
  };
  CHECK(stage("'contrast': 'A:B'") == "no error");
  CHECK(stage("'contrast': 'A:C'") == "no error");
  CHECK(stage("'contrast': 'A:D'") ==
        "S.json: detect.m.contrast: expected a condition of the records (A, B, C), found \"D\"");
  CHECK(stage("'contrast': 'A:C'", both) ==
        "S.json: detect.m.contrast: expected a condition of the split to detect on (A, B), found \"C\"");
  CHECK(stage("'contrast': 'A:B', 'span': 's'") ==
        "S.json: detect.m.span: expected a span that a record under \"B\" has (target), found \"s\"");
  CHECK(stage("'contrast': 'B:C', 'span': 'target'") ==
        "S.json: detect.m.span: expected a span that a record under \"C\" has (there are none), found \"target\"");
  CHECK(stage("'contrast': 'A:B', 'length_match': true") == "no error");
  CHECK(
      stage("'contrast': 'A:C', 'length_match': true") ==
      "S.json: detect.m.length_match: expected a partner under the other condition in the pair of every record, found "
      "none for \"0\"");
  CHECK(data_error(entries() + ", 'detect': {'m': {'contrast': 'A:B'}}", {"'id': '0', 'prompt': 'p'"}) ==
        "S.json: detect.m.contrast: expected a condition of the records (there are none), found \"A\"");
}

TEST_CASE("data: spans that edits ask for, among the records that are run") {
  const std::vector<std::string> lines = {"'id': '0', 'prompt': 'abc', 'spans': {'doc': [0, 1]}, 'split': 'a'",
                                          "'id': '1', 'prompt': 'abd', 'spans': {'question': [0, 1]}, 'split': 'b'"};
  const auto run = [&](const std::string& span, const std::string& more = "") {
    return data_error(
        entries("{'name': 'x', 'edits': [{'op': 'top_k', 'k': 1}, {'op': 'top_k', 'k': 1, 'tokens': {'span': "
                "'" +
                span + "'}}]}") +
            more,
        lines);
  };
  CHECK(run("doc") == "no error");
  CHECK(run("question", both) == "no error");
  CHECK(run("doc", both) ==
        "S.json: interventions[1].edits[1].tokens.span: expected a span that a record has (question), "
        "found \"doc\"");
  CHECK(run("target") ==
        "S.json: interventions[1].edits[1].tokens.span: expected a span that a record has (doc, "
        "question), found \"target\"");
  CHECK(
      data_error(entries("{'name': 'x', 'grid': {'s': ['doc', 'dog']}, 'edits': [{'op': 'top_k', 'k': 1, 'tokens': "
                         "{'span': '$s'}}]}"),
                 lines) ==
      "S.json: interventions[1] (s=dog).edits[0].tokens.span: expected a span that a record has (doc, question), found "
      "\"dog\"");
  CHECK(data_error(entries() + ", 'audit': {'experts': {'2': [1]}, 'tokens': {'span': 'dog'}}", lines) ==
        "S.json: audit.tokens.span: expected a span that a record has (doc, question), found \"dog\"");
}

TEST_CASE("data: experts from an analysis of the records to be tested need a split") {
  TemporaryDirectory dir;
  write_file(dir / "rd.csv", "layer,expert,rd\n1,0,0.5\n");
  const std::vector<std::string> lines = {"'id': 'r0', 'prompt': 'p', 'split': 'a'",
                                          "'id': 'r1', 'prompt': 'q', 'split': 'b'",
                                          "'id': 'r2', 'prompt': 'r', 'split': 'c'"};
  const std::string off = entries(
      "{'name': 'off', 'edits': [{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': 'rd.csv', 'top': 1}}]}");
  const std::string place = "S.json: interventions[1].edits[0].experts.from: expected ";
  const std::string rd = (dir / "rd.csv").string(), summary = (dir / "summary.json").string();
  CHECK(data_error(off, lines, dir.path()) == "no error");  // nothing says what the file was made from
  write_file(dir / "summary.json", R"({"seed": 0})");
  CHECK(data_error(off, lines, dir.path()) == "no error");
  write_file(dir / "summary.json", R"({"records": ["other", "r1"]})");
  CHECK(data_error(off, lines, dir.path()) ==
        place + "a \"split\", for " + rd +
            " was made from records that are to be tested, found none (first such "
            "record: \"r1\")");
  CHECK(data_error(off + both, lines, dir.path()) ==
        place + "no record of " + summary + " among those to be tested, found \"r1\"");
  CHECK(data_error(off + ", 'split': {'test': 'c'}", lines, dir.path()) == "no error");
  CHECK(data_error(off + ", 'split': {'tune': 'b', 'test': 'c'}", lines, dir.path()) ==
        place + "no record of " + summary + " among those to be tested, found \"r1\"");
  write_file(dir / "summary.json", R"({"records": ["r0"]})");
  CHECK(data_error(off + both, lines, dir.path()) == "no error");
  CHECK(data_error(entries() + ", 'audit': {'from': 'rd.csv', 'top': 1}", lines, dir.path())
            .starts_with("S.json: audit.from: expected a \"split\""));
  // A record derived from one that was looked at.
  CHECK(data_error(off, {"'id': 'r0@R1', 'base': 'r0', 'prompt': 'p'"}, dir.path()).starts_with(place + "a \"split\""));
  write_file(dir / "summary.json", R"({"records": [3]})");
  CHECK(data_error(off, lines, dir.path()) == summary + ": records[0]: expected a string, found 3");
  write_file(dir / "summary.json", "{");
  CHECK(data_error(off, lines, dir.path()).starts_with(summary));
}

TEST_CASE("data: experts chosen on prompts that are to be tested are refused by hash, whatever the ids") {
  TemporaryDirectory dir;
  std::filesystem::create_directory(dir / "t");
  write_file(dir / "t/rd.csv", "layer,expert,rd\n1,0,0.5\n");
  write_file(dir / "t/npmi.csv", "layer,expert,npmi\n1,0,0.5\n");
  const auto off = [](const std::string& file) {
    return entries("{'name': 'off', 'edits': [{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': '" + file +
                   "', 'top': 1" + (file == "t/npmi.csv" ? ", 'by': 'npmi'" : "") + "}}]}");
  };
  const auto quoted = [](const std::string& text) { return "\"" + prompt_hash(text) + "\""; };
  const std::vector<std::string> lines = {"'id': 'r0', 'prompt': 'p', 'split': 'a'",
                                          "'id': 'r1', 'prompt': ' q', 'split': 'b'",
                                          "'id': 'r2', 'prompt': 'q\\n', 'split': 'b', 'condition': 'B'"};
  const std::string summary = (dir / "t/summary.json").string();
  // The ids are those of other records: they decide nothing.
  write_file(dir / "t/summary.json", "{\"records\": [\"r0\"], \"prompts\": [" + quoted("q") + "]}");
  CHECK(data_error(off("t/rd.csv") + both, lines, dir.path()) ==
        "S.json: interventions[1].edits[0].experts.from: expected no prompt of " + summary +
            " among those to be tested, found 2 (\"r1\", \"r2\")");
  CHECK(data_error(off("t/rd.csv"), lines, dir.path()) ==
        "S.json: interventions[1].edits[0].experts.from: expected a \"split\", for " + (dir / "t/rd.csv").string() +
            " was chosen on prompts that are to be tested, found none; such records: 2 (\"r1\", \"r2\")");
  CHECK(data_error(off("t/rd.csv") + ", 'split': {'test': 'a'}", lines, dir.path()) == "no error");
  CHECK(origins(off("t/rd.csv") + ", 'split': {'test': 'a'}", lines, dir.path()).at(0).problem.empty());
  write_file(dir / "t/summary.json", "{\"records\": [\"r1\"], \"prompts\": [" + quoted("x") + "]}");
  CHECK(data_error(off("t/rd.csv") + both, lines, dir.path()) == "no error");
  // What another name of the same prompt says, and what other tables than that of the contrast count.
  write_file(dir / "t/summary.json", "{\"prompts\": [], \"prompt_aliases\": [" + quoted("q") + "]}");
  CHECK(data_error(off("t/rd.csv") + both, lines, dir.path()).find("found 2") != std::string::npos);
  write_file(dir / "t/summary.json", "{\"prompts\": [], \"not_in_contrast\": {\"prompts\": [" + quoted("q") + "]}}");
  CHECK(data_error(off("t/rd.csv") + both, lines, dir.path()) == "no error");
  CHECK(data_error(off("t/npmi.csv") + both, lines, dir.path()).find("found 2") != std::string::npos);
  // A record that a prompt program made of one that was looked at.
  write_file(dir / "t/summary.json", "{\"prompts\": [" + quoted("base") + "]}");
  CHECK(data_error(off("t/rd.csv"),
                   {"'id': 'z@R1', 'prompt': 'base, think', 'base_prompt': '" + prompt_hash("base") + "'"}, dir.path())
            .find("found none; such records: 1 (\"z@R1\")") != std::string::npos);
  write_file(dir / "t/summary.json", "{\"prompts\": [3]}");
  CHECK(data_error(off("t/rd.csv"), lines, dir.path()) == summary + ": prompts[0]: expected a string, found 3");
}

TEST_CASE("data: a ranking of unknown origin is told") {
  TemporaryDirectory dir;
  write_file(dir / "rd.csv", "layer,expert,rd\n1,0,0.5\n");
  const std::vector<std::string> lines = {"'id': 'r0', 'prompt': 'p'"};
  const std::string edit = "{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': 'rd.csv', 'top': '$n'}}";
  const std::string off = entries("{'name': 'off', 'grid': {'n': [1, 2]}, 'edits': [" + edit + "]}") +
                          ", 'audit': {'from': 'rd.csv', 'top': 1}";
  const auto problem = [&] {
    const std::vector<RankingOrigin> found = origins(off, lines, dir.path());
    REQUIRE(found.size() == 1);  // a file, however often it is named
    CHECK(found[0].file == "rd.csv");
    CHECK(found[0].path == "interventions[1] (n=1).edits[0].experts.from");
    return found[0].problem;
  };
  CHECK(problem() == "beside which there is no summary.json");
  CHECK(check_against_records(spec_of(off, dir.path()), records_of(lines)).notes ==
        std::vector<std::string>{
            "experts of unknown origin: interventions[1] (n=1).edits[0].experts.from takes them from "
            "rd.csv, beside which there is no summary.json. If they were chosen on the records that are "
            "tested, effects are too large, and nobody can tell. Take the file where signalbox wrote it, with its "
            "summary.json beside it, or detect in the run"});
  write_file(dir / "summary.json", "{\"seed\": 0}");
  CHECK(problem() == "whose summary.json does not say which prompts chose it");
  write_file(dir / "summary.json", "{\"records\": [\"other\"]}");
  CHECK(problem() == "whose summary.json lists ids, not prompts");
  write_file(dir / "summary.json", "{\"prompts\": [], \"prompts_incomplete\": true}");
  CHECK(problem() == "whose summary.json knows only some of the prompts that chose it");
  write_file(dir / "summary.json", "{\"prompts\": []}");
  CHECK(problem().empty());
  // Beside a summary of other files: its prompts are still held against the records.
  const std::string hash = file_hash(dir / "rd.csv");
  write_file(dir / "summary.json", "{\"prompts\": [], \"tables\": {\"rd.csv\": \"" + hash + "\"}}");
  CHECK(problem().empty());
  write_file(dir / "summary.json", "{\"prompts\": [], \"tables\": {\"rd.csv\": \"" + std::string(64, 'a') + "\"}}");
  CHECK(problem() == "which is none of the tables that the summary.json beside it is about");
}

TEST_CASE("data: files that edits name must be there") {
  TemporaryDirectory dir;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': 'none', 'top': 1}}", ".experts.from"},
      {"{'op': 'replay', 'trace': 'none'}", ""},
      {"{'op': 'misroute', 'policy': 'frequency_matched', 'rates': 'none'}", ""},
      {"{'op': 'ablate', 'point': 'moe.out', 'value': 'none:t'}", ""},
      {"{'op': 'ablate', 'point': 'moe.out', 'value': {'mean_of': 'none'}}", ""},
      {"{'op': 'add', 'point': 'moe.out', 'vector': 'none:t'}", ""},
      {"{'op': 'patch', 'point': 'moe.out', 'from': 'none'}", ""}};
  const std::vector<std::string> lines = {"'id': '0', 'prompt': 'p'"};
  for (const auto& [edit, key] : cases) {
    const std::string keys = entries("{'name': 'x', 'edits': [" + edit + "]}");
    CHECK(data_error(keys, lines, dir.path()) ==
          "S.json: interventions[1].edits[0]" + key + ": expected a file, found none at " + (dir / "none").string());
    write_file(dir / "none", "");
    CHECK(data_error(keys, lines, dir.path()) == "no error");
    std::filesystem::remove(dir / "none");
  }
}

TEST_CASE("data: metrics for which every record lacks something") {
  const std::string text = ", 'generate': {}";
  const std::string with = "'id': '0', 'prompt': 'p', 'answers': ['x'], 'split': 'a'",
                    without = "'id': '1', 'prompt': 'q', 'split': 'b'";
  CHECK(data_error(entries() + text + ", 'metrics': ['kl', 'em']", {with, without}) == "no error");
  CHECK(data_error(entries() + text + ", 'metrics': ['kl', 'em']", {without}) ==
        "S.json: metrics[1]: expected a record that has what \"em\" needs, found none (\"1\" lacks answers)");
  CHECK(data_error(entries() + text + both + ", 'metrics': ['em']", {with, without}) ==
        "S.json: metrics[0]: expected a record that has what \"em\" needs, found none (\"1\" lacks answers)");
  const std::string tune = ", 'split': {'tune': 'b', 'test': 'a'}, 'tune': {'metric': 'em', 'goal': 'lower'}";
  const std::string grid = entries("{'name': 'g', 'grid': {'k': [1, 2]}, 'edits': [{'op': 'top_k', 'k': '$k'}]}");
  CHECK(data_error(grid + text + tune, {with, without}) ==
        "S.json: tune.metric: expected a record that has what \"em\" needs, found none (\"1\" lacks answers)");
}

TEST_CASE("data: metrics for which the records lack something together") {
  const std::string with = "'id': '0', 'prompt': 'p', 'pair': '1', 'document': 'd', 'target': 't'",
                    without = "'id': '1', 'prompt': 'q', 'pair': '1', 'target': 't'",
                    other = "'id': '1', 'prompt': 'q', 'pair': '1', 'target': 'u'";
  const std::string gain = entries() + ", 'metrics': ['document_gain']";
  const std::string error =
      "S.json: metrics[0]: expected records that have what \"document_gain\" needs, found none (they lack a pair with "
      "and without a document and with one target)";
  CHECK(data_error(gain, {with, without}) == "no error");
  CHECK(data_error(gain, {with, other}) == error);
  CHECK(data_error(gain, {with}) == error);
  CHECK(data_error(gain, {"'id': '0', 'prompt': 'p'"}) ==
        "S.json: metrics[0]: expected a record that has what \"document_gain\" needs, found none (\"0\" lacks pair)");
  const std::string wordings = entries() + ", 'generate': {}, 'metrics': ['paraphrase_agreement']";
  CHECK(data_error(wordings, {"'id': '0', 'prompt': 'p'", "'id': '1', 'prompt': 'q', 'paraphrase_of': '0'"}) ==
        "no error");
  CHECK(data_error(wordings, {"'id': '0', 'prompt': 'p'", "'id': '1', 'prompt': 'q', 'paraphrase_of': '9'"}) ==
        "S.json: metrics[0]: expected records that have what \"paraphrase_agreement\" needs, found none (they lack two "
        "wordings of one question)");
}

TEST_CASE("data: a spec without metrics gets those of the contract that it and the records allow") {
  const auto metrics = [](const std::string& more, const std::string& record) {
    std::string text;
    for (const std::string& name : default_metrics(spec_of(entries() + more), records_of({"'id': '0', " + record})))
      text += name + " ";
    return text;
  };
  CHECK(metrics("", "'prompt': 'p', 'answers': ['x']") == "ppl kl ");
  CHECK(metrics(", 'generate': {}", "'tokens': [1, 2]").find("em") == std::string::npos);
  const std::string all = metrics(", 'generate': {}", "'prompt': 'p', 'answers': ['x'], 'document': 'x'");
  CHECK(all.starts_with("em f1 grounded "));
  CHECK(all.ends_with("ppl kl repetition "));
}

TEST_CASE("split: edits of tokens that no text of the run has are refused") {
  const auto edited = [](const std::string& tokens) {
    return entries("{'name': 'off', 'edits': [{'op': 'misroute', 'policy': 'worst', 'tokens': " + tokens + "}]}");
  };
  const std::vector<std::string> lines = {"'id': '0', 'prompt': 'p', 'target': 't', 'answers': ['t']"};
  const std::string generated = edited("{'phase': 'generated'}");
  CHECK(data_error(generated + ", 'metrics': ['ppl']", lines) ==
        "S.json: interventions[1].edits[0].tokens.phase: expected tokens that are run, found \"generated\" (without "
        "\"generate\" a run has only given tokens)");
  CHECK(data_error(generated + ", 'generate': {'max_tokens': 1}", lines)
            .ends_with("(with max_tokens 1 the new token comes from the last given one)"));
  CHECK(data_error(generated + ", 'generate': {'max_tokens': 2}", lines) == "no error");
  CHECK(data_error(edited("{'fraction': 0}") + ", 'metrics': ['ppl']", lines) == "no error");
  const auto target_error = [&](const std::string& metrics) {
    return error_of([&] {
      check_edited_targets(spec_of(edited("{'span': 'target'}") + ", 'generate': {}, 'metrics': [" + metrics + "]"));
    });
  };
  CHECK(target_error("'em'") ==
        "S.json: interventions[1].edits[0].tokens.span: expected a span of the prompt, or a metric for which targets "
        "are run (such as ppl or kl), found \"target\" and metrics of generated text alone");
  CHECK(target_error("'em', 'kl'") == "no error");
}

TEST_CASE("data: a refusal ends with the command that mends the file") {
  const auto hint = [](const std::string& message) {
    const size_t at = message.find("; ");
    return at == std::string::npos ? message : message.substr(at + 2);
  };
  const std::string plain = "'id': '0', 'prompt': 'p'", a = plain + ", 'split': 'a'";
  CHECK(
      hint(whole_split_error(both, {plain})) ==
      "signalbox data split ./D.jsonl --fractions a=0.5,b=0.5 --out ./D_split.jsonl deals the records out (or the run "
      "does: deactivate --split 0.5, in a spec \"split\": {\"share\": 0.5})");
  CHECK(
      hint(whole_split_error(three, {a, "'id': '1', 'prompt': 'q'"})) ==
      "signalbox data split ./D.jsonl --replace --fractions a=0.4,c=0.2,b=0.4 --out ./D_split.jsonl deals the records "
      "out");
  CHECK(hint(whole_split_error(both, {a, "'id': '1', 'prompt': 'p', 'split': 'b'"}))
            .starts_with("signalbox data split "
                         "./D.jsonl --replace"));
  const std::string stage = entries() + ", 'detect': {'m': {'contrast': 'A:B'}}";
  CHECK(hint(whole_data_error(stage, {plain + ", 'question': 'q', 'document': 'd'"})) ==
        "signalbox data pairs document ./D.jsonl --out ./D_pairs.jsonl makes two conditions");
  CHECK(hint(whole_data_error(stage, {plain + ", 'unsafe': 'u'"}))
            .starts_with("signalbox data pairs completions ./D.jsonl"));
  CHECK(hint(whole_data_error(stage, {plain})).ends_with(" --map condition=KEY --out ./D_records.jsonl"));
  // Where records have conditions, those are listed, and nothing has to be made.
  CHECK(whole_data_error(stage, {plain + ", 'condition': 'C'"}).ends_with("(C), found \"A\""));
  CHECK(hint(whole_data_error(entries() + ", 'generate': {}, 'metrics': ['em']", {plain})) ==
        "where the file has it under another key: signalbox data convert jsonl ./D.jsonl --map answers=KEY --out "
        "./D_records.jsonl");
  CHECK(hint(whole_data_error(entries() + ", 'metrics': ['document_gain']",
                              {plain + ", 'question': 'q', 'document': 'd'"})) ==
        "signalbox data pairs document ./D.jsonl --out ./D_pairs.jsonl --target");
}
