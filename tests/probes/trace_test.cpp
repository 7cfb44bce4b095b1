#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>

#include "base/safetensors.h"
#include "tests/probes/trace_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

int count_files(const fs::path& dir) {
  int n = 0;
  for (const auto& entry : fs::directory_iterator(dir)) n += entry.is_regular_file();
  return n;
}

void finish(TraceWriter& writer, const std::vector<std::string>& ids) {
  writer.finish(ids,
                [&](int64_t s) { return json::Value::object().set("id", ids[static_cast<size_t>(s)]).set("n", s); });
}

}  // namespace

TEST_CASE("trace: everything that is written is read back") {
  TemporaryDirectory dir;
  TraceOptions options = trace_options(dir / "t");
  options.n_slots = 3;
  options.original_ids = true;
  {
    TraceWriter writer(options);
    feed(writer, options, {{0, 0, 4, 0}, {1, 0, 2, 0}});
    feed(writer, options, {{1, 2, 1, 0}, {0, 4, 1, 0}, {2, 0, 5, 0}});
    CHECK(writer.n_rows() == 13);
    CHECK(writer.n_rows(1) == 3);
    CHECK(writer.n_rows(9) == 0);
    finish(writer, {"a", "b", "a"});
  }
  CHECK(count_files(dir / "t") == 2);
  CHECK(read_file(dir / "t/records.jsonl") ==
        "{\"id\":\"a\",\"n\":0}\n{\"id\":\"b\",\"n\":1}\n{\"id\":\"a\",\"n\":2}\n");
  const TraceReader trace(dir / "t");
  const TraceReader same(dir / "t/trace.safetensors");
  CHECK(trace.n_tokens() == 13);
  CHECK(trace.n_samples() == 3);
  CHECK(trace.n_experts() == 8);
  CHECK(trace.n_active() == 2);
  CHECK(trace.n_slots() == 3);
  CHECK(trace.edited());
  CHECK(trace.layers() == std::vector<int32_t>{1, 2, 3, 4, 5});
  CHECK(trace.layer_index(4) == 3);
  CHECK_FALSE(trace.layer_index(0).has_value());
  CHECK(trace.span_names() == std::vector<std::string>{"doc", "target"});
  CHECK(trace.metadata("schema") == "signalbox.trace/1");
  CHECK(trace.metadata("samples") == "[\"a\",\"b\",\"a\"]");
  CHECK(trace.metadata("isa") == "scalar");
  for (const char* key : {"model", "model_hash", "n_experts", "n_active", "tokenizer", "edits", "numerics", "device",
                          "signalbox_version"})
    CHECK(safetensors::File::open(dir / "t/trace.safetensors")->metadata().contains(key));
  CHECK(trace.find_sample("a") == 0);
  CHECK(trace.find_sample("a", 1) == 2);
  CHECK_FALSE(trace.find_sample("a", 2).has_value());
  CHECK_FALSE(trace.find_sample("c").has_value());
  const int64_t lengths[] = {5, 3, 5};
  for (int64_t s = 0; s < 3; ++s) {
    const auto rows = trace.rows(s);
    REQUIRE(rows.size() == lengths[s]);
    const auto ids = trace.ids(rows), original = trace.original_ids(rows);
    for (int64_t r = 0; r < rows.size(); ++r) {
      CHECK(trace.tokens(rows)[static_cast<size_t>(r)] == token_at(s, r));
      CHECK(trace.positions(rows)[static_cast<size_t>(r)] == r);
      CHECK(trace.phase(rows)[static_cast<size_t>(r)] == (r >= 3));
      CHECK(trace.spans(rows)[static_cast<size_t>(r)] == (r < 2));
      for (int32_t i = 0; i < 5; ++i)
        for (int64_t k = 0; k < 3; ++k) {
          const size_t at = static_cast<size_t>((r * 5 + i) * 3 + k);
          CHECK(ids[at] == id_at(s, r, i + 1, k, 8));
          CHECK(original[at] == original_at(s, r, i + 1, k, 8));
        }
    }
    for (const PointAt& at : options.points.all()) {
      if (at.point == Point::router_ids || point_info(at.point).positions()) continue;
      const bool stacked = point_info(at.point).stacked;
      const std::string name = stacked ? std::string(point_info(at.point).name) : point_name(at.point, at.layer);
      const int64_t width = trace.tensor_width(name) / (stacked ? 5 : 1);
      const int64_t first = stacked ? *trace.layer_index(at.layer) * width : 0;
      const auto found = trace.floats(name, rows);
      const float* in_place = trace.floats_in_place(name, rows);
      REQUIRE(in_place);
      for (int64_t r = 0; r < rows.size(); ++r)
        for (int64_t c = 0; c < width; ++c) {
          const int64_t index = r * trace.tensor_width(name) + first + c;
          if (found[static_cast<size_t>(index)] != value_at(s, r, at.point, at.layer, c) ||
              in_place[index] != found[static_cast<size_t>(index)])
            FAIL(name << " row " << r << " column " << c);
        }
    }
  }
  auto shape_of = [&](const char* name) { return trace.tensor_shape(name); };
  CHECK(shape_of("router.ids") == std::vector<int64_t>{13, 5, 3});
  CHECK(shape_of("router.margin") == std::vector<int64_t>{13, 5});
  CHECK(shape_of("router.logits") == std::vector<int64_t>{13, 5, 8});
  CHECK(shape_of("layer.2.expert.out") == std::vector<int64_t>{13, 3, 4});
  CHECK(shape_of("layer.2.expert.hidden") == std::vector<int64_t>{13, 3, 3});
  CHECK(shape_of("layer.2.expert.contribution") == std::vector<int64_t>{13, 3, 4});
  CHECK(shape_of("layer.0.attn.q") == std::vector<int64_t>{13, 4, 3});
  CHECK(shape_of("layer.0.attn.k") == std::vector<int64_t>{13, 2, 3});
  CHECK(shape_of("layer.0.attn.v") == std::vector<int64_t>{13, 2, 5});
  CHECK(shape_of("layer.0.attn.z") == std::vector<int64_t>{13, 4, 6});
  CHECK(shape_of("layer.0.attn.pattern") == std::vector<int64_t>{13, 4, 5});
  CHECK(shape_of("layer.1.router.in") == std::vector<int64_t>{13, 4});
  CHECK(shape_of("layer.0.mlp.out") == std::vector<int64_t>{13, 4});
  CHECK(shape_of("logits") == std::vector<int64_t>{13, 11});
  CHECK(shape_of("sample_offsets") == std::vector<int64_t>{4});
  const auto file = safetensors::File::open(dir / "t/trace.safetensors");
  for (const auto& tensor : file->tensors()) CHECK(file->aligned(tensor));
  CHECK(file->at("router.ids").dtype == "U8");
  CHECK(file->at("spans").dtype == "U32");
}

