#include "eval/store/merge.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <tuple>

#include "base/files.h"
#include "probes/trace_merge.h"
#include "probes/trace_schema.h"
#include "tests/probes/trace_sample.h"
#include "tests/run/run_sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

// Writes a trace of samples that have these numbers in the whole: every value follows from the number and the row.
struct TraceSamples {
  std::vector<int64_t> numbers;
  std::vector<std::string> ids;
  std::vector<int64_t> lengths;
};

void feed_sample(TraceWriter& writer, const TraceOptions& options, int64_t local, int64_t number, int64_t n_rows) {
  std::vector<int32_t> tokens, positions;
  std::vector<uint8_t> phase;
  std::vector<uint32_t> spans;
  for (int64_t r = 0; r < n_rows; ++r) {
    tokens.push_back(token_at(number, r));
    positions.push_back(static_cast<int32_t>(r));
    phase.push_back(r >= 2);
    spans.push_back(static_cast<uint32_t>((number + r) % 4));
  }
  const RowRange range{local, 0, n_rows, 0};
  writer.begin({n_rows, {&range, 1}, tokens.data(), positions.data(), phase.data(), spans.data()});
  const int32_t n_slots = options.n_slots ? options.n_slots : options.shape.n_active();
  for (const PointAt& at : options.points.all()) {
    const int32_t n_experts = at.layer < 0 ? 0 : options.shape.layers[static_cast<size_t>(at.layer)].n_experts;
    if (at.point == Point::router_ids) {
      std::vector<int32_t> ids, original;
      for (int64_t r = 0; r < n_rows; ++r)
        for (int64_t k = 0; k < n_slots; ++k) {
          ids.push_back(id_at(number, r, at.layer, k, n_experts));
          original.push_back(original_at(number, r, at.layer, k, n_experts));
        }
      writer.take_ids(at.layer, ids.data(), options.original_ids ? original.data() : nullptr, n_slots);
      continue;
    }
    std::vector<std::pair<int64_t, int64_t>> rows;
    for (int64_t r = 0; r < n_rows; ++r) rows.emplace_back(number, r);
    const PointRows values = rows_at(options, at, rows);
    writer.take(at.point, at.layer, values.data.data(), values.width);
  }
  writer.end();
}

void write_samples(const TraceOptions& options, const TraceSamples& samples) {
  TraceWriter writer(options);
  for (size_t i = 0; i < samples.ids.size(); ++i)
    feed_sample(writer, options, static_cast<int64_t>(i), samples.numbers[i], samples.lengths[i]);
  std::string texts;
  for (size_t i = 0; i < samples.ids.size(); ++i)
    texts += "{\"id\":\"" + samples.ids[i] + "\",\"n\":" + std::to_string(samples.numbers[i]) + "}\n";
  write_file(options.dir / texts_file, texts);
  writer.finish(samples.ids, [&](int64_t i) {
    return json::Value::object()
        .set("id", samples.ids[static_cast<size_t>(i)])
        .set("n", samples.numbers[static_cast<size_t>(i)]);
  });
}

// Those of the records of a shard.
TraceSamples samples_of(const Layout& whole, Shard shard) {
  TraceSamples samples;
  int64_t number = 0;
  for (size_t k = 0; k < whole.records.size(); ++k)
    for (int64_t s = 0; s < whole.samples[k]; ++s, ++number) {
      if (!shard.has(static_cast<int64_t>(k))) continue;
      samples.numbers.push_back(number);
      samples.ids.push_back(whole.records[k]);
      samples.lengths.push_back(1 + (number * 5) % 7);
    }
  return samples;
}

void check_same_trace(const fs::path& a, const fs::path& b) {
  CHECK(same_bytes(a / trace_file, b / trace_file));
  CHECK(read_file(a / records_file) == read_file(b / records_file));
  CHECK(read_file(a / texts_file) == read_file(b / texts_file));
}

Layout whole_of(int64_t n_records) {
  std::vector<std::string> records;
  std::vector<int64_t> samples;
  for (int64_t i = 0; i < n_records; ++i) {
    records.push_back("r" + std::to_string(i));
    samples.push_back(1 + i % 3);
  }
  return sample_layout(std::move(records), std::move(samples));
}

