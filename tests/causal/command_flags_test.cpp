// What the commands of causal analysis refuse, say, and leave behind.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/json.h"
#include "tests/support.h"

using namespace signalbox;
using test::Ran;

namespace {

namespace fs = std::filesystem;

std::string small_model() { return (test::goldens_dir() / "olmoe/model").string(); }

// Pairs in which the model prefers the wrong answer: kept with --keep-all alone.
std::string wrong_pairs() {
  std::string lines;
  for (int p = 0; p < 2; ++p)
    for (const std::string condition : {"clean", "corrupt"})
      lines += R"({"id":")" + condition + std::to_string(p) + R"(","pair":"p)" + std::to_string(p) +
               R"(","condition":")" + condition + R"(","tokens":[5,9,)" +
               std::to_string(condition == "clean" ? 33 + p : 8 + p) + "]," +
               (p == 0 ? R"("answer":7,"foil":9)" : R"("answer":9,"foil":7)") + "}\n";
  return lines;
}

Ran flag_words(const std::string& words) { return test::run_command(test::binary() + " " + words); }

}  // namespace

TEST_CASE("causal attribute: other records for the means need --instead mean, said and not silently meant") {
  const test::TemporaryDirectory scratch;
  test::write_file(scratch / "in.jsonl", R"({"id":"a","tokens":[5,9,33],"target":"x"})"
                                         "\n");
  const std::string words = "causal attribute " + small_model() + " --input " + (scratch / "in.jsonl").string() +
                            " --metric logprob --reference " + (scratch / "in.jsonl").string() + " --out " +
                            (scratch / "out").string();
  const Ran silent = flag_words(words + " --method atp");
  CHECK(silent.code == 2);
  CHECK_MESSAGE(silent.err.find("--reference: expected --instead mean beside it, found none, which is zero here") !=
                    std::string::npos,
                silent.err);
  const Ran other = flag_words(words + " --method atp --instead zero");
  CHECK(other.code == 2);
  CHECK(other.err.find("--reference: expected --instead mean beside it, found zero") != std::string::npos);
  CHECK_FALSE(fs::exists(scratch / "out"));
}

TEST_CASE("causal edges: a command that failed before anything was done is put right in its directory") {
  const test::TemporaryDirectory scratch;
  test::write_file(scratch / "in.jsonl", wrong_pairs());
  const std::string out = (scratch / "out").string();
  const std::string words = "causal edges " + small_model() + " --input " + (scratch / "in.jsonl").string() +
                            " --metric logit_diff --direction denoising --senders 'L0.*' --receivers logits --quiet";
  const Ran failed = flag_words(words + " --out " + out);
  CHECK(failed.code == 1);
  CHECK_MESSAGE(failed.err.find("expected a pair that prefers its answer") != std::string::npos, failed.err);
  // What it left says what it is to whoever asks for a page.
  const Ran page = flag_words("report " + out);
  CHECK(page.code == 1);
  CHECK_MESSAGE(
      page.err.find(
          "one that is failed and has no tables yet; this failed and may be put right: signalbox causal edges ") !=
          std::string::npos,
      page.err);
  const Ran right = flag_words(words + " --keep-all --out " + out);
  CHECK_MESSAGE(right.code == 0, right.err);
  CHECK(fs::exists(scratch / "out/edges.csv"));
  // Now something is done there.
  const Ran another = flag_words(words + " --out " + out);
  CHECK(another.code == 1);
  CHECK_MESSAGE(another.err.find("edges.keep_all: was true, now false") != std::string::npos, another.err);
  const Ran drawn = flag_words("report " + out);
  CHECK_MESSAGE(drawn.code == 0, drawn.err);
  CHECK(test::read_file(scratch / "out/report.html").find("Direct edges: logit_diff") != std::string::npos);
}

TEST_CASE("flags: a value that cannot be meant is a usage error, whoever finds it") {
  const test::TemporaryDirectory scratch;
  test::write_file(scratch / "in.jsonl", wrong_pairs());
  const std::string input = " --input " + (scratch / "in.jsonl").string(), out = " --out " + (scratch / "out").string(),
                    model = small_model();
  for (const std::string& words :
       {"direction extract " + model + input + " --contrast x" + out,
        "direction extract " + model + input + " --contrast clean:corrupt --split :::" + out,
        "direction extract " + model + input + " --contrast clean:corrupt --at :::" + out,
        "direction validate " + out.substr(7) + input + " --metric kl --controls 0x10",
        "circuit discover " + model + input + " --faithfulness nan" + out,
        "circuit discover " + model + input + " --split :::" + out,
        "circuit test " + out.substr(7) + " " + model + input + " --alpha nan",
        "causal attribute " + model + input + " --metric kl --method ig --steps 0x10" + out,
        "trace " + model + input + " --points ::: " + out, std::string("judge calibrate nowhere --score x"),
        std::string("bench --shape nothing")}) {
    const Ran ran = flag_words(words);
    CAPTURE(words);
    CHECK_MESSAGE(ran.code == 2, ran.err);
    CHECK(test::lines_of(ran.err).size() == 1);
  }
  // Numbers of flags have one reader, which knows its range and says what it found.
  for (const auto& entry : fs::recursive_directory_iterator(test::source_dir() / "tools"))
    if (entry.path().extension() == ".cpp")
      CHECK_MESSAGE(test::read_file(entry.path()).find("CLI::Range(") == std::string::npos, entry.path().string());
}