TEST_CASE("trace: bytes do not depend on how rows arrived") {
  TemporaryDirectory dir;
  const std::string globs = "*.router.ids,*.router.weights,layer.3.expert.out,embed";
  const TraceOptions whole = trace_options(dir / "whole", globs), mixed = trace_options(dir / "mixed", globs);
  {
    TraceWriter writer(whole);
    for (int64_t s = 0; s < 3; ++s) feed(writer, whole, {{s, 0, 700, 0}});
    finish(writer, {"a", "b", "c"});
    TraceWriter other(mixed);
    feed(other, mixed, {{2, 0, 600, 0}});
    for (int64_t r = 0; r < 700; r += 2) feed(other, mixed, {{1, r, 2, 0}, {0, r, 1, 0}, {0, r + 1, 1, 0}});
    for (int64_t r = 600; r < 700; ++r) feed(other, mixed, {{2, r, 1, 0}});
    finish(other, {"a", "b", "c"});
  }
  CHECK(read_file(dir / "whole/trace.safetensors") == read_file(dir / "mixed/trace.safetensors"));
}

TEST_CASE("trace: batches too large to be staged") {
  TemporaryDirectory dir;
  ModelShape shape = sample_shape();
  shape.n_vocab = 1 << 19;
  const TraceOptions large = trace_options(dir / "large", "logits,*.router.ids", shape);
  const TraceOptions small = trace_options(dir / "small", "logits,*.router.ids", shape);
  {
    TraceWriter writer(large);
    feed(writer, large, {{1, 0, 1, 0}});
    feed(writer, large, {{0, 0, 12, 0}, {1, 1, 8, 0}});
    finish(writer, {"a", "b"});
    TraceWriter other(small);
    for (int64_t r = 0; r < 12; ++r) feed(other, small, {{0, r, 1, 0}});
    for (int64_t r = 0; r < 9; ++r) feed(other, small, {{1, r, 1, 0}});
    finish(other, {"a", "b"});
  }
  CHECK(read_file(dir / "large/trace.safetensors") == read_file(dir / "small/trace.safetensors"));
}

