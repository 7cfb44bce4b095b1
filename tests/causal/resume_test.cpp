// Long causal commands go on where they were stopped, to the same bytes.
#include "tests/causal/resume.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "eval/causal/gradient_trace.h"
#include "eval/direction/streams.h"
#include "tests/causal/tiny_models.h"
#include "tests/kills.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

namespace fs = std::filesystem;
using test::TinyRecords;

std::string tiny_model() { return (test::goldens_dir() / "olmoe/model").string(); }

std::vector<std::string> pair_lines() {
  std::vector<std::string> lines;
  for (int p = 0; p < 5; ++p)
    for (const std::string condition : {"clean", "corrupt"})
      lines.push_back(R"({"id":")" + condition + std::to_string(p) + R"(","pair":"p)" + std::to_string(p) +
                      R"(","condition":")" + condition + R"(","tokens":[5,9,)" +
                      std::to_string(condition == "clean" ? 33 + p : 8 + p) + R"(,17],"answer":7,"foil":9})");
  return lines;
}

std::string file_of(const test::TemporaryDirectory& scratch, const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  const fs::path file = scratch / "records.jsonl";
  test::write_file(file, text);
  return file.string();
}

// With text, for commands that want a tokenizer.
std::vector<std::string> question_lines(const std::string& keys) {
  std::vector<std::string> lines;
  for (int i = 0; i < 4; ++i)
    for (const bool first : {true, false})
      lines.push_back(R"({"id":")" + std::to_string(i) + (first ? "a" : "b") + R"(",)" + keys + R"("pair":")" +
                      std::to_string(i) + R"(","prompt":")" + (first ? "2*" : "") + std::to_string(i + 3) +
                      (first ? "" : "*2") + R"(=","target":")" + std::to_string(2 * (i + 3)) + "\"}");
  return lines;
}

}  // namespace

TEST_CASE("resume: causal patch, edges, attribute and effects go on behind the lines that are known") {
  const test::TemporaryDirectory scratch;
  const std::string input = file_of(scratch, pair_lines());
  const auto words = [&](const std::string& command, const std::vector<std::string>& more) {
    std::vector<std::string> all = {"causal", command, tiny_model(), "--input", input, "--metric", "logit_diff"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  test::check_goes_on(words("patch", {"--direction", "denoising", "--points", "*.attn.z", "--keep-all"}),
                      "pairs.jsonl");
  test::check_goes_on(
      words("edges", {"--direction", "noising", "--receivers", "L1.router,logits", "--margins", "--keep-all"}),
      "stages/edges.jsonl");
  test::check_goes_on(words("attribute", {"--method", "atp", "--instead", "zero"}), "stages/attribution.jsonl");
  test::write_file(scratch / "ban.json", R"({"edits":[{"op":"deactivate","mode":"ban","experts":{"0":[0,1]}}]})");
  test::check_goes_on(words("effects", {"--edits", (scratch / "ban.json").string()}), "stages/effects.jsonl");
}

TEST_CASE("resume: causal commutativity and format go on behind the lines that are known") {
  const test::TemporaryDirectory scratch;
  const std::string input = file_of(scratch, question_lines(""));
  const auto words = [&](const std::string& command) {
    return std::vector<std::string>{"causal", command, "builtin", "--input", input, "--resamples", "200"};
  };
  test::check_goes_on(words("commutativity"), "stages/commutativity.jsonl");
  test::check_goes_on(words("format"), "stages/format.jsonl");
}

TEST_CASE("resume: killed at any moment, the same command ends with the same bytes" *
          doctest::test_suite("repeats: small commands, killed again and again")) {
  const test::TemporaryDirectory scratch;
  const std::string input = file_of(scratch, pair_lines());
  const std::string out = (scratch / "out").string();
  const auto killed = [&](std::vector<std::string> words, uint64_t seed) {
    words.insert(words.end(), {"--quiet", "--input", input});
    test::check_kills(words, out, seed);
  };
  killed({"causal", "patch", tiny_model(), "--metric", "logit_diff", "--direction", "denoising", "--points", "*.attn.z",
          "--keep-all", "--out", out},
         1);
  killed({"gradient", tiny_model(), "--metric", "logit_diff", "--points", "*.resid_in", "--weights", "*.router",
          "--batch", "2", "--out", out},
         2);
  killed({"direction", "extract", tiny_model(), "--contrast", "clean:corrupt", "--batch", "1", "--out", out}, 3);
  // Into the same directory, which holds directions: their files stay as they are.
  const std::string extracted = test::read_file(fs::path(out) / "directions.safetensors");
  const std::vector<std::string> validate = {
      "direction", "validate",   out,          "--input", (scratch / "held.jsonl").string(),
      "--metric",  "logit_diff", "--controls", "3",       "--resamples",
      "50",        "--quiet"};
  std::vector<std::string> held;
  for (int i = 0; i < 6; ++i)
    held.push_back(R"({"id":"h)" + std::to_string(i) + R"(","condition":")" + (i % 2 ? "clean" : "corrupt") +
                   R"(","tokens":[7,)" + std::to_string(20 + i) + R"(,17],"answer":7,"foil":9})");
  std::string text;
  for (const std::string& line : held) text += line + "\n";
  test::write_file(scratch / "held.jsonl", text);
  const fs::path stored = scratch / "stored";
  fs::copy(out, stored);
  const double seconds = test::seconds_of(validate);
  std::vector<std::string> bytes;
  const char* const files[] = {"validation.csv", "steering.csv", "summary.json"};
  for (const char* file : files) bytes.push_back(test::read_file(fs::path(out) / file));
  fs::remove_all(out);
  fs::copy(stored, out);
  test::run_with_kills(validate, seconds, 4);
  for (size_t i = 0; i < 3; ++i) CHECK_MESSAGE(test::read_file(fs::path(out) / files[i]) == bytes[i], files[i]);
  CHECK(test::read_file(fs::path(out) / "directions.safetensors") == extracted);
  CHECK(!fs::exists(fs::path(out) / "validation"));
}

