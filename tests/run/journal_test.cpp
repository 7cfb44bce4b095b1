#include "eval/store/journal.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "tests/run/run_sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

Layout small_layout() {
  Layout layout;
  layout.seeds = {3};
  layout.interventions = {"baseline", "off"};
  layout.records = {"a", "b"};
  layout.samples = {1, 1};
  layout.index();
  return layout;
}

std::string small_line(const char* intervention, const char* id) {
  return std::string("{\"seed\":3,\"intervention\":\"") + intervention + "\",\"id\":\"" + id + "\",\"sample\":0}";
}

// What opening a directory with these two files says.
std::string opening(const std::string& samples, const std::string& journal) {
  TemporaryDirectory dir;
  write_file(dir / "samples.jsonl", samples);
  write_file(dir / "journal.jsonl", journal);
  return message_of([&] { SampleLog(dir.path(), small_layout()); });
}

// Runs `work` in a child; returns the status of waitpid.
template <class Work>
int in_child(Work work) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int code = 99;
    try {
      code = work();
    } catch (...) {
    }
    _exit(code);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

TEST_CASE("layout: lines and places are one to one, in the order seed, intervention, record, sample") {
  const Layout layout = sample_layout();
  CHECK(layout.n_lines() == 36);
  int64_t line = 0;
  for (int64_t s = 0; s < 2; ++s)
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t r = 0; r < 3; ++r)
        for (int64_t n = 0; n < layout.samples[static_cast<size_t>(r)]; ++n, ++line) {
          CHECK(layout.line({s, i, r, n}) == line);
          CHECK(layout.place(line) == Place{s, i, r, n});
        }
  CHECK(line == 36);
  CHECK_THROWS_AS(layout.line({0, 0, 0, 1}), Error);
  CHECK_THROWS_AS(layout.line({0, 3, 0, 0}), Error);
  CHECK_THROWS_AS(layout.place(36), Error);
  CHECK(layout.name({1, 1, 1, 2}) == "seed 18446744073709551615, intervention \"off\", id \"b\", sample 2");
}

TEST_CASE("layout: what no seed touches has lines of the first seed only") {
  Layout layout = sample_layout();
  layout.first_seed_only = {1, 0, 1};
  layout.index();
  const json::Value value = json::parse(json::dump(layout.to_json()), "L");
  CHECK(json::dump(*value.find("first_seed_only")) ==
        "[\"" + layout.interventions[0] + "\",\"" + layout.interventions[2] + "\"]");
  layout = Layout::from_json(json::Ref(value, "L"));
  const int64_t n_records = layout.record_lines();
  CHECK(layout.n_lines() == 4 * n_records);
  int64_t line = 0;
  for (const auto& [s, i] : {std::pair<int64_t, int64_t>(0, 0), {0, 1}, {0, 2}, {1, 1}}) {
    CHECK(layout.has(s, i));
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t n = 0; n < layout.samples[static_cast<size_t>(r)]; ++n, ++line) {
        CHECK(layout.line({s, i, r, n}) == line);
        CHECK(layout.place(line) == Place{s, i, r, n});
      }
  }
  CHECK(line == layout.n_lines());
  CHECK_FALSE(layout.has(1, 0));
  CHECK_THROWS_AS(layout.line({1, 2, 0, 0}), Error);
  layout.first_seed_only = {1, 1, 1};
  layout.index();
  CHECK(layout.n_lines() == 3 * n_records);
  layout.first_seed_only = {1};
  CHECK_THROWS_AS(layout.index(), Error);
}

TEST_CASE("layout: written and read back") {
  for (const std::vector<int64_t>& samples : {std::vector<int64_t>{2, 2, 2}, {1, 3, 2}}) {
    const Layout layout = sample_layout({"a", "b", "c"}, samples);
    const json::Value value = json::parse(json::dump(layout.to_json()), "L");
    const Layout same = Layout::from_json(json::Ref(value, "L"));
    CHECK(same.to_json() == layout.to_json());
    CHECK(same.seeds == layout.seeds);
    CHECK(same.samples == samples);
    CHECK(same.n_lines() == layout.n_lines());
  }
  const auto error = [](const char* text) {
    const json::Value value = json::parse(text, "L");
    return message_of([&] { Layout::from_json(json::Ref(value, "L")); });
  };
  CHECK(error(R"({"seeds":[0],"interventions":["x","x"],"records":["a"],"samples":1})") ==
        "L: interventions[1]: expected each name once, found \"x\" again");
  CHECK(error(R"({"seeds":[0],"interventions":["x"],"first_seed_only":["y"],"records":["a"],"samples":1})") ==
        "L: first_seed_only[0]: expected an intervention, found \"y\"");
  CHECK(error(R"({"seeds":[0],"interventions":["x"],"records":["a"],"samples":[1,2]})") ==
        "L: samples: expected a number for each of 1 records, found 2");
  CHECK(error(R"({"seeds":[0],"interventions":["x"],"records":["a"],"samples":1,"more":0})") != "no error");
}

