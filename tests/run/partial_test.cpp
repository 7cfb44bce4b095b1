// Runs that are not finished, or of the first records alone: what is read of them, and that they say what they are.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <sstream>
#include <thread>

#include "base/json.h"
#include "eval/experiment/limit.h"
#include "eval/store/finished_lines.h"
#include "tests/kills.h"
#include "tests/run/experiment_sample.h"
#include "tests/run/run_sample.h"
#include "tests/support.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::test;

namespace {

constexpr size_t n_records = 20;

// A run of a baseline, one main intervention and its two controls over 20 questions: 80 samples.
struct QuestionRun {
  TemporaryDirectory temporary;
  fs::path spec = temporary / "spec.json";
  explicit QuestionRun(const std::string& more = "") {
    std::string data;
    for (const std::string& line : lines_of(read_file(test::source_dir() / "tools/builtin/heldout/memory.jsonl")))
      if (const size_t have = lines_of(data).size(); have < n_records) data += line + "\n";
    write_file(temporary / "data.jsonl", data);
    write_file(spec, R"({"model": "builtin", "data": "data.jsonl", "generate": {"max_tokens": 8},
      "interventions": [{"name": "baseline"}, {"name": "off", "edits": [
        {"op": "deactivate", "mode": "ban", "experts": {"1": [0, 7], "4": [3, 5, 11]}}]}],
      "controls": {"random": 2}, "metrics": ["em", "kl"], "resamples": 200)" +
                         more + "}");
  }
  std::vector<std::string> arguments(const fs::path& out) const {
    return {"run", spec.string(), "--out", out.string(), "--quiet"};
  }
  Ran run(const fs::path& out, const std::string& more = "") const {
    return run_command(test::binary() + " run " + spec.string() + " --out " + out.string() + " --quiet " + more);
  }
};

Ran binary_with(const std::string& arguments) { return run_command(test::binary() + " " + arguments); }

double em_of(const std::string& line) { return json::parse(line, "line").find("scores")->find("em")->real(); }

}  // namespace

TEST_CASE("finished lines: those of both files, whatever their order, beside the process that writes them") {
  const TemporaryDirectory dir;
  const Layout layout = sample_layout();
  SampleLog log(dir.path(), layout);
  const FinishedLines none(dir.path(), layout);
  CHECK(none.n_known() == 0);
  std::vector<int64_t> put;
  for (const int64_t line : shuffled(layout.n_lines(), 7)) {
    if (put.size() == 20) break;
    log.put(line, sample_text(log.layout(), log.layout().place(line)));
    put.push_back(line);
  }
  const auto check = [&] {
    const FinishedLines lines(dir.path(), layout);
    CHECK(lines.n_lines() == layout.n_lines());
    CHECK(lines.n_known() == 20);
    for (int64_t line = 0; line < lines.n_lines(); ++line) {
      const bool known = std::find(put.begin(), put.end(), line) != put.end();
      CHECK(lines.has(line) == known);
      if (known) CHECK(lines.text(line) == sample_text(layout, layout.place(line)));
    }
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t r = 0; r < 3; ++r) {
        bool all = true;
        for (int64_t k = 0; k < layout.samples[static_cast<size_t>(r)]; ++k)
          all = all && lines.has(layout.line({1, i, r, k}));
        CHECK(lines.has_record(1, i, r) == all);
      }
  };
  check();
  // What a process that was killed, or a machine that lost power, leaves at the ends.
  const std::string journal = read_file(dir / "journal.jsonl"), samples = read_file(dir / "samples.jsonl");
  write_file(dir / "journal.jsonl", journal + "[3,{\"seed\":");
  write_file(dir / "samples.jsonl", samples + std::string(30, '\0') + "\n");
  check();
  write_file(dir / "journal.jsonl", journal + "{}\n");
  CHECK(message_of([&] { FinishedLines(dir.path(), layout); }).find("expected a line [number,{...}]") !=
        std::string::npos);
}