// Every value of the patterns of one layer, against where it stands.
int64_t count_wrong_shares(const TraceReader& trace, int32_t layer) {
  const std::string name = point_name(Point::attn_pattern, layer);
  const int64_t heads = trace.tensor_shape(name)[1], longest = trace.tensor_shape(name)[2];
  int64_t wrong = 0;
  for (int64_t s = 0; s < trace.n_samples(); ++s) {
    const auto rows = trace.rows(s);
    const auto found = trace.floats(name, rows);
    for (int64_t r = 0; r < rows.size(); ++r)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t k = 0; k < longest; ++k)
          wrong += found[static_cast<size_t>((r * heads + h) * longest + k)] !=
                   share_at(s, r, Point::attn_pattern, layer, h, k);
  }
  return wrong;
}

TEST_CASE("trace: patterns are as wide as the longest sample, however rows arrived") {
  TemporaryDirectory dir;
  const std::string globs = "*.attn.pattern,layer.2.attn.q,*.router.ids";
  const TraceOptions whole = trace_options(dir / "whole", globs), mixed = trace_options(dir / "mixed", globs);
  {
    TraceWriter writer(whole);
    feed(writer, whole, {{0, 0, 3, 0}});
    feed(writer, whole, {{1, 0, 70, 0}});
    feed(writer, whole, {{3, 0, 41, 0}});
    finish(writer, {"a", "b", "none", "c"});
    TraceWriter other(mixed);
    feed(other, mixed, {{1, 0, 30, 0}, {3, 0, 40, 0}});
    for (int64_t r = 30; r < 70; ++r) feed(other, mixed, {{1, r, 1, 0}});
    feed(other, mixed, {{0, 0, 2, 0}, {3, 40, 1, 0}});
    feed(other, mixed, {{0, 2, 1, 0}});
    finish(other, {"a", "b", "none", "c"});
  }
  CHECK(read_file(dir / "whole/trace.safetensors") == read_file(dir / "mixed/trace.safetensors"));
  const TraceReader trace(dir / "whole");
  CHECK(trace.tensor_shape("layer.5.attn.pattern") == std::vector<int64_t>{114, 4, 70});
  for (const int32_t l : {0, 2, 5}) CHECK(count_wrong_shares(trace, l) == 0);
  CHECK(trace.floats("layer.2.attn.q", {0, 1})[11] == value_at(0, 0, Point::attn_q, 2, 11));
}

