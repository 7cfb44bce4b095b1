#include "eval/store/directory.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <set>

#include "base/files.h"
#include "tests/run/run_sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

// Every file with its bytes.
std::map<std::string, std::string> bytes_of(const fs::path& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(dir))
    if (entry.is_regular_file()) files[entry.path().lexically_relative(dir).string()] = read_file(entry.path());
  return files;
}

void run_whole(const fs::path& dir) {
  RunDirectory run(dir, sample_manifest());
  if (run.complete()) return;
  run.begin(sample_layout());
  put_missing(run.samples());
  run.finish_samples();
  write_file_atomically(dir / "metrics.json", "{}\n");
  run.finish(RunStatus::complete);
}

// A change of the sample manifest and what it is refused with.
template <class Change>
std::string refusal(const fs::path& dir, Change change) {
  Manifest manifest = sample_manifest();
  change(manifest);
  std::string message = message_of([&] { RunDirectory(dir, manifest); });
  const std::string start =
      (dir / "manifest.json").string() +
      ": expected the run that was begun there, found another (take another directory, or remove this one): ";
  return message.starts_with(start) ? message.substr(start.size()) : message;
}

json::Value parsed(const char* text) { return json::parse(text, "test"); }

Environment slurm(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
}

std::string shard_of(const std::map<std::string, std::string>& variables) {
  try {
    const auto shard = slurm_shard(slurm(variables));
    return shard ? shard->text() : "none";
  } catch (const UsageError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("run directory: begun, continued, complete; then nothing changes any more") {
  TemporaryDirectory parent;
  const fs::path dir = parent / "out" / "run";
  {
    RunDirectory run(dir, sample_manifest());
    CHECK_FALSE(run.continued());
    CHECK_FALSE(run.complete());
    CHECK(message_of([&] { run.samples(); }) != "no error");
    run.begin(sample_layout());
    run.samples().put(0, sample_text(sample_layout(), {0, 0, 0, 0}));
    CHECK(Manifest::read(dir)->status == RunStatus::running);
    CHECK(fs::exists(dir / "lock"));
    run.finish(RunStatus::interrupted);
  }
  CHECK_FALSE(fs::exists(dir / "lock"));
  Manifest manifest = *Manifest::read(dir);
  CHECK(manifest.status == RunStatus::interrupted);
  CHECK(manifest.attempts.size() == 1);
  CHECK_FALSE(manifest.end.empty());
  const std::string begun = manifest.start;
  {
    RunDirectory run(dir, sample_manifest());
    CHECK(run.continued());
    run.begin(sample_layout());
    CHECK(run.samples().n_known() == 1);
    put_missing(run.samples());
    // Thrown out of the command: no finish().
  }
  CHECK(Manifest::read(dir)->status == RunStatus::failed);
  run_whole(dir);
  manifest = *Manifest::read(dir);
  CHECK(manifest.status == RunStatus::complete);
  CHECK(manifest.start == begun);
  REQUIRE(manifest.attempts.size() == 3);
  CHECK(manifest.attempts[0].status == RunStatus::interrupted);
  CHECK(manifest.attempts[1].status == RunStatus::failed);
  CHECK(manifest.attempts[2].status == RunStatus::complete);
  CHECK(read_file(dir / "samples.jsonl") == whole_text(sample_layout()));
  const auto before = bytes_of(dir);
  std::set<std::string> names;
  for (const auto& [name, bytes] : before) names.insert(name);
  CHECK(names == std::set<std::string>{"log.txt", "manifest.json", "metrics.json", "samples.jsonl"});
  {
    RunDirectory run(dir, sample_manifest());
    CHECK(run.complete());
    CHECK(run.continued());
    CHECK(run.samples().whole());
    CHECK_THROWS_AS(run.begin(sample_layout()), Error);
    run.finish(RunStatus::complete);
  }
  CHECK(bytes_of(dir) == before);
  // A result that was removed is made again.
  fs::remove(dir / "metrics.json");
  {
    RunDirectory run(dir, sample_manifest());
    CHECK_FALSE(run.complete());
    run.begin(sample_layout());
    CHECK(run.samples().whole());
    run.finish(RunStatus::complete);
  }
  CHECK(Manifest::read(dir)->attempts.size() == 4);
}

TEST_CASE("run directory: the manifest holds what it is given, at its top level") {
  TemporaryDirectory dir;
  {
    RunDirectory run(dir.path(), sample_manifest(Shard{1, 4}));
    // Before any other file of the run, so that what a killed process leaves is known as a run.
    REQUIRE(Manifest::read(dir.path()).has_value());
    CHECK(Manifest::read(dir.path())->to_json().find("seeds")->is_null());
    run.begin(sample_layout());
    run.finish(RunStatus::interrupted);
  }
  const json::Value file = json::parse_file(dir / "manifest.json");
  CHECK(file.find("schema")->string() == "signalbox.run/1");
  CHECK(file.find("status")->string() == "interrupted");
  CHECK(file.find("shard")->string() == "1/4");
  CHECK(file.find("isa")->string() == "avx2");
  CHECK(file.find("argv")->items().size() == 2);
  CHECK(json::dump(*file.find("seeds")) == "[0,18446744073709551615]");
  CHECK(json::dump(*file.find("compared")) == "[\"spec\",\"hashes\",\"isa\"]");
  for (const char* key : {"start", "end"}) {
    const std::string time = file.find(key)->string();
    CHECK(time.size() == 20);
    CHECK(time.ends_with("Z"));
  }
  CHECK(Manifest::read(dir.path())->to_json() == file);
  Manifest wrong = sample_manifest();
  wrong.info.set("isa", "scalar");
  CHECK_THROWS_AS(wrong.to_json(), Error);
  wrong = sample_manifest();
  wrong.info.set("status", "fine");
  CHECK_THROWS_AS(wrong.to_json(), Error);
}

TEST_CASE("run directory: another run is refused, with each difference") {
  TemporaryDirectory parent;
  const fs::path dir = parent / "run";
  {
    RunDirectory run(dir, sample_manifest());
    run.begin(sample_layout());
    run.samples().put(0, sample_text(sample_layout(), {0, 0, 0, 0}));
    run.finish(RunStatus::interrupted);
  }
  const auto before = bytes_of(dir);
  CHECK(refusal(dir, [](Manifest& m) { m.identity.set("isa", "avx512"); }) == "isa: was \"avx2\", now \"avx512\"");
  CHECK(refusal(dir, [](Manifest& m) { m.identity.set("numerics", "fast"); }) == "numerics: was nothing, now \"fast\"");
  CHECK(refusal(dir, [](Manifest& m) {
          m.identity = json::Value::object().set("spec", *m.identity.find("spec")).set("isa", "avx2");
        }).starts_with("hashes: was {\"data\":\"aaaa"));
  CHECK(refusal(dir,
                [](Manifest& m) {
                  m.identity.set("hashes",
                                 parsed(("{\"data\": \"" + std::string(63, 'a') + "1\", \"weights\": {\"w\": \"" +
                                         std::string(20, 'b') + std::string(44, 'c') + "\"}}")
                                            .c_str()));
                }) == "hashes.data: was " + std::string(63, 'a') + "0..., now " + std::string(63, 'a') +
                          "1...; hashes.weights.w: was bbbbbbbbbbbbbbbbbbbbbbbb..., now bbbbbbbbbbbbbbbbbbbbcccc...");
  CHECK(refusal(dir, [](Manifest& m) {
          m.identity.set("spec", parsed(R"({"model": "builtin", "generate": {"max_tokens": 64, "temperature": 0},
                                            "interventions": [{"name": "baseline"}, {"name": "off", "layers": "1"}]})"));
        }) == "spec.generate.max_tokens: was 32, now 64; spec.interventions[1].layers: was \"1-3\", now \"1\"");
  CHECK(refusal(dir, [](Manifest& m) {
          m.identity.set("spec", parsed(R"({"model": "builtin", "generate": {"max_tokens": 32, "temperature": 0},
                                            "interventions": [{"name": "baseline"}]})"));
        }) == "spec.interventions: was 2 items, now 1 items");
  CHECK(refusal(dir, [](Manifest& m) { m.shard = {0, 2}; }) == "shard: was none, now 0/2");
  // What does not decide results may change.
  CHECK(refusal(dir, [](Manifest& m) {
          m.layout = sample_layout({"a", "b", "d"});
        }) == "layout.records[2]: was \"c\", now \"d\"");
  CHECK(bytes_of(dir) == before);
  CHECK(refusal(dir, [](Manifest& m) { m.info.set("argv", json::Value::array()).set("batch", 3); }) == "no error");
  RunDirectory run(dir, sample_manifest());
  CHECK(message_of([&] {
          run.begin(sample_layout({"a", "b"}, {1, 3}));
        }).find("layout.records: was 3 items, now 2") != std::string::npos);
}

TEST_CASE("run directory: differences are short, and long values are shown where they part") {
  const std::string long_a = std::string(100, 'x') + "left" + std::string(100, 'y');
  const std::string long_b = std::string(100, 'x') + "right" + std::string(100, 'y');
  const auto found = differences(json::Value(long_a), json::Value(long_b), "k");
  REQUIRE(found.size() == 1);
  CHECK(found[0] == "k: was ...xxxxxxxxxxleft" + std::string(46, 'y') + "..., now ...xxxxxxxxxxright" +
                        std::string(45, 'y') + "...");
  CHECK(differences(parsed("{\"a\":1,\"b\":[1,2]}"), parsed("{\"b\":[1,3],\"c\":null}")) ==
        std::vector<std::string>{"a: was 1, now nothing", "b[1]: was 2, now 3", "c: was nothing, now null"});
  CHECK(differences(parsed("{\"a\":1}"), parsed("{\"a\":1.0}")).size() == 1);
  CHECK(differences(parsed("{\"a\":1,\"b\":2}"), parsed("{\"b\":2,\"a\":1}")).empty());
  std::vector<std::string> many(11, "d");
  CHECK(joined_differences(many) == "d; d; d; d; d; d; d; d; and 3 more");
}

TEST_CASE("run directory: files that are no run are left alone") {
  TemporaryDirectory dir;
  write_file(dir / "notes.tmp-12", "mine");
  const auto before = bytes_of(dir.path());
  CHECK(message_of([&] { RunDirectory(dir.path(), sample_manifest()); }) ==
        dir.path().string() +
            ": expected an empty directory or one that holds a run, found \"notes.tmp-12\" and no "
            "manifest.json");
  CHECK(bytes_of(dir.path()) == before);
  write_file(dir / "lock", "my lock\n");
  CHECK(message_of([&] { RunDirectory(dir.path(), sample_manifest()); }) ==
        (dir / "lock").string() + ": expected the lock of a run, found a file of another kind");
  CHECK(read_file(dir / "lock") == "my lock\n");
  TemporaryDirectory other;
  write_file(other / "manifest.json", "{\"schema\": \"other/1\"}");
  CHECK(message_of([&] { RunDirectory(other.path(), sample_manifest()); }) ==
        (other / "manifest.json").string() + ": expected a run of schema \"signalbox.run/1\", found \"other/1\"");
  write_file(other / "file", "");
  CHECK(message_of([&] { RunDirectory(other / "file", sample_manifest()); }).find("cannot make the directory") !=
        std::string::npos);
}

TEST_CASE("run directory: what a killed process left is removed, and no more") {
  TemporaryDirectory dir;
  write_file(dir / "lock", "process 1 on elsewhere\n");
  write_file(dir / "manifest.json.tmp-77", "{");
  {
    RunDirectory run(dir.path(), sample_manifest());
    run.begin(sample_layout());
    run.finish(RunStatus::interrupted);
  }
  fs::create_directories(dir / "traces/off");
  for (const char* name : {"metrics.json.tmp-5", "traces/off/trace.safetensors.tmp-123", "traces/off/.trace-spool-9"})
    write_file(dir / name, "x");
  for (const char* name : {"traces/off/a.tmp-", "traces/off/b.tmp-1x"}) write_file(dir / name, "x");
  { RunDirectory run(dir.path(), sample_manifest()); }
  std::set<std::string> names;
  for (const auto& [name, bytes] : bytes_of(dir.path())) names.insert(name);
  CHECK(names ==
        std::set<std::string>{"log.txt", "manifest.json", "samples.jsonl", "traces/off/a.tmp-", "traces/off/b.tmp-1x"});
}

TEST_CASE("run directory: one process at a time, and a killed one is no hindrance") {
  TemporaryDirectory dir;
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    try {
      RunDirectory run(dir.path(), sample_manifest());
      run.begin(sample_layout());
      if (write(ready[1], "x", 1) == 1) pause();
    } catch (...) {
    }
    _exit(1);
  }
  char byte = 0;
  REQUIRE(read(ready[0], &byte, 1) == 1);
  char host[256] = {};
  REQUIRE(gethostname(host, sizeof host - 1) == 0);
  CHECK(message_of([&] { RunDirectory(dir.path(), sample_manifest()); }) ==
        dir.path().string() + ": expected a directory that no other run uses, found it in use by process " +
            std::to_string(child) + " on " + host);
  kill(child, SIGKILL);
  REQUIRE(waitpid(child, nullptr, 0) == child);
  close(ready[0]);
  close(ready[1]);
  CHECK(fs::exists(dir / "lock"));
  RunDirectory run(dir.path(), sample_manifest());
  CHECK(read_file(dir / "lock") == "process " + std::to_string(getpid()) + " on " + host + "\n");
  REQUIRE(run.manifest().attempts.size() == 2);
  CHECK(run.manifest().attempts[0].status == RunStatus::interrupted);
  CHECK(run.manifest().attempts[0].end.empty());
}

TEST_CASE("run directory: kill -9 at random instants, then the same bytes" *
          doctest::test_suite("repeats: one small run, killed again and again")) {
  int kills = 0;
  uint64_t random = 7;
  for (int run = 0; run < 4; ++run) {
    TemporaryDirectory parent;
    const fs::path dir = parent / "run";
    uint64_t longest = 4000;  // microseconds that a child lives
    for (bool complete = false; !complete;) {
      const pid_t child = fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        int code = 0;
        try {
          run_whole(dir);
        } catch (...) {
          code = 1;
        }
        _exit(code);
      }
      random = random * 6364136223846793005u + 1442695040888963407u;
      usleep(static_cast<useconds_t>((random >> 33) % longest));
      longest += longest / 8;
      kill(child, SIGKILL);
      int status = 0;
      REQUIRE(waitpid(child, &status, 0) == child);
      if (WIFEXITED(status)) REQUIRE(WEXITSTATUS(status) == 0);
      complete = WIFEXITED(status);
      kills += !complete;
    }
    std::set<std::string> names;
    for (const auto& [name, bytes] : bytes_of(dir)) names.insert(name);
    CHECK(names == std::set<std::string>{"log.txt", "manifest.json", "metrics.json", "samples.jsonl"});
    CHECK(read_file(dir / "samples.jsonl") == whole_text(sample_layout()));
    CHECK(Manifest::read(dir)->status == RunStatus::complete);
  }
  CHECK(kills >= 4);
}