Layout part_of(const Layout& whole, Shard shard) {
  Layout layout = whole;
  layout.records.clear();
  layout.samples.clear();
  for (size_t k = 0; k < whole.records.size(); ++k)
    if (shard.has(static_cast<int64_t>(k))) {
      layout.records.push_back(whole.records[k]);
      layout.samples.push_back(whole.samples[k]);
    }
  layout.index();
  return layout;
}

// Stands for the findings: a file that depends on what they are made of.
void finalize(const fs::path& dir) {
  write_file_atomically(dir / "metrics.json", std::to_string(read_file(dir / "samples.jsonl").size()) + "\n");
}

// A finished run of a shard, with traces of two interventions, a stage and files beside them.
void run_shard(const fs::path& dir, const Layout& whole, Shard shard) {
  RunDirectory run(dir, sample_manifest(shard));
  const Layout layout = part_of(whole, shard);
  fs::create_directories(dir / "detect/memory");
  write_file(dir / "detect/memory/rd.csv", "layer,expert\n1,2\n");
  write_file(dir / "plan.json", "{}\n");
  run.begin(layout);
  std::string records;
  for (const std::string& id : layout.records) records += "{\"id\":\"" + id + "\",\"prompt\":\"" + id + "\"}\n";
  write_file(dir / "records.jsonl", records);
  if (!layout.records.empty())
    for (const char* name : {"baseline", "mis/policy=random,fraction=0.25/seed-7"})
      write_samples(trace_options(run.trace_dir(name), "*.router.ids,*.router.weights"), samples_of(whole, shard));
  put_missing(run.samples());
  run.finish_samples();
  finalize(dir);
  run.finish(RunStatus::complete);
}

std::vector<fs::path> run_shards(const TemporaryDirectory& parent, const Layout& whole, int64_t count) {
  std::vector<fs::path> dirs;
  for (int64_t i = count - 1; i >= 0; --i) {  // the order in which they are named does not matter
    dirs.push_back(parent / ("shard-" + std::to_string(i)));
    run_shard(dirs.back(), whole, {i, count});
  }
  return dirs;
}

MergeOptions merge_options() {
  MergeOptions options;
  options.finalize = finalize;
  return options;
}

std::string merge_error(const fs::path& out, const std::vector<fs::path>& dirs) {
  const std::string message = message_of([&] { merge_runs(out, dirs, merge_options()); });
  fs::path part = out;
  part += ".part";
  if (message != "no error") CHECK_FALSE(fs::exists(part));
  return message;
}

}  // namespace

TEST_CASE("merged traces: the bytes that one writer would have written") {
  const Layout whole = whole_of(10);
  const std::tuple<int64_t, const char*, bool> cases[] = {{1, "*", false},
                                                          {2, "*", true},
                                                          {3, "*.router.ids,*.router.weights", true},
                                                          {4, "*", false},
                                                          {4, "*.router.ids,*.router.weights", false},
                                                          {2, "layer.3.resid_in,logits", false}};
  for (const auto& one_case : cases) {
    const auto [count, points_text, with_edits] = one_case;
    const char* points = points_text;  // a lambda cannot take a part of a pattern
    const bool edited = with_edits;
    TemporaryDirectory dir;
    const auto options = [&](const std::string& name) {
      TraceOptions one = trace_options(dir / name, points);
      one.original_ids = edited;
      one.n_slots = edited ? 3 : 0;
      one.compact = edited;
      return one;
    };
    write_samples(options("whole"), samples_of(whole, {}));
    std::vector<fs::path> parts;
    std::vector<TracePick> order;
    std::vector<int64_t> next(static_cast<size_t>(count), 0);
    for (int64_t i = 0; i < count; ++i) {
      parts.push_back(dir / std::to_string(i));
      write_samples(options(std::to_string(i)), samples_of(whole, {i, count}));
    }
    for (size_t k = 0; k < whole.records.size(); ++k)
      for (int64_t s = 0; s < whole.samples[k]; ++s) {
        const int32_t part = static_cast<int32_t>(k) % static_cast<int32_t>(count);
        order.push_back({part, next[static_cast<size_t>(part)]++});
      }
    merge_traces(dir / "merged", parts, order);
    check_same_trace(dir / "merged", dir / "whole");
    CHECK(std::distance(fs::directory_iterator(dir / "merged"), fs::directory_iterator()) == 3);
  }
}