TEST_CASE("trace: a pattern of another width than its batch, or than its trace, is refused") {
  TemporaryDirectory dir;
  const TraceOptions options = trace_options(dir.path(), "layer.0.attn.pattern");
  {
    TraceWriter writer(options);
    const std::vector<RowRange> ranges = {{0, 0, 3, 0}};
    const std::vector<int32_t> tokens = {1, 2, 3}, positions = {0, 1, 2};
    const std::vector<float> data(3 * 4 * 3, 0.f);
    writer.begin({3, ranges, tokens.data(), positions.data(), nullptr, nullptr});
    CHECK(error_of([&] { writer.take(Point::attn_pattern, 0, data.data(), 8); }) ==
          "trace: expected rows of 12 for layer.0.attn.pattern, found 8");
  }
  write_trace(options, {3});
  std::string bytes = read_file(dir / "trace.safetensors");
  const size_t at = bytes.find("[3,4,3]");
  REQUIRE(at != std::string::npos);
  bytes.replace(at, 7, "[3,3,4]");
  write_file(dir / "trace.safetensors", bytes);
  CHECK(error_of([&] { TraceReader reader(dir.path()); }).find("expected F32 [3, 3, 3], found F32 [3, 3, 4]") !=
        std::string::npos);
}

TEST_CASE("trace: a layer without groups has no margin of groups") {
  TemporaryDirectory dir;
  ModelShape shape = sample_shape();
  shape.layers[2].groups = shape.layers[4].groups = true;
  const TraceOptions options = trace_options(dir.path(), "router.group_margin,layer.3.router.margin", shape);
  {
    TraceWriter writer(options);
    feed(writer, options, {{0, 0, 400, 0}});
    feed(writer, options, {{0, 400, 2, 0}});
    finish(writer, {"a"});
  }
  const TraceReader trace(dir.path());
  REQUIRE(trace.layers() == std::vector<int32_t>{2, 3, 4});
  CHECK(trace.tensor_shape("router.group_margin") == std::vector<int64_t>{402, 3});
  for (const int64_t row : {0, 399, 401}) {
    const auto found = trace.floats("router.group_margin", {row, row + 1});
    CHECK(found[0] == value_at(0, row, Point::router_group_margin, 2, 0));
    CHECK(std::isnan(found[1]));
    CHECK(found[2] == value_at(0, row, Point::router_group_margin, 4, 0));
  }
}

TEST_CASE("trace: wide ids, compact weights, some layers, shared rows, samples without rows") {
  TemporaryDirectory dir;
  ModelShape shape = sample_shape();
  for (auto& layer : shape.layers)
    if (layer.moe) layer.n_experts = 256;
  TraceOptions options = trace_options(dir.path(), "layer.2.router.ids,layer.4.router.weights", shape);
  options.compact = true;
  options.n_slots = 3;
  {
    TraceWriter writer(options);
    feed(writer, options, {{0, 0, 3, 0}, {2, 0, 3, 0}}, true);  // two samples share the rows of a prompt
    finish(writer, {"a", "none", "a"});
  }
  const TraceReader trace(dir.path());
  const auto file = safetensors::File::open(dir / "trace.safetensors");
  CHECK(file->at("router.ids").dtype == "U16");
  CHECK(file->at("router.weights").dtype == "F16");
  CHECK(trace.layers() == std::vector<int32_t>{2, 4});
  CHECK(trace.rows(1).size() == 0);
  CHECK(trace.ids(trace.rows(0)) == trace.ids(trace.rows(2)));
  CHECK(trace.ids(trace.rows(0))[5] == id_at(0, 0, 4, 2, 256));
  CHECK(trace.ids({1, 2})[2] == -1);
  CHECK(trace.weights({1, 2})[4] == value_at(0, 1, Point::router_weights, 4, 1));
  CHECK_FALSE(trace.edited());
  CHECK(trace.floats_in_place("router.weights", {0, 1}) == nullptr);
}

TEST_CASE("trace: 255 experts still fit a byte, none at all is a trace too") {
  TemporaryDirectory dir;
  ModelShape shape = sample_shape();
  for (auto& layer : shape.layers)
    if (layer.moe) layer.n_experts = 255;
  write_trace(trace_options(dir / "a", "*.router.ids", shape), {4});
  CHECK(safetensors::File::open(dir / "a/trace.safetensors")->at("router.ids").dtype == "U8");
  ModelShape dense;
  dense.d_model = 2;
  dense.n_vocab = 3;
  dense.layers.resize(2);
  write_trace(trace_options(dir / "b", "*", dense), {2, 1});
  const TraceReader trace(dir / "b");
  CHECK(trace.layers().empty());
  CHECK(trace.n_experts() == 0);
  CHECK(trace.floats("logits", trace.rows(1)) == std::vector<float>{value_at(1, 0, Point::logits, -1, 0),
                                                                    value_at(1, 0, Point::logits, -1, 1),
                                                                    value_at(1, 0, Point::logits, -1, 2)});
}