TEST_CASE("samples: whatever order lines come in, the file is the same, and always a prefix of it") {
  const Layout layout = sample_layout();
  const std::string whole = whole_text(layout);
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    TemporaryDirectory dir;
    SampleLog log(dir.path(), layout);
    int64_t known = 0;
    for (int64_t i : shuffled(36, seed)) {
      CHECK_FALSE(log.has(i));
      log.put(i, sample_text(layout, layout.place(i)));
      CHECK(log.has(i));
      CHECK(log.n_known() == ++known);
      CHECK(log.line(i) == sample_text(layout, layout.place(i)));
      const std::string now = read_file(dir / "samples.jsonl");
      CHECK(whole.starts_with(now));
      CHECK(std::count(now.begin(), now.end(), '\n') == log.n_written());
      CHECK((log.n_written() == 36 || !log.has(log.n_written())));
    }
    CHECK(log.whole());
    CHECK(fs::exists(dir / "journal.jsonl"));
    log.finish();
    log.finish();
    CHECK(read_file(dir / "samples.jsonl") == whole);
    CHECK_FALSE(fs::exists(dir / "journal.jsonl"));
    for (int64_t i = 0; i < 36; ++i) CHECK(log.line(i) == sample_text(layout, layout.place(i)));
  }
}

TEST_CASE("samples: in order no journal is made") {
  TemporaryDirectory dir;
  SampleLog log(dir.path(), small_layout());
  for (int64_t i = 0; i < 4; ++i) log.put(i, sample_text(log.layout(), log.layout().place(i)));
  CHECK_FALSE(fs::exists(dir / "journal.jsonl"));
  log.finish();
}

TEST_CASE("samples: a crash that leaves any number of bytes of either file loses no whole line") {
  const Layout layout = small_layout();
  std::string whole;
  std::vector<std::string> lines;
  for (int64_t i = 0; i < 4; ++i) lines.push_back(sample_text(layout, layout.place(i)));
  for (const std::string& line : lines) whole += line + "\n";
  std::string journal, samples = lines[0] + "\n";
  for (int64_t i : {3, 2}) journal += "[" + std::to_string(i) + "," + lines[static_cast<size_t>(i)] + "]\n";
  int n_checks = 0;
  const auto check = [&](const std::string& s, const std::string& j) {
    TemporaryDirectory dir;
    write_file(dir / "samples.jsonl", s);
    write_file(dir / "journal.jsonl", j);
    SampleLog log(dir.path(), layout);
    const bool torn_samples = !s.empty() && s.back() != '\n', torn_journal = !j.empty() && j.back() != '\n';
    CHECK((log.cut_bytes() > 0) == (torn_samples || torn_journal));
    CHECK(log.n_known() == std::count(s.begin(), s.end(), '\n') + std::count(j.begin(), j.end(), '\n'));
    CHECK((log.n_written() == 4 || !log.has(log.n_written())));  // what waited and is next has moved on
    if (++n_checks % 3 != 0) return;
    put_missing(log);
    log.finish();
    CHECK(read_file(dir / "samples.jsonl") == whole);
  };
  check(lines[0] + "\n" + lines[1] + "\n", journal);
  for (size_t n = 0; n <= samples.size(); n += 1 + (n > 4 && n + 4 < samples.size()))
    check(samples.substr(0, n), journal);
  for (size_t n = 0; n <= journal.size(); n += 1 + (n > 4 && n + 4 < journal.size()))
    check(samples, journal.substr(0, n));
  // Blocks that never reached the disk read as zeros.
  check(samples + std::string(7, '\0'), journal + std::string(3, '\0'));
}