TEST_CASE("merged traces: samples may be left out, moved and come from one part several times") {
  TemporaryDirectory dir;
  const Layout whole = whole_of(6);
  const TraceSamples all = samples_of(whole, {});
  write_samples(trace_options(dir / "all"), all);
  const std::vector<int64_t> wanted = {5, 0, 1, 7, 7};
  TraceSamples some;
  std::vector<TracePick> order;
  for (int64_t i : wanted) {
    some.numbers.push_back(all.numbers[static_cast<size_t>(i)]);
    some.ids.push_back(all.ids[static_cast<size_t>(i)]);
    some.lengths.push_back(all.lengths[static_cast<size_t>(i)]);
    order.push_back({0, i});
  }
  write_samples(trace_options(dir / "some"), some);
  const fs::path parts[] = {dir / "all"};
  merge_traces(dir / "merged", parts, order);
  check_same_trace(dir / "merged", dir / "some");
  order[0].sample = 100;
  CHECK(message_of([&] { merge_traces(dir / "no", parts, order); }) ==
        "trace: expected samples of the parts, found sample 100 of part 0");
}

TEST_CASE("merged traces: parts that are not of one trace are refused") {
  TemporaryDirectory dir;
  const TraceSamples samples = samples_of(whole_of(2), {});
  write_samples(trace_options(dir / "a", "*.router.ids"), samples);
  const auto error = [&](const std::function<void(TraceOptions&)>& change, const char* points = "*.router.ids") {
    fs::remove_all(dir / "b");
    TraceOptions options = trace_options(dir / "b", points);
    change(options);
    write_samples(options, samples);
    const fs::path parts[] = {dir / "a", dir / "b"};
    const TracePick order[] = {{0, 0}};
    std::string message = message_of([&] { merge_traces(dir / "m", parts, order); });
    CHECK((message == "no error" || !fs::exists(dir / "m")));
    const std::string start = (dir / "b/trace.safetensors").string() + ": ";
    return message.starts_with(start) ? message.substr(start.size()) : message;
  };
  const std::string as = " as in " + (dir / "a/trace.safetensors").string() + ", found ";
  CHECK(error([](TraceOptions& o) {
          o.metadata = {{"model", "n"}, {"isa", "scalar"}};
        }) == "metadata model: expected \"m\"" + as + "\"n\"");
  CHECK(error([](TraceOptions& o) { o.span_names = {"doc"}; }) ==
        "metadata spans: expected \"[\"doc\",\"target\"]\"" + as + "\"[\"doc\"]\"");
  CHECK(error([](TraceOptions&) {}, "*.router.ids,*.router.weights").starts_with("tensors: expected"));
  CHECK(error([](TraceOptions& o) { o.n_slots = 3; }).starts_with("tensor \"router.ids\": expected U8 ["));
  CHECK(error([](TraceOptions&) {}, "layer.2.router.ids").starts_with("tensor \"layers\": expected I32 [5]"));
  CHECK(error([](TraceOptions&) {}) == "no error");
  write_file(dir / "b/records.jsonl", "{}\n");
  const fs::path parts[] = {dir / "a", dir / "b"};
  const TracePick order[] = {{0, 0}};
  CHECK(message_of([&] { merge_traces(dir / "n", parts, order); }) ==
        (dir / "b/records.jsonl").string() + ": expected a line for each of 3 samples, found 1");
  CHECK(message_of([&] { merge_traces(dir / "n", {}, order); }) != "no error");
  write_samples(trace_options(dir / "b", "*.router.ids"), samples);
  fs::remove(dir / "b/texts.jsonl");
  CHECK(message_of([&] { merge_traces(dir / "n", parts, order); }) ==
        (dir / "b").string() + ": expected texts.jsonl as in " + (dir / "a").string() + ", found none");
}

