// Judge commands, as small programs of /bin/sh.
#include "eval/score/judge.h"

#include <dirent.h>
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <chrono>
#include <thread>

#include "eval/score/verdicts.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

JudgeCommand shell(const std::string& script, double timeout = 20, int64_t batch = 0) {
  return {"j", {"/bin/sh", "-c", script}, timeout, batch};
}

// Answers every line with its id and what is behind "score":, last line first.
const std::string reversed_halves = R"~(sed 's/.*"id":"\([0-9]*\)".*/{"why":"so","score":0.\1,"id":"\1"}/' | sort -r)~";

const std::vector<JudgedText> three_texts = {{"a", "p1", "one\n\"two\""}, {"b", "p2", ""}, {"a", "p1", "other"}};

std::string batch_complaint(const std::string& script, double timeout = 20) {
  try {
    run_judge_batch(shell(script, timeout, 3), three_texts);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string complaint(const JudgeCommand& judge, const std::string& text = "text", const std::string& id = "r1",
                      const std::string& prompt = "p") {
  try {
    run_judge(judge, id, prompt, text);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

int open_files() {
  int n = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (dir && readdir(dir)) ++n;
  if (dir) closedir(dir);
  return n;
}

}  // namespace

TEST_CASE("a judge gets text, id and prompt, and says a number") {
  CHECK(run_judge(shell("echo 0.25"), "r1", "p", "text") == 0.25);
  CHECK(run_judge(shell("echo ' 1 '; echo more"), "r1", "p", "text") == 1);
  CHECK(run_judge(shell("echo True"), "r1", "p", "") == 1);
  CHECK(run_judge(shell("printf false"), "r1", "p", "") == 0);
  CHECK(run_judge(shell("echo 1e-3"), "r1", "p", "") == 0.001);
  // The text as it is: no shell, no line end added.
  CHECK(run_judge(shell("test \"$(wc -c)\" -eq 9 && echo 1"), "r1", "p", "a\n$(id) \"") == 1);
  CHECK(run_judge(shell("read -r line; test \"$line\" = 'say \"it\"' && echo 1"), "r1", "p", "say \"it\"\n") == 1);
  CHECK(run_judge(shell("test \"$SIGNALBOX_ID/$SIGNALBOX_PROMPT\" = 'r 1/two\nlines' && echo 1"), "r 1", "two\nlines",
                  "") == 1);
  // A program from PATH.
  CHECK(run_judge({"j", {"sh", "-c", "echo 0.5"}, 20}, "r1", "p", "x") == 0.5);
}

TEST_CASE("a judge's failures name judge and record and say why") {
  CHECK(complaint(shell("echo bad >&2; echo worse >&2; exit 3")) ==
        "judge j: r1: expected exit code 0, found 3; it said: worse");
  CHECK(complaint(shell("kill -9 $$")) == "judge j: r1: expected exit code 0, found signal 9");
  CHECK(complaint(shell("echo maybe")) ==
        "judge j: r1: expected a number from 0 to 1, true or false in its first line, found \"maybe\"");
  for (const char* script : {"true", "echo; echo 1", "echo 1.5", "echo -0.1", "echo nan", "echo 0.5x", "echo yes"}) {
    CAPTURE(script);
    CHECK(complaint(shell(script)).starts_with("judge j: r1: expected a number from 0 to 1"));
  }
  CHECK(complaint({"j", {"/nowhere/judge"}, 20})
            .starts_with("judge j: r1: expected a program that runs, found \"/nowhere/judge\": "));
  CHECK(complaint(shell("echo 1"), "t", "r1", std::string(200000, 'x')) ==
        "judge j: r1: expected a prompt of at most 120 KiB for the environment, found 200000 bytes");
  CHECK(complaint(shell("echo 1"), "t", "r1", std::string("a\0b", 3)) ==
        "judge j: r1: prompt: expected text without a zero byte for the environment, found one");
}

TEST_CASE("large texts neither block nor break, read or not") {
  const std::string large(3 << 20, 'x');
  CHECK(run_judge(shell("test \"$(wc -c)\" -eq 3145728 && echo 1"), "r1", "p", large) == 1);
  // Never read: the pipe breaks, which is no failure and no signal.
  CHECK(run_judge(shell("echo 0.5"), "r1", "p", large) == 0.5);
  // Copied to both outputs while it is written.
  CHECK(run_judge(shell("echo 1; tee /dev/stderr"), "r1", "p", large) == 1);
}

TEST_CASE("a judge that takes too long is killed with what it started") {
  test::TemporaryDirectory scratch;
  const std::string mark = (scratch / "late").string();
  const auto start = std::chrono::steady_clock::now();
  const std::string said = complaint(shell("echo wait >&2; (sleep 1; touch " + mark + ") & sleep 30", 0.2));
  CHECK(said == "judge j: r1: expected a score within 0.2 s, found none; it said: wait");
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  // A command that closes its outputs and stays is waited for, no longer than the timeout.
  CHECK(complaint(shell("echo 1; exec >&- 2>&-; sleep 30", 0.2)).find("within 0.2 s") != std::string::npos);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  CHECK_FALSE(std::filesystem::exists(mark));
  // One that leaves a process behind which holds its output is not waited for.
  const auto next = std::chrono::steady_clock::now();
  CHECK(run_judge(shell("sleep 30 & echo 1"), "r1", "p", "x") == 1);
  CHECK(std::chrono::steady_clock::now() - next < std::chrono::seconds(5));
}

TEST_CASE("judges leave nothing behind, from several threads too") {
  const int before = open_files();
  std::vector<std::thread> threads;
  std::vector<double> sums(4, 0);
  for (size_t t = 0; t < sums.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) sums[t] += run_judge(shell("cat >/dev/null; echo 1"), "r", "p", "text");
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(sums == std::vector<double>(4, 5));
  complaint({"j", {"/nowhere/judge"}, 20});
  CHECK(open_files() == before);
  CHECK(waitpid(-1, nullptr, WNOHANG) <= 0);  // no child that has ended
}

TEST_CASE("judges in a spec are checked") {
  const auto read = [](const std::string& text) {
    const json::Value value = json::parse(text, "spec.json");
    return parse_judge("safe", json::Ref(value, "spec.json", "judges.safe"));
  };
  const JudgeCommand judge = read(R"({"command": ["python3", "j.py"], "timeout": 2.5})");
  CHECK(judge.name == "safe");
  CHECK(judge.argv == std::vector<std::string>{"python3", "j.py"});
  CHECK(judge.timeout_seconds == 2.5);
  CHECK(read(R"({"command": ["j"]})").timeout_seconds == 60);
  CHECK(read(R"({"command": ["j"]})").batch == 0);
  CHECK(read(R"({"command": ["j"], "batch": 32})").batch == 32);
  for (const char* bad : {R"({"command": []})", R"({"command": [""]})", R"({"command": "j"})", R"({"command": [1]})",
                          R"({})", R"({"command": ["j"], "timeout": 0})", R"({"command": ["j"], "timeout": -1})",
                          R"({"command": ["j"], "timeout": 1e9})", R"({"command": ["j"], "batch": 0})",
                          R"({"command": ["j"], "batch": 100001})", R"({"command": ["j"], "batch": 1.5})",
                          R"({"command": ["j"], "shell": true})", R"({"command": ["a\u0000b"]})", R"(["j"])"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(read(bad), Error);
  }
}

TEST_CASE("a judge of batches gets a line for each text, and answers in any order") {
  test::TemporaryDirectory scratch;
  const std::string seen = (scratch / "seen").string();
  const auto scores = run_judge_batch(shell("tee " + seen + " | " + reversed_halves, 20, 3), three_texts);
  CHECK(scores == std::vector<double>{0.1, 0.2, 0.3});
  CHECK(test::read_file(seen) == R"({"id":"1","record":"a","prompt":"p1","text":"one\n\"two\""}
{"id":"2","record":"b","prompt":"p2","text":""}
{"id":"3","record":"a","prompt":"p1","text":"other"}
)");
  // Words, white space between the lines, no end of the last line; a variable of an outer judge is not handed on.
  CHECK(run_judge_batch(shell(R"(test -z "$SIGNALBOX_ID" && printf '{"id":"3","score":true}\n \n{"id":"1","score":0}\n'
                                printf '{"id":"2","score":false}')",
                              20, 3),
                        three_texts) == std::vector<double>{0, 0, 1});
  CHECK(run_judge_batch(shell("exit 1", 20, 3), {}).empty());
}

TEST_CASE("what a judge of batches says wrongly names the judge, the id and its record") {
  const std::string start = "judge j: batch of a to a: ";
  const std::string two = R"(echo '{"id":"1","score":0}'; echo '{"id":"2","score":1}'; )";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {two + "echo worse >&2", R"(expected a score of id "3" (a), found none; it said: worse)"},
      {two + two, R"(line 3 of its output: expected each id once, found id "1" (a) again)"},
      {two + R"(echo '{"id":"4","score":0}')", R"(line 3 of its output: expected an id of the batch, found "4")"},
      {two + R"(echo '{"id":"03","score":0}')", R"(line 3 of its output: expected an id of the batch, found "03")"},
      {two + R"(echo '{"id":"3","score":1.5}')",
       R"(line 3 of its output: id "3" (a): expected a "score" from 0 to 1, true or false, found 1.5)"},
      {two + R"(echo '{"id":"3"}')",
       R"(line 3 of its output: id "3" (a): expected a "score" from 0 to 1, true or false, found none)"},
      {two + "echo 0.5", R"(line 3 of its output: expected an object {"id": "1", "score": 0.5}, found 0.5)"},
      {two + R"(echo '{"id":3,"score":1}')",
       R"(line 3 of its output: expected an object {"id": "1", "score": 0.5}, found {"id":3,"score":1})"},
      {"exit 4", "expected exit code 0, found 4"},
  };
  for (const auto& one : cases) {
    const auto& script = one.first;
    const auto& reason = one.second;
    CAPTURE(script);
    CHECK(batch_complaint(script) == start + reason);
  }
  CHECK(batch_complaint("echo wait >&2; sleep 30", 0.1) ==
        start + "expected scores of 3 texts within 0.1 s, found none; it said: wait");
}

TEST_CASE("verdicts: a text is shown once, in full batches, and nobody waits longer than flush") {
  test::TemporaryDirectory scratch;
  const std::string seen = (scratch / "seen").string();
  Verdicts verdicts(
      {shell("echo 0.5"), shell("tee -a " + seen + " | " + reversed_halves + "; echo >> " + seen, 20, 2)});
  std::vector<std::string> said;
  const auto ask = [&](int64_t record, const std::string& text) {
    verdicts.judge(record, {"r" + std::to_string(record), "p", text}, [&said, text](Judged judged) {
      said.push_back(text + " " + judged.at(0).first + " " + json::dump(judged.at(0).second) + " " +
                     json::dump(judged.at(1).second));
    });
  };
  ask(0, "x");
  ask(0, "x");
  CHECK(said.empty());
  ask(1, "x");  // another record: another text
  CHECK(said == std::vector<std::string>{"x j 0.5 0.1", "x j 0.5 0.1", "x j 0.5 0.2"});
  ask(1, "x");  // known
  CHECK(said.size() == 4);
  ask(1, "y");
  CHECK(said.size() == 4);
  verdicts.flush();
  CHECK(said.back() == "y j 0.5 0.1");
  verdicts.flush();
  CHECK(said.size() == 5);
  CHECK(test::read_file(seen) == R"({"id":"1","record":"r0","prompt":"p","text":"x"}
{"id":"2","record":"r1","prompt":"p","text":"x"}

{"id":"1","record":"r1","prompt":"p","text":"y"}

)");
}