TEST_CASE("resume: gradients of points and of weights, and streams, of records that are finished are not made again") {
  const TinyRecords tiny("mixtral", pair_lines());
  const test::TemporaryDirectory dir;
  std::string bytes[2];
  for (const bool stops : {false, true}) {
    GradientRequest request;
    request.trace.dir = dir / (stops ? "stopped" : "whole");
    request.trace.points = gradient_points("*.resid_in,*.attn.pattern", tiny.session.shape);
    request.metric = Metric::logit_diff;
    request.weights = wanted_weights("*.router,embed", tiny.session);
    request.batch = 2;
    request.kept.stem = request.trace.dir / "stages/gradients";
    std::atomic<bool> stop = false;
    int64_t steps = 0;
    request.interrupted = &stop;
    request.on_progress = [&](int64_t) { stop = stops && ++steps == 2; };
    const auto run = [&] {
      return trace_gradients(tiny.session, tiny.records, tiny.made, request,
                             [&](int64_t i) { return tiny.records[static_cast<size_t>(i)].source; });
    };
    GradientResult found = run();
    CHECK(found.interrupted == stops);
    if (stops) {
      CHECK(!fs::exists(request.trace.dir / "trace.safetensors"));
      std::string kept;
      request.kept.on_kept = [&](const std::string& what) { kept = what; };
      request.on_progress = {};
      stop = false;
      found = run();
      CHECK(kept == "4 of 10 records");
    }
    CHECK(found.metrics.size() == 10);
    bytes[stops] = test::read_file(request.trace.dir / "trace.safetensors") +
                   test::read_file(request.trace.dir / "weights.safetensors");
  }
  CHECK(bytes[0] == bytes[1]);
  std::vector<std::vector<int64_t>> positions(tiny.made.jobs.size(), {1, 3});
  StreamRun run;
  run.batch = 1;
  const StreamMeans alone = *mean_streams(tiny.session, tiny.made.jobs, positions, run);
  run.batch = 4;
  std::atomic<bool> stop = false;
  int64_t done = 0;
  std::string kept;
  run.kept = {dir / "streams/means", [&](const std::string& what) { kept = what; }};
  run.interrupted = &stop;
  run.on_progress = [&](int64_t tokens) {
    stop = done == 0;
    done = tokens;
  };
  CHECK(!mean_streams(tiny.session, tiny.made.jobs, positions, run));
  stop = false;
  const StreamMeans together = *mean_streams(tiny.session, tiny.made.jobs, positions, run);
  CHECK(kept == "4 of 10 records");
  CHECK(alone.values == together.values);
}
