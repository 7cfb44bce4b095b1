// What long commands share: a directory of their own schema, and files whose lines come in any order.
#include "eval/store/work_directory.h"

#include <set>
#include <span>

#include "base/files.h"
#include "eval/store/line_log.h"
#include "tests/run/run_sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

Manifest study_manifest(int64_t seed = 3) {
  Manifest manifest;
  manifest.schema = "signalbox.study/1";
  manifest.identity.set("seed", seed).set("marker", "Answer:");
  return manifest;
}

// Line i is {"n": i}.
LineRules numbered(int64_t n) {
  LineRules rules;
  rules.n_lines = n;
  rules.name = [](int64_t line) { return "number " + std::to_string(line); };
  rules.check_line = [](int64_t line, const json::Ref& value) {
    if (value.at("n").integer() != line) value.fail("expected n " + std::to_string(line) + ", found another");
  };
  return rules;
}

std::string number(int64_t n) { return "{\"n\":" + std::to_string(n) + "}"; }

}  // namespace

TEST_CASE("work directory: each schema by itself") {
  TemporaryDirectory dir;
  {
    WorkDirectory work(dir.path(), study_manifest());
    CHECK(!work.complete());
    CHECK(!work.continued());
    work.set_info("tables", json::Value::object().set("resamples", 10));
    work.finish(RunStatus::complete);
  }
  CHECK(schema_of(dir.path()) == "signalbox.study/1");
  CHECK(Manifest::read(dir.path(), "signalbox.study/1")->info.find("tables")->find("resamples")->integer() == 10);
  const std::string where = (dir / "manifest.json").string();
  CHECK(message_of([&] { Manifest::read(dir.path()); }) ==
        where + ": expected a run of schema \"signalbox.run/1\", found \"signalbox.study/1\"");
  CHECK(message_of([&] { WorkDirectory(dir.path(), sample_manifest()); }) ==
        where + ": expected a run of schema \"signalbox.run/1\", found \"signalbox.study/1\"");
  CHECK(message_of([&] { WorkDirectory(dir.path(), study_manifest(4)); }).find("seed: was 3, now 4") !=
        std::string::npos);
  CHECK(schema_of(dir / "nowhere").empty());
  write_file(dir / "manifest.json", "{");
  CHECK(schema_of(dir.path()).empty());
}

TEST_CASE("work directory: a complete one is left as it is until it is opened again") {
  TemporaryDirectory dir;
  { WorkDirectory(dir.path(), study_manifest()).finish(RunStatus::complete); }
  const std::string before = read_file(dir / "manifest.json"), log = read_file(dir / "log.txt");
  {
    WorkDirectory work(dir.path(), study_manifest());
    CHECK(work.complete());
    CHECK(work.continued());
    work.finish(RunStatus::interrupted);
  }
  CHECK(read_file(dir / "manifest.json") == before);
  CHECK(read_file(dir / "log.txt") == log);
  {
    WorkDirectory work(dir.path(), study_manifest());
    work.reopen();
    CHECK(!work.complete());
    CHECK(Manifest::read(dir.path(), "signalbox.study/1")->status == RunStatus::running);
    work.reopen();  // nothing more to do
    // Thrown out of the command: no finish().
  }
  const Manifest manifest = *Manifest::read(dir.path(), "signalbox.study/1");
  CHECK(manifest.status == RunStatus::failed);
  REQUIRE(manifest.attempts.size() == 2);
  CHECK(manifest.attempts[0].status == RunStatus::complete);
}

TEST_CASE("work directory: other work takes the place of what has not done anything") {
  TemporaryDirectory dir;
  { WorkDirectory(dir.path(), study_manifest()).log("and then an Error"); }  // no finish(): failed
  CHECK(Manifest::read(dir.path(), "signalbox.study/1")->status == RunStatus::failed);
  fs::create_directories(dir / "stages");
  write_file(dir / "stages/pairs.jsonl", "");
  write_file(dir / "settings.json", "{}");
  write_file(dir / "pairs.csv.tmp-12", "half");
  check_work(dir.path(), study_manifest(4));
  CHECK(fs::exists(dir / "settings.json"));
  {
    WorkDirectory work(dir.path(), study_manifest(4));
    CHECK(!work.continued());
    CHECK(work.manifest().attempts.size() == 1);
    CHECK(Manifest::read(dir.path(), "signalbox.study/1")->identity.find("seed")->integer() == 4);
    for (const char* gone : {"settings.json", "stages/pairs.jsonl", "pairs.csv.tmp-12"}) CHECK(!fs::exists(dir / gone));
    work.finish(RunStatus::interrupted);
  }
  // One line is something; so is work that ended, whatever it left, and a work's own file in a directory of others.
  const auto refused = [&](std::span<const char* const> own = {}) {
    return message_of([&] { WorkDirectory(dir.path(), study_manifest(5), own); }).find("seed: was 4, now 5") !=
               std::string::npos &&
           message_of([&] { check_work(dir.path(), study_manifest(5), own); }).find("seed: was 4, now 5") !=
               std::string::npos;
  };
  write_file(dir / "stages/pairs.jsonl", "{\"n\":0}\n");
  CHECK(refused());
  constexpr const char* own[] = {"pairs.csv"};
  check_work(dir.path(), study_manifest(5), own);  // the lines belong to others
  write_file(dir / "pairs.csv", "a\n");
  CHECK(refused(own));
  fs::remove_all(dir / "stages");
  fs::remove(dir / "pairs.csv");
  { WorkDirectory(dir.path(), study_manifest(4)).finish(RunStatus::complete); }
  CHECK(refused());
}

TEST_CASE("line log: any order, found again, and what is not its own") {
  TemporaryDirectory dir;
  const fs::path file = dir / "stage.jsonl", journal = dir / "stage.journal.jsonl";
  {
    LineLog log(file, journal, numbered(4));
    log.put(2, number(2));
    log.put(0, number(0));
    CHECK(read_file(file) == number(0) + "\n");
    CHECK(message_of([&] { log.put(0, number(0)); }).find("found number 0 again") != std::string::npos);
    CHECK(message_of([&] { log.put(1, number(3)); }).find("expected n 1, found another") != std::string::npos);
    CHECK(message_of([&] { log.put(4, number(4)); }).find("expected one of 4 lines") != std::string::npos);
    CHECK(message_of([&] { log.finish(); }).find("expected all of 4 lines, found 2") != std::string::npos);
  }
  write_file(file, read_file(file) + "{\"n\":");  // torn
  {
    LineLog log(file, journal, numbered(4));
    CHECK(log.cut_bytes() == 5);
    CHECK(log.n_known() == 2);
    CHECK(log.line(2) == number(2));
    log.put(1, number(1));
    log.put(3, number(3));
    log.finish();
  }
  CHECK(read_file(file) == number(0) + "\n" + number(1) + "\n" + number(2) + "\n" + number(3) + "\n");
  CHECK(!fs::exists(journal));
  CHECK(message_of([&] { LineLog(file, journal, numbered(3)); }).find("expected the end after 3 lines") !=
        std::string::npos);
  LineLog empty(dir / "none.jsonl", dir / "none.journal.jsonl", numbered(0));
  CHECK(empty.whole());
  empty.finish();
  CHECK(read_file(dir / "none.jsonl").empty());
}