TEST_CASE("merge: the directory that one process would have written") {
  const Layout whole = whole_of(7);
  TemporaryDirectory one;
  run_shard(one / "run", whole, {});
  for (const int64_t count : {1, 2, 4, 9}) {  // with 9, two shards have no record
    TemporaryDirectory parent;
    const auto dirs = run_shards(parent, whole, count);
    const fs::path out = parent / "out/";
    if (count == 2) fs::create_directories(out);
    int64_t told = 0;
    MergeOptions options = merge_options();
    options.on_progress = [&](int64_t done, int64_t total) {
      CHECK(total == whole.n_lines());
      told = done;
    };
    merge_runs(out, dirs, options);
    CHECK(told == whole.n_lines());
    for (const char* file : {"samples.jsonl", "metrics.json", "records.jsonl", "plan.json", "detect/memory/rd.csv"})
      CHECK_MESSAGE(read_file(out / file) == read_file(one / "run" / file), file);
    for (const char* name : {"baseline", "mis/policy=random,fraction=0.25/seed-7"})
      check_same_trace(out / "traces" / name, one / "run/traces" / name);
    CHECK_FALSE(fs::exists(out / "lock"));
    CHECK_FALSE(fs::exists(parent / "out.part"));
    const Manifest merged = *Manifest::read(out), single = *Manifest::read(one / "run");
    CHECK(merged.status == RunStatus::complete);
    CHECK(merged.shard.whole());
    CHECK(differences(merged, single).empty());
    CHECK(merged.info.find("merged")->items().size() == static_cast<size_t>(count));
    // The run's own command has nothing left to do there.
    CHECK(RunDirectory(out, sample_manifest()).complete());
  }
}

TEST_CASE("merge: shards that are not one whole run are refused") {
  const Layout whole = whole_of(5);
  TemporaryDirectory parent;
  const fs::path out = parent / "out";
  std::vector<fs::path> dirs = run_shards(parent, whole, 3);  // 2, 1, 0
  CHECK(merge_error(out, {dirs[0]}) == "merge: expected all 3 shards, found none for 0/3, 1/3");
  CHECK(merge_error(out, {dirs[0], dirs[1], dirs[0]}) ==
        dirs[0].string() + ": expected each shard once, found 2/3 here and in " + dirs[0].string());
  CHECK(merge_error(out, {}) == "merge: expected the directories of shards, found none");
  CHECK(merge_error(out, {parent / "nowhere"}) ==
        (parent / "nowhere").string() + ": expected the directory of a run, found no manifest.json");
  CHECK(merge_error(dirs[0], dirs) ==
        dirs[0].string() + ": expected a directory that does not exist or is empty, found one with files");

  Manifest manifest = *Manifest::read(dirs[1]);
  const Manifest good = manifest;
  const std::string name = (dirs[1] / "manifest.json").string();
  manifest.status = RunStatus::interrupted;
  manifest.write(dirs[1]);
  CHECK(merge_error(out, dirs) ==
        name + ": expected a shard that is complete, found it interrupted (run its command again)");
  manifest = good;
  manifest.identity.set("isa", "scalar");
  manifest.write(dirs[1]);
  CHECK(merge_error(out, dirs) == name + ": expected a shard of the run in " + dirs[0].string() +
                                      ", found one of another run: isa: was \"avx2\", now \"scalar\"");
  manifest = good;
  manifest.shard.count = 4;
  manifest.write(dirs[1]);
  CHECK(merge_error(out, dirs).ends_with("shards: was 3, now 4"));
  manifest = good;
  manifest.layout->interventions[1] = "on";
  manifest.write(dirs[1]);
  CHECK(merge_error(out, dirs).ends_with("layout.interventions[1]: was \"off\", now \"on\""));
  good.write(dirs[1]);
  const Manifest first = *Manifest::read(dirs[2]);
  manifest = first;
  manifest.layout->records.pop_back();
  manifest.layout->samples.pop_back();
  manifest.write(dirs[2]);
  CHECK(merge_error(out, dirs) == (dirs[2] / "manifest.json").string() + ": expected 2 of 4 records, found 1");
  first.write(dirs[2]);
  manifest = good;
  manifest.layout->records[1] = "r0";
  manifest.write(dirs[1]);
  CHECK(merge_error(out, dirs) == name + ": expected each record in one shard, found \"r0\" in two");
  CHECK_FALSE(fs::exists(out));
  good.write(dirs[1]);
  CHECK(merge_error(out, dirs) == "no error");
}