TEST_CASE("a run that is not finished: what is done is compared, and marked as partial" *
          doctest::test_suite("repeats: runs that other tests make too")) {
  const QuestionRun one;
  const fs::path whole = one.temporary / "whole", part = one.temporary / "part", copy = one.temporary / "copy";
  REQUIRE(one.run(whole).code == 0);
  const std::vector<std::string> lines = lines_of(read_file(whole / "samples.jsonl"));
  REQUIRE(lines.size() == 80);

  // Of the baseline records 0 to 12, 15 and 17; of "off" records 3, 5, 13 and 17, of a control record 4.
  fs::create_directory(part);
  for (const char* file : {"plan.json", "records.jsonl", "log.txt"}) fs::copy_file(whole / file, part / file);
  std::string manifest = read_file(whole / "manifest.json"), samples, journal;
  for (size_t at; (at = manifest.find("\"complete\"")) != std::string::npos;) manifest.replace(at, 10, "\"running\"");
  write_file(part / "manifest.json", manifest);
  for (size_t i = 0; i < 13; ++i) samples += lines[i] + "\n";
  for (const size_t i : {20 + 17, 15, 20 + 3, 40 + 4, 20 + 13, 17, 20 + 5})
    journal += "[" + std::to_string(i) + "," + lines[i] + "]\n";
  write_file(part / "samples.jsonl", samples + lines[13].substr(0, 40));
  write_file(part / "journal.jsonl", journal + "[14,{");
  fs::copy(part, copy, fs::copy_options::recursive);

  const Ran csv = binary_with("report " + part.string() + " --table csv --all");
  REQUIRE_MESSAGE(csv.code == 0, csv.err);
  const std::vector<std::string> rows = lines_of(csv.out);
  const auto cell = [&](const std::string& start, const std::string& column) {
    const auto cells = [](const std::string& row) {
      std::vector<std::string> out(1);
      for (const char c : row) {
        if (c == ',')
          out.emplace_back();
        else
          out.back() += c;
      }
      return out;
    };
    const std::vector<std::string> heading = cells(rows[0]);
    const size_t at = static_cast<size_t>(std::find(heading.begin(), heading.end(), column) - heading.begin());
    for (const std::string& row : rows)
      if (row.starts_with(start)) return cells(row).at(at);
    return std::string("no such row");
  };
  CHECK(cell(",em,off,", "n") == "3");
  CHECK(cell(",em,off/random-0,", "n") == "1");
  CHECK(cell(",em,off/random-1,", "n") == "0");
  CHECK(cell(",em,off,", "scope") == "partial 20/80");
  double difference = 0, baseline = 0;
  for (const size_t r : {3, 5, 17}) difference += (em_of(lines[20 + r]) - em_of(lines[r])) / 3;
  for (const size_t r : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 17}) baseline += em_of(lines[r]) / 15;
  CHECK(std::stod(cell(",em,off,", "diff")) == doctest::Approx(difference));
  CHECK(std::stod(cell(",em,off,", "baseline")) == doctest::Approx(baseline));

  const std::string told =
      "partial: 20 of 80 samples; the run is not finished, and all numbers will change\n"
      "compared are records that an intervention and the baseline have finished, of 20: "
      "baseline 15, off 3, 2 controls 0 to 1\n";
  const Ran text = binary_with("report " + part.string() + " --table text");
  CHECK_MESSAGE(text.out.starts_with(told + "\n"), text.out);
  CHECK(binary_with("report " + part.string() + " --table md").out.starts_with("> partial: 20 of 80 samples"));
  CHECK(binary_with("report " + part.string() + " --table tex").out.find("% partial: 20 of 80") != std::string::npos);
  const Ran report = binary_with("report " + part.string());
  CHECK_MESSAGE(report.out.starts_with(told), report.out);
  const std::string page = read_file(part / "partial-report.html");
  CHECK(page.find("<b>partial: 20 of 80 samples") != std::string::npos);
  // Texts of the journal are among those that are counted: 13 of the baseline's stand in samples.jsonl.
  CHECK(page.find("<td>baseline</td><td class=\"n\">15</td>") != std::string::npos);
  CHECK(binary_with("analyze " + part.string() + " --resamples 100 --quiet").out.starts_with(told));
  const json::Value metrics = json::parse(binary_with("analyze " + part.string() + " --json --quiet").out, "analyze");
  CHECK(
      json::dump(*metrics.find("partial")) ==
      R"({"samples":20,"of":80,"records":20,"interventions":{"baseline":15,"off":3,"off/random-0":1,"off/random-1":0}})");
  // Nothing that the run would take for its own.
  for (const char* file : {"metrics.json", "table.md", "report.html", "analysis"})
    CHECK_MESSAGE(!fs::exists(part / file), file);
  CHECK(binary_with("analyze " + part.string() + " --quiet --out " + (part / "analysis").string()).code == 2);
  const fs::path elsewhere = one.temporary / "look";
  REQUIRE(binary_with("analyze " + part.string() + " --quiet --out " + elsewhere.string()).code == 0);
  CHECK(read_file(elsewhere / "table.md").starts_with("> partial: 20 of 80 samples"));
  CHECK(binary_with("report " + elsewhere.string() + " --table text").out.starts_with(told));
  // Others want a finished run.
  const Ran rescored =
      binary_with("rescore " + part.string() + " --metrics em --out " + (one.temporary / "r").string());
  CHECK(rescored.code == 1);
  CHECK(rescored.err.find("expected a run that is complete") != std::string::npos);

  // Looking changed nothing, and the finished run is the same, without the partial report.
  for (const char* file : {"samples.jsonl", "journal.jsonl", "manifest.json"})
    CHECK_MESSAGE(read_file(part / file) == read_file(copy / file), file);
  REQUIRE(one.run(part).code == 0);
  for (const char* file : {"samples.jsonl", "metrics.json", "table.md", "table.csv", "report.html"})
    CHECK_MESSAGE(read_file(part / file) == read_file(whole / file), file);
  CHECK_FALSE(fs::exists(part / "partial-report.html"));

  // Before the first comparison there is nothing to show.
  write_file(copy / "journal.jsonl", "");
  const Ran early = binary_with("report " + copy.string());
  CHECK(early.code == 1);
  CHECK(early.err.find("found none in 13 of 80 samples (look again later)") != std::string::npos);
}

