// Traces that go on where a process stopped, and end with the bytes of one that was never stopped.
#include "eval/routing/recording.h"

#include <doctest/doctest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/error.h"
#include "engine/session.h"
#include "eval/data/record_jobs.h"
#include "eval/routing/trace_texts.h"
#include "eval/store/lock.h"
#include "loaders/open.h"
#include "probes/trace_schema.h"
#include "tests/kills.h"
#include "tests/support.h"
#include "tools/builtin/builtin_files.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

constexpr const char* files[] = {trace_file, records_file, texts_file};

std::string records_text(int n) {
  std::string lines;
  for (int i = 0; i < n; ++i)
    lines += R"({"id":")" + std::to_string(i) + R"(","prompt":"User: Question: What is )" + std::to_string(i) +
             R"( + 3?","target":" It is )" + std::to_string(i + 3) + R"(.","condition":"c"})" + "\n";
  return lines;
}

// The built-in model and a few jobs on it.
struct Work {
  Work() {
    OpenOptions options;
    options.builtin = builtin_files();
    options.threads = 1;
    session = open_session("builtin", options);
    std::istringstream in(records_text(4));
    for (std::string line; std::getline(in, line);)
      records.push_back(parse_record(json::parse(line, "records"), "record"));
    jobs = make_jobs(session, records, Generate{5, {.temperature = 0.8, .seed = 5}}, nullptr, 2);
    manifest.schema = "signalbox.test/1";
    manifest.identity.set("seed", 5);
  }

  TraceRecording recording(const fs::path& dir, const std::string& points) const {
    TraceRecording out;
    TraceRequest request;
    request.dir = dir;
    request.points = PointSet::parse(points, session.shape);
    request.span_names = jobs.span_names;
    out.trace = session.trace_options(request);
    out.jobs = jobs.jobs;
    out.record = [this](int64_t job) { return records[static_cast<size_t>(job / 2)].source; };
    out.text = [this](int64_t job, const Result& result) {
      const auto r = static_cast<size_t>(job / 2);
      return text_line(records[r], jobs.encoded[r], jobs.jobs[static_cast<size_t>(job)], result,
                       session.tokenizer.get());
    };
    return out;
  }

  Session session;
  std::vector<Record> records;
  RecordJobs jobs;
  Manifest manifest;
};

struct Stop {};  // as a killed process leaves things: nothing is flushed, nothing told

std::set<std::string> names_in(const fs::path& dir) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.insert(entry.path().filename().string());
  return names;
}

const std::set<std::string> finished = {"log.txt", "manifest.json", "records.jsonl", "texts.jsonl",
                                        "trace.safetensors"};

}  // namespace