TEST_CASE("trace: compact ids and weights of 26 layers of 6 experts take 468 bytes per token") {
  TemporaryDirectory dir;
  ModelShape shape = sample_shape();
  shape.layers.assign(27, {true, 64, 6, 3, true});
  shape.layers[0] = {};
  TraceOptions options = trace_options(dir.path(), std::string(default_points), shape);
  options.compact = true;
  write_trace(options, {10});
  const auto file = safetensors::File::open(dir / "trace.safetensors");
  CHECK(file->at("router.ids").bytes + file->at("router.weights").bytes == 4680);
}

TEST_CASE("trace: nothing remains of a writer that did not finish") {
  TemporaryDirectory dir;
  const TraceOptions options = trace_options(dir.path());
  {
    TraceWriter writer(options);
    feed(writer, options, {{0, 0, 400, 0}});
  }
  CHECK(count_files(dir.path()) == 0);
  // A record that cannot be made fails finish(): the temporary files go, an old trace stays.
  write_trace(options, {2});
  const std::string old = read_file(dir / "trace.safetensors");
  {
    TraceWriter writer(options);
    feed(writer, options, {{0, 0, 3, 0}});
    const std::vector<std::string> ids = {"a"};
    CHECK_THROWS(writer.finish(ids, [](int64_t) -> json::Value { throw Error("x", "y"); }));
  }
  CHECK(count_files(dir.path()) == 2);
  CHECK(read_file(dir / "trace.safetensors") == old);
}