TEST_CASE("samples: a last line that is no JSON is torn, too") {
  TemporaryDirectory dir;
  write_file(dir / "samples.jsonl", small_line("baseline", "a") + "\n{\"seed\":3,\"int\n");
  SampleLog log(dir.path(), small_layout());
  CHECK(log.n_known() == 1);
  CHECK(log.cut_bytes() == 15);
}

TEST_CASE("samples: what is not of this run is refused") {
  const std::string a = small_line("baseline", "a"), b = small_line("baseline", "b"), off = small_line("off", "a");
  CHECK(opening(a + "\n" + b + "\n", "") == "no error");
  CHECK(opening(b + "\n", "")
            .ends_with("samples.jsonl:1: expected the line of seed 3, intervention \"baseline\", id "
                       "\"a\", sample 0, found that of seed 3, intervention \"baseline\", id \"b\", "
                       "sample 0"));
  CHECK(opening(a + "\nnonsense\n" + b + "\n", "")
            .ends_with("samples.jsonl:2: expected a line of JSON, found "
                       "\"nonsense\""));
  CHECK(opening(a + "\n\n" + b + "\n", "").ends_with(":2: expected a line of JSON, found \"\""));
  CHECK(opening("{\"id\":\"a\"}\n", "").find("samples.jsonl:1: ") != std::string::npos);
  CHECK(opening("[1]\n", "").find("samples.jsonl:1: ") != std::string::npos);
  const std::string four = a + "\n" + b + "\n" + off + "\n" + small_line("off", "b") + "\n";
  CHECK(opening(four, "") == "no error");
  CHECK(opening(four + a + "\n", "").ends_with("samples.jsonl:5: expected the end after 4 lines, found another line"));
  CHECK(opening("", "[2," + off + "]\n") == "no error");
  CHECK(opening("", "[2," + off + "]\n[2," + off + "]\n") == "no error");
  CHECK(opening("", "[3," + off + "]\n").find("journal.jsonl:1: ") != std::string::npos);
  CHECK(opening("", "[4," + off + "]\n").ends_with("journal.jsonl:1: expected a line below 4, found 4"));
  CHECK(opening("", "[-2," + off + "]\n").find("expected a line [number,{...}] of the journal") != std::string::npos);
  CHECK(opening("", off + "\n").find("expected a line [number,{...}] of the journal") != std::string::npos);
  std::string other = off;
  other.insert(1, "\"text\":\"\",");
  CHECK(opening("", "[2," + off + "]\n[2," + other + "]\n").find("expected line 3 of the run as it was") !=
        std::string::npos);
  other = a;
  other.insert(1, "\"text\":\"\",");
  CHECK(opening(a + "\n", "[0," + a + "]\n") == "no error");
  CHECK(opening(a + "\n", "[0," + other + "]\n").find("expected line 1 of ") != std::string::npos);
}

TEST_CASE("samples: refuses what cannot be meant") {
  TemporaryDirectory dir;
  SampleLog log(dir.path(), small_layout());
  log.put(0, small_line("baseline", "a"));
  CHECK(message_of([&] { log.put(0, small_line("baseline", "a")); }).find("that is not there yet") !=
        std::string::npos);
  CHECK(message_of([&] { log.put(1, small_line("off", "b")); }).find("expected the line of") != std::string::npos);
  CHECK(message_of([&] { log.put(1, "{\n}"); }).find("expected one line") != std::string::npos);
  CHECK(message_of([&] { log.put(1, "{"); }) != "no error");
  CHECK(message_of([&] { log.put(4, "{}"); }) != "no error");
  CHECK(message_of([&] { log.line(1); }).find("that is known, found 2") != std::string::npos);
  CHECK(message_of([&] { log.finish(); }).find("expected all of 4 lines, found 1") != std::string::npos);
  CHECK(read_file(dir / "samples.jsonl") == small_line("baseline", "a") + "\n");
  CHECK(message_of([&] { SampleLog(dir / "nowhere", small_layout()); }).find("samples.jsonl: cannot open") !=
        std::string::npos);
}