TEST_CASE("a run can be looked at while it goes on, and after kill -9" *
          doctest::test_suite("repeats: a run that is killed again and again")) {
  const QuestionRun one;
  const fs::path whole = one.temporary / "whole", out = one.temporary / "out";
  REQUIRE(one.run(whole).code == 0);
  const pid_t child = start_binary(one.arguments(out));
  const auto started = std::chrono::steady_clock::now();
  const auto known = [&] {
    size_t n = 0;
    for (const char* file : {"samples.jsonl", "journal.jsonl"})
      if (fs::exists(out / file)) n += lines_of(read_file(out / file)).size();
    return n;
  };
  while (known() < 12 && std::chrono::steady_clock::now() - started < std::chrono::seconds(60))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill(child, SIGSTOP);
  if (!fs::exists(out / "metrics.json")) {
    const Ran beside = binary_with("report " + out.string() + " --table text");
    CHECK_MESSAGE((beside.out.starts_with("partial: ") || beside.err.find("look again later") != std::string::npos),
                  beside.err);
  }
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  if (!fs::exists(out / "metrics.json")) {
    const Ran after = binary_with("report " + out.string());
    CHECK_MESSAGE((after.out.starts_with("partial: ") || after.err.find("look again later") != std::string::npos),
                  after.err);
  }
  REQUIRE(one.run(out).code == 0);
  for (const char* file : {"samples.jsonl", "metrics.json", "report.html"})
    CHECK_MESSAGE(read_file(out / file) == read_file(whole / file), file);
}

TEST_CASE("the first records: so many of each split and condition, pairs whole") {
  const std::optional<SplitSpec> split = SplitSpec{"split", "a", "", "b"};
  std::vector<std::string> lines;
  const auto add = [&](const std::string& id, const std::string& part, const std::string& condition,
                       const std::string& pair) {
    lines.push_back("'id': '" + id + "', 'prompt': 'p " + id + "', 'split': '" + part + "', 'condition': '" +
                    condition + "'" + (pair.empty() ? "" : ", 'pair': '" + pair + "'"));
  };
  add("0", "a", "x", "p0");
  add("1", "b", "x", "p1");
  add("2", "a", "y", "p0");
  add("3", "c", "x", "");  // of no split that is used
  add("4", "a", "x", "p2");
  add("5", "b", "x", "");
  add("6", "b", "x", "");
  add("7", "b", "y", "p1");
  add("8", "a", "y", "p2");
  add("9", "b", "y", "");
  const std::vector<Record> records = records_of(lines);
  CHECK(first_records(split, records, 1) == std::vector<size_t>{0, 1, 2, 7});
  CHECK(first_records(split, records, 2) == std::vector<size_t>{0, 1, 2, 4, 5, 7, 8, 9});
  CHECK(first_records(split, records, 100) == std::vector<size_t>{0, 1, 2, 4, 5, 6, 7, 8, 9});
  // Without a split there is one part: a pair comes whole where one side is wanted.
  CHECK(first_records(std::nullopt, records, 1) == std::vector<size_t>{0, 2});
  CHECK(first_records(std::nullopt, records, 3) == std::vector<size_t>{0, 1, 2, 3, 4, 7, 8});
}

TEST_CASE("--limit: a run of its own, that says so everywhere") {
  const QuestionRun one;
  const fs::path out = one.temporary / "out", whole = one.temporary / "whole";
  const Ran limited = one.run(out, "--limit 3");
  REQUIRE_MESSAGE(limited.code == 0, limited.err);
  const std::string told = "limited: the first 3 records of each split and condition, 3 of 20 (--limit)";
  CHECK(limited.out.starts_with(told));
  CHECK(lines_of(read_file(out / "records.jsonl")).size() == 3);
  CHECK(read_file(out / "table.md").starts_with("> " + told));
  CHECK(read_file(out / "table.csv").find("limit 3") != std::string::npos);
  CHECK(read_file(out / "report.html").find("<b>" + told) != std::string::npos);
  CHECK(read_file(out / "metrics.json").find("\"limit\": {") != std::string::npos);
  CHECK(read_file(out / "manifest.json").find("\"limit\": 3") != std::string::npos);
  const Ran again = one.run(out);
  CHECK(again.code == 1);
  CHECK_MESSAGE(again.err.find("limit: was 3, now nothing") != std::string::npos, again.err);
  CHECK(one.run(out, "--limit 4").err.find("limit: was 3, now 4") != std::string::npos);
  // One that leaves nothing out is the whole run.
  REQUIRE(one.run(whole, "--limit 20").code == 0);
  CHECK(read_file(whole / "manifest.json").find("\"limit\": ") == std::string::npos);
  CHECK(one.run(whole).code == 0);
}