TEST_CASE("run directory: names of traces stay inside, lines of the log are lines") {
  TemporaryDirectory dir;
  RunDirectory run(dir.path(), sample_manifest());
  CHECK(run.trace_dir("mis/policy=random,fraction=0.25") == dir.path() / "traces/mis/policy=random,fraction=0.25");
  for (const char* name : {"", "..", "a/../b", "/etc", "a/", "./a"}) CHECK_THROWS_AS(run.trace_dir(name), Error);
  run.log("two\nlines");
  const std::string log = read_file(dir / "log.txt");
  CHECK(log.find(" begun by process " + std::to_string(getpid()) + "\n") == 20);
  CHECK(log.ends_with("Z two lines\n"));
}

TEST_CASE("shard: parsed, and its records are the whole once") {
  CHECK(parse_shard("0/4") == Shard{0, 4});
  CHECK(parse_shard("3/4").text() == "3/4");
  CHECK(parse_shard("0/1").whole());
  for (const char* text : {"", "1", "4/4", "-1/4", "1/0", "0/0", "a/b", "1/2/3", "1 /2", " 1/2", "1/2 ", "+1/2", "1/",
                           "/2", "0x1/2", "99999999999999999999/2"})
    CHECK_THROWS_AS(parse_shard(text), UsageError);
  CHECK(message_of([] { parse_shard("4/4"); }) == "--shard: expected I/N with I from 0 to N - 1, found \"4/4\"");
  for (int64_t n = 0; n < 20; ++n)
    for (int64_t count = 1; count < 6; ++count) {
      int64_t all = 0;
      for (int64_t i = 0; i < count; ++i) {
        int64_t records = 0;
        for (int64_t r = 0; r < n; ++r) records += Shard{i, count}.has(r);
        CHECK(Shard{i, count}.records_of(n) == records);
        all += records;
      }
      CHECK(all == n);
    }
}