TEST_CASE("samples: kill -9 at random instants loses nothing that was put" *
          doctest::test_suite("repeats: one small run, killed again and again")) {
  Layout layout = sample_layout();
  for (int i = 0; i < 20; ++i) {
    layout.records.push_back("r" + std::to_string(i));
    layout.samples.push_back(1 + i % 3);
  }
  layout.index();
  const std::string whole = whole_text(layout);
  const size_t n_lines = static_cast<size_t>(layout.n_lines());
  // Lines that put() has returned for, told by memory that outlives the child.
  auto* done = static_cast<std::atomic<uint8_t>*>(
      mmap(nullptr, n_lines, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  REQUIRE(done != MAP_FAILED);
  int kills = 0;
  uint64_t random = 99;
  for (int run = 0; run < 5; ++run) {
    TemporaryDirectory dir;
    for (size_t i = 0; i < n_lines; ++i) done[i] = 0;
    uint64_t longest = 4000;  // microseconds that a child lives
    for (bool complete = false; !complete;) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      const pid_t child = fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        int code = 1;
        try {
          SampleLog log(dir.path(), layout);
          code = 0;
          for (size_t i = 0; i < n_lines; ++i)
            if (done[i] && !log.has(static_cast<int64_t>(i))) code = 2;
          for (int64_t i : shuffled(layout.n_lines(), random >> 40)) {
            if (log.has(i)) continue;
            log.put(i, sample_text(layout, layout.place(i)));
            done[i] = 1;
          }
          log.finish();
        } catch (...) {
          code = 3;
        }
        _exit(code);
      }
      usleep(static_cast<useconds_t>((random >> 33) % longest));
      longest += longest / 8;  // so that it ends on a slow machine, too
      kill(child, SIGKILL);
      int status = 0;
      REQUIRE(waitpid(child, &status, 0) == child);
      if (WIFEXITED(status)) {
        REQUIRE(WEXITSTATUS(status) == 0);
        complete = true;
      } else {
        ++kills;
        const std::string now = read_file(dir / "samples.jsonl");
        REQUIRE(whole.starts_with(now));
      }
    }
    CHECK(read_file(dir / "samples.jsonl") == whole);
    CHECK_FALSE(fs::exists(dir / "journal.jsonl"));
  }
  CHECK(kills >= 5);
  munmap(done, n_lines);
}

TEST_CASE("samples: a write that fails is an error that names the file, and all earlier lines stay") {
  const Layout layout = sample_layout();
  for (const bool backwards : {false, true}) {  // samples.jsonl, or the journal
    TemporaryDirectory dir;
    const char* name = backwards ? "journal.jsonl" : "samples.jsonl";
    const int status = in_child([&] {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit limit = {6000, 6000};  // less than two of the longest lines
      if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
      SampleLog log(dir.path(), layout);
      int64_t put = 0;
      try {
        for (int64_t i = 0; i < 36; ++i, ++put) {
          const int64_t line = backwards ? 35 - i : i;
          log.put(line, sample_text(layout, layout.place(line)));
        }
      } catch (const Error& error) {
        if (error.what() != (dir / name).string() + ": cannot write: File too large") return 2;
      }
      if (put == 0 || put == 36) return 3;
      if (log.n_known() != put) return 4;
      // What was put can still be read, and the next line is refused for the same reason.
      for (int64_t i = 0; i < put; ++i)
        if (log.line(backwards ? 35 - i : i).empty()) return 5;
      const std::string now = read_file(dir / name);
      if (now.empty() || now.back() != '\n' || std::count(now.begin(), now.end(), '\n') != put) return 6;
      return 0;
    });
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    SampleLog log(dir.path(), layout);
    CHECK(log.n_known() > 0);
    CHECK(log.cut_bytes() == 0);
    put_missing(log);
    log.finish();
    CHECK(read_file(dir / "samples.jsonl") == whole_text(layout));
  }
}

TEST_CASE("samples: a full disk while waiting lines move on is made good later") {
  const Layout layout = small_layout();
  TemporaryDirectory dir;
  const int status = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    SampleLog log(dir.path(), layout);
    for (int64_t i : {3, 2, 1}) log.put(i, sample_text(layout, layout.place(i)));
    const rlim_t room = sample_text(layout, layout.place(0)).size() + 1 + 5;
    const rlimit limit = {room, room};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    try {
      log.put(0, sample_text(layout, layout.place(0)));  // is written; line 1 is not
      return 2;
    } catch (const Error&) {
    }
    if (!log.whole() || log.n_written() != 1 || !log.has(1)) return 3;
    return log.line(1) == sample_text(layout, layout.place(1)) ? 0 : 4;
  });
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  SampleLog log(dir.path(), layout);
  CHECK(log.whole());
  log.finish();
  CHECK(read_file(dir / "samples.jsonl") == whole_text(layout));
}
