// Help, and what is said of command lines that cannot be meant.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <vector>

#include "base/display_width.h"
#include "tests/support.h"
#include "tools/terminal/width.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::tools;
using test::Ran;

namespace {

const std::vector<std::string> all_commands = {"inspect",
                                               "tokenize",
                                               "generate",
                                               "score",
                                               "trace",
                                               "run",
                                               "deactivate",
                                               "merge",
                                               "rescore",
                                               "analyze",
                                               "report",
                                               "judge",
                                               "regimes",
                                               "faithfulness",
                                               "data",
                                               "diff",
                                               "make-model",
                                               "bench",
                                               "demo",
                                               "misroute",
                                               "judge calibrate",
                                               "data convert",
                                               "data pairs",
                                               "data split",
                                               "data structural",
                                               "regimes expand",
                                               "regimes trace",
                                               "lens",
                                               "vocabulary",
                                               "compress",
                                               "quantize",
                                               "gradient",
                                               "causal map",
                                               "causal effects",
                                               "causal patch",
                                               "causal edges",
                                               "causal attribute",
                                               "causal commutativity",
                                               "causal format",
                                               "causal pipelines",
                                               "circuit discover",
                                               "circuit test",
                                               "circuit export",
                                               "direction extract",
                                               "direction validate",
                                               "train full",
                                               "similarity",
                                               "transplant",
                                               "train experts",
                                               "train apply-experts",
                                               "train lora",
                                               "train distill",
                                               "train router",
                                               "train lens",
                                               "train rationale",
                                               "rationale convert",
                                               "rationale experts",
                                               "rationale losses",
                                               "rationale score",
                                               "upcycle",
                                               "download",
                                               "data check",
                                               "domains",
                                               "serve"};

Ran in_folder(const fs::path& dir, const std::string& command) {
  return test::run_command("cd " + dir.string() + " && " + command + " < /dev/null");
}

Ran run_words(const std::string& arguments) {
  return test::run_command(test::binary() + " " + arguments + " < /dev/null");
}

// A failure is one line that says this, and exit code 2.
void refused(const std::string& arguments, const std::string& said) {
  const Ran ran = run_words(arguments);
  CAPTURE(arguments);
  CHECK(ran.code == 2);
  CHECK(ran.out.empty());
  CHECK(ran.err == "signalbox: error: " + said + "\n");
}

// The shell lines below "Example:" or "Examples:", each whole.
std::vector<std::string> examples_of(const std::string& help) {
  std::vector<std::string> lines;
  std::istringstream in(help);
  bool within = false, goes_on = false;
  for (std::string line; std::getline(in, line);) {
    if (line == "Example:" || line == "Examples:") {
      within = true;
      continue;
    }
    within = within && line.starts_with("  ");
    if (!within) continue;
    line.erase(0, line.find_first_not_of(' '));
    const bool more = line.ends_with(" \\");
    if (more) line.pop_back();
    goes_on ? lines.back() += line : (lines.push_back(line), lines.back());
    goes_on = more;
  }
  return lines;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
  return text;
}

}  // namespace

TEST_CASE("help: of every command and subcommand, in 80 columns, the same both ways" *
          doctest::test_suite("repeats: a hundred processes that print text")) {
  for (const std::string& command : all_commands) {
    CAPTURE(command);
    const Ran ran = run_words("help " + command), other = run_words(command + " --help");
    CHECK(ran.code == 0);
    CHECK(ran.err.empty());
    CHECK(ran.out == other.out);
    CHECK(ran.out.starts_with("Usage: signalbox " + command));
    CHECK(!examples_of(ran.out).empty());
    std::istringstream in(ran.out);
    for (std::string line; std::getline(in, line);) {
      CAPTURE(line);
      CHECK(display_width(line) <= 80);
      CHECK(!line.ends_with(' '));
    }
  }
  const Ran all = run_words("help");
  CHECK(all.code == 0);
  CHECK(all.out == run_words("--help").out);
  std::istringstream in(all.out);
  for (std::string line; std::getline(in, line);) CHECK_MESSAGE(line.size() <= 80, line);
  for (const std::string& command : all_commands)
    CHECK_MESSAGE(all.out.find("\n  " + command.substr(0, command.find(' ')) + " ") != std::string::npos, command);
}

TEST_CASE("help: every command that runs a model has --adapter, or says why not") {
  int have = 0;
  for (const std::string& command : all_commands) {
    CAPTURE(command);
    const std::string help = run_words("help " + command).out;
    if (help.find("\n  --adapter ") != std::string::npos) {
      ++have;
    } else if (help.find("\n  --isa ") != std::string::npos || command == "train apply-experts") {
      const Ran ran = run_words(command + " --adapter x");  // which comes before what is missing
      CHECK(ran.code == 2);
      CHECK_MESSAGE(ran.err.starts_with("signalbox: error: --adapter: expected "), ran.err);
    }
  }
  CHECK(have >= 35);
}

TEST_CASE("help: examples are command lines that can be meant" *
          doctest::test_suite("repeats: commands that other tests run too")) {
  // Where their files are not: whatever is wrong with one, it is not its flags.
  test::TemporaryDirectory scratch;
  fs::create_directory(scratch / "no");
  for (const std::string& command : all_commands) {
    int own = 0;
    for (std::string line : examples_of(run_words("help " + command).out)) {
      own += line.find("signalbox " + command.substr(0, command.find(' '))) != std::string::npos;
      if (command == "bench") line += " --device cuda:99";      // is refused before anything is measured
      if (command == "serve") line += " --api-key-file no/no";  // and before anything listens
      line = replaced(replaced(line, "/tmp/", scratch.path().string() + "/no/"), "signalbox ", test::binary() + " ");
      const Ran ran = in_folder(scratch.path(), line);
      CAPTURE(line);
      CAPTURE(ran.err);
      CHECK(ran.code <= 1);
    }
    CHECK_MESSAGE(own > 0, command);
  }
}