TEST_CASE("trace: a killed process leaves no trace under the final name") {
  TemporaryDirectory dir;
  const TraceOptions options = trace_options(dir.path());
  const pid_t child = fork();
  if (child == 0) {
    TraceWriter writer(options);
    feed(writer, options, {{0, 0, 400, 0}});
    const std::vector<std::string> ids = {"a"};
    writer.finish(ids, [](int64_t) -> json::Value {  // in the middle of finish()
      kill(getpid(), SIGKILL);
      return {};
    });
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK_FALSE(fs::exists(dir / "trace.safetensors"));
  CHECK_FALSE(fs::exists(dir / "records.jsonl"));
  write_trace(options, {2});
  CHECK(TraceReader(dir.path()).n_tokens() == 2);
}

TEST_CASE("trace: a disk that is full is an error that names the file") {
  TemporaryDirectory dir;
  const TraceOptions options = trace_options(dir.path());
  for (const bool at_finish : {false, true}) {
    int pipes[2];
    REQUIRE(pipe(pipes) == 0);
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGXFSZ, SIG_IGN);
      std::string message = "no error";
      try {
        TraceWriter writer(options);
        if (at_finish) feed(writer, options, {{0, 0, 400, 0}});
        const rlimit limit = {4096, 4096};
        setrlimit(RLIMIT_FSIZE, &limit);
        if (!at_finish) feed(writer, options, {{0, 0, 4000, 0}});
        finish(writer, {"a"});
      } catch (const Error& error) {
        message = error.what();
      }
      if (write(pipes[1], message.data(), message.size()) < 0) _exit(1);
      _exit(0);
    }
    close(pipes[1]);
    std::string message(1000, '\0');
    const ssize_t n = read(pipes[0], message.data(), message.size());
    message.resize(n < 0 ? 0 : static_cast<size_t>(n));
    close(pipes[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CAPTURE(message);
    CHECK(message.find("cannot write: ") != std::string::npos);
    CHECK(message.find(dir.path().string()) == 0);
    CHECK(message.find(at_finish ? "trace.safetensors" : "spool") != std::string::npos);
    CHECK(count_files(dir.path()) == 0);
  }
}

TEST_CASE("trace: what the writer refuses") {
  TemporaryDirectory dir;
  TraceOptions options = trace_options(dir.path(), "embed,logits");
  auto message = [&](auto run) {
    return error_of([&] {
      TraceWriter writer(options);
      run(writer);
    });
  };
  CHECK(message([&](TraceWriter& w) {
          feed(w, options, {{0, 1, 2, 0}});
        }) == "trace: expected row 0 of sample 0, found row 1");
  CHECK(message([&](TraceWriter& w) {
          feed(w, options, {{0, 0, 2, 0}, {0, 1, 1, 0}});
        }) == "trace: expected row 2 of sample 0, found row 1");
  CHECK(message([&](TraceWriter& w) {
          feed(w, options, {{0, 0, 2, 0}});
          finish(w, {});
        }) == "trace: expected rows of at most 0 samples, found 1");
  const int32_t token = 1;
  const float data[11] = {};
  const RowRange range{0, 0, 1, 0};
  const StepRows rows{1, {&range, 1}, &token, &token, nullptr, nullptr};
  CHECK(message([&](TraceWriter& w) {
          w.begin(rows);
          w.take(Point::embed, -1, data, 4);
          w.end();
        }) == "trace: expected a value at logits, which is to be recorded, found none");
  CHECK(message([&](TraceWriter& w) {
          w.begin(rows);
          w.take(Point::embed, -1, data, 5);
        }) == "trace: expected rows of 4 for embed, found 5");
  CHECK(message([&](TraceWriter& w) {
          w.begin(rows);
          w.take(Point::embed, -1, data, 4);
          w.take(Point::embed, -1, data, 4);
        }) == "trace: expected embed once a batch, found it twice");
  CHECK(message([&](TraceWriter& w) {
          w.begin(rows);
          w.take(Point::final_normed, -1, data, 4);
        }) == "trace: expected a point that is recorded, found final.normed");
  CHECK(message([&](TraceWriter& w) { w.take(Point::embed, -1, data, 4); }).find("between begin() and end()") !=
        std::string::npos);
  options.span_names.assign(33, "x");
  CHECK(message([](TraceWriter&) {}).find("expected at most 32 names of spans in a trace, found 33") !=
        std::string::npos);
  options.span_names.clear();
  options.metadata = {{"colour", "red"}};
  CHECK(message([](TraceWriter&) {}) == "trace: expected metadata that the schema knows, found \"colour\"");
  options.metadata.clear();
  write_file(dir / "file", "x");
  options.dir = dir / "file";
  CHECK(message([](TraceWriter&) {}).find("file") != std::string::npos);
}

TEST_CASE("trace: what the reader refuses") {
  TemporaryDirectory dir;
  struct Part {
    std::string name, dtype;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
  };
  auto ints = [](std::vector<int32_t> values) {
    std::vector<uint8_t> bytes(values.size() * 4);
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  };
  auto longs = [](std::vector<int64_t> values) {
    std::vector<uint8_t> bytes(values.size() * 8);
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  };
  // A good trace of two samples, three tokens, two layers; each case breaks one thing.
  auto refusal = [&](auto change) {
    std::map<std::string, std::string> metadata = {{"schema", "signalbox.trace/1"},
                                                   {"n_experts", "4"},
                                                   {"n_active", "2"},
                                                   {"samples", "[\"a\",\"b\"]"},
                                                   {"spans", "[]"}};
    std::vector<Part> parts = {{"tokens", "I32", {3}, ints({1, 2, 3})},
                               {"positions", "I32", {3}, ints({0, 1, 0})},
                               {"sample_offsets", "I64", {3}, longs({0, 2, 3})},
                               {"phase", "U8", {3}, {0, 0, 0}},
                               {"spans", "U32", {3}, ints({0, 0, 0})},
                               {"layers", "I32", {2}, ints({1, 3})},
                               {"router.ids", "U8", {3, 2, 2}, {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 255}}};
    change(metadata, parts);
    std::vector<safetensors::TensorHeader> headers;
    for (const Part& part : parts) headers.push_back({part.name, part.dtype, part.shape});
    const fs::path file = dir / "trace.safetensors";
    safetensors::Writer writer(file, headers, metadata);
    for (Part& part : parts) {
      part.bytes.resize(headers[static_cast<size_t>(&part - parts.data())].bytes());
      writer.write(part.bytes.data(), part.bytes.size());
    }
    writer.finish();
    std::string text = error_of([&] { TraceReader(dir.path()).ids({0, 3}); });
    const std::string start = file.string() + ": ";
    return text.starts_with(start) ? text.substr(start.size()) : text;
  };
  using Metadata = std::map<std::string, std::string>;
  using Parts = std::vector<Part>;
  CHECK(refusal([](Metadata&, Parts&) {}) == "no error");
  CHECK(refusal([](Metadata& m, Parts&) { m.erase("schema"); }) ==
        "expected a trace of schema \"signalbox.trace/1\", found none");
  CHECK(refusal([](Metadata& m, Parts&) { m["schema"] = "x"; }).find("found \"x\"") != std::string::npos);
  CHECK(refusal([](Metadata& m, Parts&) { m.erase("samples"); }) ==
        "metadata: expected the key \"samples\", found none");
  CHECK(refusal([](Metadata& m, Parts&) { m["samples"] = "[1,2]"; }).find("expected a string, found 1") !=
        std::string::npos);
  CHECK(refusal([](Metadata& m, Parts&) { m["samples"] = "[\"a\"]"; }).find("sample_offsets") != std::string::npos);
  CHECK(refusal([](Metadata& m, Parts&) { m["n_experts"] = "-4"; }).find("metadata n_experts: expected a count") == 0);
  CHECK(refusal([](Metadata& m, Parts&) { m["n_active"] = "5"; }).find("no more active ones") != std::string::npos);
  CHECK(refusal([](Metadata& m, Parts&) { m["n_active"] = "3"; }).find("expected routes of 3 to 4 slots") !=
        std::string::npos);
  CHECK(refusal([](Metadata& m, Parts&) { m["n_experts"] = "3"; }).find("expected experts below 3, found 3") !=
        std::string::npos);
  CHECK(refusal([](Metadata&, Parts& p) { p.erase(p.begin()); }) == "expected a tensor \"tokens\", found none");
  CHECK(refusal([](Metadata&, Parts& p) { p[0].dtype = "F32"; }) ==
        "tensor \"tokens\": expected I32 of rank 1, found F32 [3]");
  CHECK(refusal([&](Metadata&, Parts& p) {
          p[1].bytes = ints({0, 0, 0});
        })
            .find("positions that ascend within a sample, "
                  "found 0 at row 1") != std::string::npos);
  CHECK(refusal([&](Metadata&, Parts& p) { p[1].bytes = ints({-1, 0, 0}); }).find("positions") != std::string::npos);
  CHECK(refusal([&](Metadata&, Parts& p) {
          p[1].bytes = ints({0, INT32_MAX, 0});
        }).find("positions below 16777216") != std::string::npos);
  CHECK(refusal([&](Metadata&, Parts& p) {
          p[2].bytes = longs({0, 4, 3});
        }).find("offsets that ascend from 0 to 3") != std::string::npos);
  CHECK(refusal([](Metadata&, Parts& p) {
          p[3].bytes = {0, 2, 0};
        }) == "tensor \"phase\": expected 0 or 1, found 2 at row 1");
  CHECK(refusal([](Metadata&, Parts& p) { p[4].shape = {2}; }).find("expected a row a token (3)") != std::string::npos);
  CHECK(refusal([&](Metadata&, Parts& p) {
          p[5].bytes = ints({3, 1});
        }).find("indices that ascend") != std::string::npos);
  CHECK(refusal([](Metadata&, Parts& p) { p[6].bytes[1] = 4; }) ==
        "tensor \"router.ids\": row 0, layer 1: expected experts below 4, found 4");
  CHECK(refusal([](Metadata&, Parts& p) { p[6].bytes[11] = 2; }) ==
        "tensor \"router.ids\": row 2, layer 3: expected each expert once in a route, found 2");
  CHECK(refusal([](Metadata&, Parts& p) { p[6].shape = {3, 4, 1}; }).find("router.ids") != std::string::npos);
  CHECK(refusal([](Metadata&, Parts& p) {
          p.push_back({"layer.1.resid_in", "F32", {2, 4}, {}});
        }).find("F32 [3, ...]") != std::string::npos);
  CHECK(refusal([](Metadata&, Parts& p) {
          p.push_back({"router.logits", "F32", {3, 2, 3}, {}});
        }).find("F32 [3, 2, 4]") != std::string::npos);
  write_file(dir / "trace.safetensors", "x");
  CHECK(error_of([&] { TraceReader reader(dir.path()); }).find("trace.safetensors") != std::string::npos);
  CHECK(error_of([&] { TraceReader reader(dir / "nowhere"); }).find("nowhere") != std::string::npos);
}

// The bound that docs/trace.md states: ids and weights of 26 layers of 6 experts within 256 MB for a million tokens. A
// tenth of them here; SIGNALBOX_LONG_TESTS=1 runs them all.
TEST_CASE("trace: memory does not grow with the length") {
  TemporaryDirectory dir;
  ModelShape shape;
  shape.layers.assign(27, {true, 64, 6, 3, true});
  shape.layers[0] = {};
  const TraceOptions options = trace_options(dir.path(), std::string(default_points), shape);
  const int64_t n_tokens = std::getenv("SIGNALBOX_LONG_TESTS") ? 1'000'000 : 100'000;
  auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    int64_t size = 0, pages = 0;
    statm >> size >> pages;
    return pages * sysconf(_SC_PAGESIZE);
  };
  const int64_t n_rows = 8, n_samples = 64, per_sample = n_tokens / n_samples;
  const std::vector<float> weights(n_rows * 6, 0.5f);
  std::vector<int32_t> ids, tokens(n_rows, 1);
  for (int64_t i = 0; i < n_rows * 6; ++i) ids.push_back(static_cast<int32_t>(i % 6));
  malloc_trim(0);  // what earlier tests freed must not hide what this one takes
  const int64_t before = resident();
  int64_t peak = before;
  const auto start = std::chrono::steady_clock::now();
  TraceWriter writer(options);
  // Decode in eights: samples finish at different times and others take their place.
  std::vector<int64_t> next(static_cast<size_t>(n_samples), 0);
  for (int64_t group = 0; group < n_samples; group += n_rows) {
    for (int64_t r = 0; r < per_sample; ++r) {
      std::vector<RowRange> ranges;
      std::vector<int32_t> positions(static_cast<size_t>(n_rows), static_cast<int32_t>(r));
      for (int64_t i = 0; i < n_rows; ++i) ranges.push_back({group + i, r, 1, i});
      writer.begin({n_rows, ranges, tokens.data(), positions.data(), nullptr, nullptr});
      for (int32_t l = 1; l < 27; ++l) {
        writer.take(Point::router_weights, l, weights.data(), 6);
        writer.take_ids(l, ids.data(), nullptr, 6);
      }
      writer.end();
      if (r % 512 == 0) peak = std::max(peak, resident());
    }
  }
  std::vector<std::string> names;
  for (int64_t s = 0; s < n_samples; ++s) names.push_back(std::to_string(s));
  writer.finish(names, [&](int64_t) {
    peak = std::max(peak, resident());
    return json::Value::object();
  });
  peak = std::max(peak, resident());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  MESSAGE("trace of " << per_sample * n_samples << " tokens: " << (peak - before) / 1'000'000 << " MB above the start, "
                      << seconds * 1e6 / static_cast<double>(n_tokens) << " us a token");
  CHECK(peak - before < 256'000'000);
  CHECK(TraceReader(dir.path()).n_tokens() == per_sample * n_samples);
}