TEST_CASE("merge: files that are not what the manifests say are refused") {
  const Layout whole = whole_of(5);
  TemporaryDirectory parent;
  const fs::path out = parent / "out";
  const std::vector<fs::path> dirs = run_shards(parent, whole, 2);  // 1, 0
  const auto with = [&](const char* file, const std::string& text) {
    const std::string before = read_file(dirs[0] / file);
    write_file(dirs[0] / file, text);
    std::string message = merge_error(out, dirs);
    write_file(dirs[0] / file, before);
    const std::string start = (dirs[0] / file).string();
    return message.starts_with(start) ? message.substr(start.size()) : message;
  };
  const std::string samples = read_file(dirs[0] / "samples.jsonl");
  const size_t first = samples.find('\n') + 1;
  CHECK(with("samples.jsonl", samples.substr(first)).starts_with(":1: expected the line of seed 0"));
  CHECK(with("samples.jsonl", samples.substr(0, samples.size() - 1)).find("found the end") != std::string::npos);
  CHECK(with("samples.jsonl", samples + samples.substr(0, first)).find("expected the end, found another line") !=
        std::string::npos);
  CHECK(with("plan.json", "{ }\n").starts_with(": expected the bytes of "));
  CHECK(with("detect/memory/rd.csv", "layer,expert\n1,3\n").starts_with(": expected the bytes of "));
  const std::string records = read_file(dirs[0] / "records.jsonl");
  CHECK(with("records.jsonl", records.substr(records.find('\n') + 1)) == ":1: id: expected \"r1\", found \"r3\"");
  fs::rename(dirs[0] / "detect/memory/rd.csv", dirs[0] / "detect/memory/qd.csv");
  CHECK(merge_error(out, dirs) == (dirs[0] / "detect/memory/qd.csv").string() + ": expected no such file, as in " +
                                      dirs[1].string() + ", found one");
  fs::rename(dirs[0] / "detect/memory/qd.csv", dirs[0] / "detect/memory/rd.csv");
  fs::rename(dirs[0] / "traces/baseline", dirs[0] / "baseline");
  CHECK(merge_error(out, dirs) ==
        (dirs[0] / "traces/baseline").string() + ": expected a trace as in the other shards, found none");
  fs::rename(dirs[0] / "baseline", dirs[0] / "traces/baseline");
  TraceSamples others = samples_of(whole, {1, 2});
  std::swap(others.ids[0], others.ids[2]);
  write_samples(trace_options(dirs[0] / "traces/baseline", "*.router.ids,*.router.weights"), others);
  CHECK(merge_error(out, dirs).find("samples of the shard in their order") != std::string::npos);
  write_samples(trace_options(dirs[0] / "traces/baseline", "*.router.ids,*.router.weights"), samples_of(whole, {1, 2}));
  CHECK(merge_error(out, dirs) == "no error");
}

TEST_CASE("merge: interrupted, it leaves nothing that looks whole, and the next one succeeds") {
  const Layout whole = whole_of(5);
  TemporaryDirectory parent;
  const fs::path out = parent / "out", part = parent / "out.part";
  const auto dirs = run_shards(parent, whole, 2);
  MergeOptions options = merge_options();
  options.finalize = [](const fs::path&) { throw Error("here", "expected more, found less"); };
  CHECK(message_of([&] { merge_runs(out, dirs, options); }) == "here: expected more, found less");
  CHECK_FALSE(fs::exists(out));
  CHECK_FALSE(fs::exists(part));
  // Killed: in the last step, at every earlier place that can be reached.
  for (const bool late : {false, true}) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      if (late)
        options.finalize = [](const fs::path& dir) { finalize(dir), raise(SIGKILL); };
      else
        options.on_progress = [](int64_t, int64_t) { raise(SIGKILL); };
      try {
        merge_runs(out, dirs, options);
      } catch (...) {
      }
      _exit(0);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    CHECK_FALSE(fs::exists(out));
    CHECK(fs::exists(part / (late ? "samples.jsonl" : "samples.jsonl.tmp-" + std::to_string(child))));
    if (late) CHECK(Manifest::read(part)->status == RunStatus::running);
  }
  merge_runs(out, dirs, merge_options());
  CHECK(read_file(out / "samples.jsonl") == whole_text(whole));
  CHECK_FALSE(fs::exists(part));
  // Somebody's own files are not removed.
  fs::create_directories(part);
  write_file(part / "mine", "x");
  fs::remove_all(out);
  CHECK(message_of([&] { merge_runs(out, dirs, merge_options()); }) ==
        part.string() + ": expected nothing, or what an interrupted merge left, found other files");
  CHECK(read_file(part / "mine") == "x");
}