TEST_CASE("recording: stopped anywhere, it goes on to the bytes of the session's own trace") {
  const Work work;
  for (const std::string points : {"*.router.ids,*.router.weights", "*.router.ids,layer.2.attn.pattern,logits"}) {
    CAPTURE(points);
    TemporaryDirectory scratch;
    Forward forward = work.session.forward(0);
    RunOptions options = work.session.options;
    options.batch = 2;
    TraceRequest request;
    request.dir = scratch / "own";
    request.points = PointSet::parse(points, work.session.shape);
    request.span_names = work.jobs.span_names;
    REQUIRE(work.session.trace(work.jobs.jobs, options, request,
                               [&](int64_t job) { return work.records[static_cast<size_t>(job / 2)].source; }, {}));

    const TraceRecording recording = work.recording(scratch / "out", points);
    int64_t kept = 0, attempts = 0;
    std::vector<std::vector<int64_t>> told;
    std::vector<Result> results;
    for (bool done = false; !done; ++attempts) {
      REQUIRE(attempts < 20);
      told.emplace_back();
      results.clear();
      RecordingEvents events;
      int64_t steps = 0;
      events.on_kept = [&](int64_t samples, int64_t tokens) {
        CHECK(samples >= kept);
        CHECK(tokens > 0);
        kept = samples;
      };
      events.on_progress = [&](int64_t) {
        if (++steps == 9) throw Stop();
      };
      events.on_result = [&](Result result) {
        told.back().push_back(result.index);
        results.push_back(std::move(result));
      };
      try {
        const RecordingEnd end = record_trace(recording, work.manifest, forward, options, events);
        CHECK(end == RecordingEnd::complete);
        done = true;
      } catch (const Stop&) {
        CHECK(!fs::exists(scratch / "out" / trace_file));
      }
    }
    CHECK(attempts > 2);
    CHECK(kept > 2);
    CHECK(told.back() == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7});
    for (const char* file : {trace_file, records_file})
      CHECK(read_file(scratch / "own" / file) == read_file(scratch / "out" / file));
    CHECK(names_in(scratch / "out") == finished);

    // One attempt gives the same, with the same results.
    std::vector<Result> once;
    RecordingEvents events;
    events.on_result = [&](Result result) { once.push_back(std::move(result)); };
    CHECK(record_trace(work.recording(scratch / "once", points), work.manifest, forward, options, events) ==
          RecordingEnd::complete);
    for (const char* file : files) CHECK(read_file(scratch / "once" / file) == read_file(scratch / "out" / file));
    REQUIRE(once.size() == 8);
    REQUIRE(results.size() == 8);
    for (size_t i = 0; i < 8; ++i) {
      CHECK(once[i].tokens == results[i].tokens);
      CHECK(once[i].text == results[i].text);
      CHECK(once[i].logits_hash == results[i].logits_hash);
      CHECK(once[i].finish_reason == results[i].finish_reason);
    }

    // What is complete stays as it is, and tells its results.
    const std::string manifest = read_file(scratch / "out/manifest.json"), log = read_file(scratch / "out/log.txt");
    once.clear();
    CHECK(record_trace(recording, work.manifest, forward, options, events) == RecordingEnd::was_complete);
    CHECK(read_file(scratch / "out/manifest.json") == manifest);
    CHECK(read_file(scratch / "out/log.txt") == log);
    REQUIRE(once.size() == 8);
    for (size_t i = 0; i < 8; ++i) CHECK(once[i].text == results[i].text);
    // Killed behind its last file.
    write_file(scratch / "out/journal.jsonl", "");
    write_file(scratch / "out/rows.spool", "x");
    CHECK(record_trace(recording, work.manifest, forward, options, {}) == RecordingEnd::was_complete);
    CHECK(names_in(scratch / "out") == finished);
  }
}