TEST_CASE("shard: Slurm's array variables") {
  const auto array = [](const char* id, const char* min, const char* max, const char* count, const char* step) {
    std::map<std::string, std::string> variables;
    const std::pair<const char*, const char*> all[] = {
        {"ID", id}, {"MIN", min}, {"MAX", max}, {"COUNT", count}, {"STEP", step}};
    for (const auto& [name, value] : all)
      if (value) variables[std::string("SLURM_ARRAY_TASK_") + name] = value;
    return shard_of(variables);
  };
  CHECK(shard_of({}) == "none");
  CHECK(array("0", "0", "3", "4", "1") == "0/4");
  CHECK(array("3", "0", "3", "4", "1") == "3/4");
  CHECK(array("4", "1", "4", "4", "1") == "3/4");     // --array=1-4
  CHECK(array("14", "10", "18", "3", "4") == "1/3");  // --array=10-18:4
  CHECK(array("16", "10", "17", "4", "2") == "3/4");  // --array=10-17:2 ends at 16
  CHECK(array("5", "5", "5", "1", "1") == "none");    // --array=5: one task
  CHECK(array("2", nullptr, nullptr, "4", nullptr) == "2/4");
  CHECK(array("2", "0", "3", nullptr, nullptr) == "2/4");
  // --array=1,3,7: no shards. All of its tasks say so, not the last one alone.
  for (const char* id : {"1", "3", "7"})
    CHECK(array(id, "1", "7", "3", "1") == "SLURM_ARRAY_TASK_ID: expected one of 3 evenly spaced tasks from 1, found " +
                                               std::string(id) + " (give --shard I/N)");
  CHECK(array("4", "0", "3", "4", "1").find("SLURM_ARRAY_TASK_ID: expected") == 0);
  CHECK(array("x", "0", "3", "4", "1") == "SLURM_ARRAY_TASK_ID: expected a whole number, found \"x\"");
  CHECK(array("1", "0", "3", "", "1") == "SLURM_ARRAY_TASK_COUNT: expected a whole number, found \"\"");
  CHECK(array("1", "0", "3", "4", "0") == "SLURM_ARRAY_TASK_STEP: expected at least 1, found 0");
  CHECK(array("1", nullptr, nullptr, nullptr, nullptr).find("SLURM_ARRAY_TASK_COUNT: expected") == 0);

  std::string told = "old";
  const Environment environment = slurm({{"SLURM_ARRAY_TASK_ID", "2"}, {"SLURM_ARRAY_TASK_COUNT", "4"}});
  CHECK(choose_shard("1/3", told, environment) == Shard{1, 3});
  CHECK(told.empty());
  CHECK(choose_shard("", told, environment) == Shard{2, 4});
  CHECK(told == "shard 2/4, from SLURM_ARRAY_TASK_ID (--shard I/N decides otherwise)");
  CHECK(choose_shard("", told, slurm({})).whole());
  CHECK(told.empty());
}