TEST_CASE("help: defaults with spaces are quoted, required flags stand in the usage line") {
  const std::string help = run_words("help faithfulness").out;
  CHECK(help.find("(default: \" ...\")") != std::string::npos);
  CHECK(help.starts_with("Usage: signalbox faithfulness MODEL --input FILE [OPTIONS]"));
  CHECK(help.find("REQUIRED") == std::string::npos);
  CHECK(help.find("\nSampling:\n") == std::string::npos);
  CHECK(run_words("help generate").out.find("\nSampling:\n") != std::string::npos);
}

TEST_CASE("command lines: an unknown flag comes before what is missing") {
  refused("trace builtin --inptu x.jsonl --out d", "signalbox trace: unknown flag --inptu (nearest: --input)");
  refused("trace builtin --inptu=x.jsonl", "signalbox trace: unknown flag --inptu (nearest: --input)");
  refused("generate builtin --prompt x --max-token 3",
          "signalbox generate: unknown flag --max-token (nearest: --max-tokens)");
  refused("generate builtin --no-such-thing",
          "signalbox generate: unknown flag --no-such-thing (signalbox generate --help lists them)");
  refused("generate builtin --max-tokens abc --promt x",
          "signalbox generate: unknown flag --promt (nearest: --prompt)");
  refused("data split f.jsonl --fraction a=1", "signalbox data split: unknown flag --fraction (nearest: --fractions)");
  refused("trace builtin --out d", "signalbox trace: expected --input, found none (signalbox help trace)");
  refused("trace", "signalbox trace: expected MODEL, --input and --out, found not all (signalbox help trace)");
}

TEST_CASE("command lines: commands, subcommands and words too many") {
  refused("genrate builtin", "command: expected a command (nearest: generate), found \"genrate\"");
  refused("help genrate", "command: expected a command (nearest: generate), found \"genrate\"");
  refused("--vresion", "command: expected a command (nearest: --version), found \"--vresion\"");
  refused("help data split more", "help: expected COMMAND [SUBCOMMAND], found more too");
  refused("data", "signalbox data: expected one of check, convert, pairs, split, structural, found none");
  refused("data splt x",
          "signalbox data: expected a subcommand (check, convert, pairs, split, structural), found \"splt\"");
  refused("help data splt",
          "signalbox data: expected a subcommand (check, convert, pairs, split, structural), found \"splt\"");
  refused("generate builtin hi",
          "signalbox generate: expected no further word, found \"hi\" (a prompt goes behind --prompt or --chat)");
  refused("trace builtin x.jsonl",
          "signalbox trace: expected no further word, found \"x.jsonl\" (--input and --out are missing)");
}

TEST_CASE("command lines: values, with what is expected and what was found") {
  refused("generate builtin --prompt x --max-tokens abc",
          "signalbox generate: --max-tokens: expected a whole number from 0 to 16777216, found \"abc\"");
  refused("generate builtin --prompt x --max-tokens -1",
          "signalbox generate: --max-tokens: expected a whole number from 0 to 16777216, found \"-1\"");
  refused("generate builtin --prompt x --max-tokens 1e3",
          "signalbox generate: --max-tokens: expected a whole number from 0 to 16777216, found \"1e3\"");
  refused("generate builtin --prompt x --top-p 2",
          "signalbox generate: --top-p: expected a number from 0 to 1, found \"2\"");
  refused("generate builtin --prompt x --temperature nan",
          "signalbox generate: --temperature: expected a number from 0 to 1000, found \"nan\"");
  refused("generate builtin --prompt x --seed -1",
          "signalbox generate: --seed: expected a whole number of at least 0, found \"-1\"");
  refused("generate builtin --prompt x --max-tokens 010",
          "signalbox generate: --max-tokens: expected a whole number from 0 to 16777216, found \"010\"");
  refused("data structural --n many", "signalbox data structural: --n: expected a whole number, found \"many\"");
  refused("generate builtin --prompt x --isa avx",
          "signalbox generate: --isa: expected one of auto, scalar, avx2, avx512, amx (nearest: avx2, amx), found "
          "\"avx\"");
  refused("generate builtin --prompt x --colour-layer 1 --json",
          "--colour-layer: expected no --json beside it, found it (--trace DIR keeps routes for programs)");
  refused("misroute builtin --data x --out d --span question --phase generated",
          "--span: expected --phase given or all beside it (a generated token is in no span), found generated");
  refused("faithfulness builtin --input x --out d --tests early --layers 1",
          "--layers: expected misroute among --tests, found none");
  refused("tokenize builtin --decode --input x --special parse",
          "--special: expected no --decode beside it, which takes tokens as they are");
}

TEST_CASE("wrapping: words and shell") {
  CHECK(wrapped("one two  three", 7) == "one two\nthree");
  CHECK(wrapped("one two three", 9, 2, 4) == "one\n  two\n  three");
  CHECK(wrapped("abcdefghij k", 4) == "abcdefghij\nk");
  CHECK(wrapped("日本 語", 5) == "日本\n語");
  CHECK(wrapped("", 5).empty());
  CHECK(wrapped_command("echo 'a b c' | cat -n", 16, 2) == "echo 'a b c' | \\\n  cat -n");
  CHECK(wrapped_command("a b", 80, 2) == "a b");
}