TEST_CASE("recording: interrupted, damaged, and refused") {
  const Work work;
  TemporaryDirectory scratch;
  const std::string points = "*.router.ids";
  Forward forward = work.session.forward(0);
  RunOptions options = work.session.options;
  options.batch = 1;
  REQUIRE(record_trace(work.recording(scratch / "whole", points), work.manifest, forward, options, {}) ==
          RecordingEnd::complete);

  std::atomic<bool> interrupted = false;
  options.interrupted = &interrupted;
  const TraceRecording recording = work.recording(scratch / "out", points);
  RecordingEvents events;
  events.on_result = [&](const Result& result) { interrupted = result.index == 3; };
  REQUIRE(record_trace(recording, work.manifest, forward, options, events) == RecordingEnd::interrupted);
  interrupted = false;
  CHECK(Manifest::read(scratch / "out", work.manifest.schema)->status == RunStatus::interrupted);

  // A power failure: one sample's rows are not there, and a line is torn.
  std::string rows = read_file(scratch / "out" / rows_spool);
  rows[rows.size() / 2] ^= 1;
  write_file(scratch / "out" / rows_spool, rows);
  std::ofstream(scratch / "out/finished.jsonl", std::ios::app) << "{\"index\":";
  int64_t kept = 0;
  events = {};
  events.on_kept = [&](int64_t samples, int64_t) { kept = samples; };
  REQUIRE(record_trace(recording, work.manifest, forward, options, events) == RecordingEnd::complete);
  CHECK(kept == 3);
  for (const char* file : files) CHECK(read_file(scratch / "whole" / file) == read_file(scratch / "out" / file));
  CHECK(read_file(scratch / "out/log.txt").find("the rows of 1 samples are not as they were") != std::string::npos);

  const auto message = [&](const Manifest& manifest, const fs::path& dir) {
    try {
      record_trace(work.recording(dir, points), manifest, forward, options, {});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  Manifest other = work.manifest;
  other.identity.set("seed", 6);
  CHECK(message(other, scratch / "out").find("seed: was 5, now 6") != std::string::npos);
  {
    const DirectoryLock lock(scratch / "out");
    CHECK(message(work.manifest, scratch / "out").find("in use by process") != std::string::npos);
  }
  // Files of others may be there, a trace that was made in another way may not.
  fs::create_directory(scratch / "shared");
  write_file(scratch / "shared/notes.tmp-1", "mine");
  CHECK(message(work.manifest, scratch / "shared").empty());
  CHECK(read_file(scratch / "shared/notes.tmp-1") == "mine");
  fs::remove(scratch / "shared/manifest.json");
  CHECK(message(work.manifest, scratch / "shared").find("expected a directory without \"") != std::string::npos);
}

TEST_CASE("recording: lines of texts say what came of a job") {
  const Work work;
  const Job& job = work.jobs.jobs[3];
  Result result;
  result.index = 3;
  result.tokens = {5, 9};
  result.text = " \"x\"";
  result.finish_reason = "length";
  result.logits_hash = 0xfedcba9876543210;
  const json::Value line = text_line(work.records[1], work.jobs.encoded[1], job, result, work.session.tokenizer.get());
  const json::Ref ref(line, "line");
  CHECK(ref.at("id").string() == "1");
  CHECK(ref.at("sample").integer() == 1);
  CHECK(ref.at("text").string() == work.records[1].prompt);
  CHECK(ref.at("tokens").length() == job.prompt->tokens.size() + 2);
  CHECK(ref.at("pieces").length() == job.prompt->tokens.size() + 2);
  CHECK(ref.at("pieces")[0].string() == work.session.tokenizer->piece(job.prompt->tokens[0]));
  CHECK(ref.at("generated").string() == result.text);
  CHECK(ref.at("logits_hash").string() == "fedcba9876543210");
  const Result back = result_of_line(ref, job);
  CHECK(back.index == 3);
  CHECK(back.tokens == result.tokens);
  CHECK(back.text == result.text);
  CHECK(back.finish_reason == result.finish_reason);
  CHECK(back.logits_hash == result.logits_hash);
  CHECK(text_line(work.records[1], work.jobs.encoded[1], job, result, nullptr).find("pieces")->is_null());
  const auto refused = [&](const char* key, json::Value value) {
    json::Value other = line;
    other.set(key, std::move(value));
    try {
      result_of_line(json::Ref(other, "line"), job);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(refused("id", "2").find("line: id: expected \"1\"") == 0);
  CHECK(refused("sample", 0).find("line: sample") == 0);
  CHECK(refused("tokens", json::parse("[1]", "t")).find("line: tokens") == 0);
  CHECK(refused("logits_hash", "xyz").find("line: logits_hash: expected a hash") == 0);

  // Log-probabilities come back to the bit.
  Job scored = job;
  scored.task = Score{};
  result.tokens.clear();
  result.logprobs = {-0.1, -1.0 / 3, -123.456789012345678};
  const json::Value scores =
      text_line(work.records[1], work.jobs.encoded[1], scored, result, work.session.tokenizer.get());
  const json::Value again = json::parse(json::dump(scores), "again");
  CHECK(result_of_line(json::Ref(again, "again"), scored).logprobs == result.logprobs);
}

TEST_CASE("trace, generate and score: killed at any moment, they go on to the same bytes" *
          doctest::test_suite("repeats: small commands, killed again and again")) {
  TemporaryDirectory scratch;
  write_file(scratch / "in.jsonl", records_text(120));
  const auto into = [&](std::vector<std::string> words, const std::string& dir) {
    words.insert(words.end(),
                 {(scratch / dir).string(), "--input", (scratch / "in.jsonl").string(), "--quiet", "--threads", "1"});
    return words;
  };
  const std::vector<std::string> commands[] = {
      {"trace", "builtin", "--generate", "4", "--out"},
      {"generate", "builtin", "--max-tokens", "4", "--samples", "2", "--temperature", "1", "--json", "--trace"},
      {"score", "builtin", "--json", "--trace"}};
  int kills = 0;
  for (const std::vector<std::string>& words : commands) {
    CAPTURE(words[0]);
    for (const char* dir : {"whole", "out"}) fs::remove_all(scratch / dir);
    const double seconds = seconds_of(into(words, "whole"));
    kills += run_with_kills(into(words, "out"), seconds, 11);
    CHECK(names_in(scratch / "out") == finished);
    for (const char* file : files)
      CHECK_MESSAGE(read_file(scratch / "out" / file) == read_file(scratch / "whole" / file), file);
  }
  CHECK(kills > 2);
}
