// Values of edits from memory: a store holds what a trace of the same rows holds, and edits take the same values from
// both.
#include "probes/edit_memory.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "probes/activation_store.h"
#include "tests/probes/trace_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

const std::vector<std::string> ids = {"s0", "s1", "s0"};

// Samples s0 (5 rows), s1 (3 rows) and s0 again (4 rows), in two batches that mix them.
void feed_runs(ProbeSink& sink, const TraceOptions& options) {
  feed(sink, options, {{0, 0, 2, 0}, {2, 0, 4, 0}});
  feed(sink, options, {{1, 0, 3, 0}, {0, 2, 3, 0}});
}

TraceOptions options_in(const std::filesystem::path& dir, const std::string& points = "*") {
  TraceOptions options = trace_options(dir, points);
  options.n_slots = 3;
  return options;
}

std::shared_ptr<ActivationStore> store_of(const std::string& name, const std::string& points = "*") {
  const TraceOptions options = options_in("unused", points);
  auto store = std::make_shared<ActivationStore>(name, options.shape, options.points, options.n_slots);
  feed_runs(*store, options);
  store->finish(ids);
  return store;
}

std::shared_ptr<const EditPlan> memory_plan(std::string text, const EditMemory* memory) {
  for (char& c : text)
    if (c == '\'') c = '"';
  const json::Value value = json::parse(text, "E.json");
  return EditPlan::parse(json::Ref(value, "E.json"), ".", sample_shape(), 1, memory);
}

}  // namespace

TEST_CASE("a store holds what a trace of the same rows holds") {
  TemporaryDirectory dir;
  const TraceOptions options = options_in(dir / "t");
  TraceWriter writer(options);
  feed_runs(writer, options);
  writer.finish(ids, [](int64_t) { return json::Value::object(); });
  const TraceReader trace(dir / "t");
  const auto store = store_of("runs");
  CHECK(store->where() == "memory:runs");
  CHECK(store->n_tokens() == trace.n_tokens());
  CHECK(store->n_samples() == trace.n_samples());
  CHECK(store->n_experts() == trace.n_experts());
  CHECK(store->n_active() == trace.n_active());
  CHECK(store->n_slots() == trace.n_slots());
  CHECK(store->layers() == trace.layers());
  const Recording::Rows all{0, trace.n_tokens()};
  CHECK(store->positions(all) == trace.positions(all));
  CHECK(store->ids(all) == trace.ids(all));
  CHECK(store->weights({3, 7}) == trace.weights({3, 7}));
  CHECK(store->count_samples("s0") == 2);
  CHECK(store->find_sample("s0", 1) == trace.find_sample("s0", 1));
  CHECK_FALSE(store->find_sample("s1", 1));
  for (int64_t s = 0; s < 3; ++s) {
    CHECK(store->rows(s).begin == trace.rows(s).begin);
    CHECK(store->rows(s).end == trace.rows(s).end);
  }
  int64_t n_tensors = 0;
  for (const std::string& tensor : trace.tensor_names()) {
    CAPTURE(tensor);
    if (tensor.find('.') == std::string::npos && tensor != "embed" && tensor != "logits") continue;  // of the rows
    REQUIRE(store->has(tensor));
    CHECK(store->tensor_shape(tensor) == trace.tensor_shape(tensor));
    CHECK(store->tensor_width(tensor) == trace.tensor_width(tensor));
    if (tensor == "router.ids") continue;
    ++n_tensors;
    CHECK(store->floats(tensor, all) == trace.floats(tensor, all));
  }
  CHECK(n_tensors > 20);
  // One row of a point, of all its slots.
  const auto row = store->row(Point::expert_out, 4, 2, 3);
  REQUIRE(row.size() == 12);
  CHECK(row[7] == value_at(2, 3, Point::expert_out, 4, 7));
  CHECK(store->row(Point::router_margin, 2, 1, 2)[0] == value_at(1, 2, Point::router_margin, 2, 0));
}

TEST_CASE("a store's mistakes are errors of one line") {
  const TraceOptions options = options_in("unused", "embed,layer.2.router.ids");
  ActivationStore store("x", options.shape, options.points, 3);
  feed(store, options, {{0, 0, 2, 0}});
  CHECK(error_of([&] { feed(store, options, {{0, 3, 2, 0}}); }) == "memory:x: expected row 2 of sample 0, found row 3");
  ActivationStore narrow("n", options.shape, options.points, 2);
  CHECK(error_of([&] { feed(narrow, options, {{0, 0, 2, 0}}); }) == "memory:n: expected routes of 2 slots, found 3");
  const std::vector<std::string> none, one = {"a"};
  narrow.abandon();
  CHECK(error_of([&] { narrow.finish(one); }) ==
        "memory:n: expected all batches to come to their end, found one that was abandoned");
  CHECK(error_of([&] { store.finish(none); }) == "memory:x: expected ids of 1 samples, found 0");
  store.finish(one);
  CHECK(error_of([&] { store.finish(one); }) == "memory:x: expected to be finished once, found a second time");
  CHECK(error_of([&] {
          feed(store, options, {{0, 2, 1, 0}});
        }) == "memory:x: expected no rows after the store was finished, found 1");
  CHECK(error_of([&] { store.rows(1); }) == "memory:x: expected a sample below 1, found 1");
  CHECK(error_of([&] { store.floats("logits", {0, 1}); }) == "memory:x: expected a tensor \"logits\", found none");
  CHECK(error_of([&] {
          store.floats("router.ids", {0, 1});
        }) == "memory:x: expected a tensor of floats, found router.ids");
  CHECK(error_of([&] { store.floats("embed", {1, 3}); }) == "memory:x: expected rows of 2, found 1 to 3");
  CHECK(error_of([&] { store.row(Point::embed, -1, 0, 2); }) ==
        "memory:x: expected position 2 in sample 0, found none");
}

TEST_CASE("edits take from memory what they would take from a trace") {
  TemporaryDirectory dir;
  const TraceOptions options = options_in(dir / "t");
  TraceWriter writer(options);
  feed_runs(writer, options);
  writer.finish(ids, [](int64_t) { return json::Value::object(); });
  EditMemory memory;
  memory.add(store_of("runs"));
  const auto both = [&](const std::string& text) {
    std::string file = text, held = text;
    for (size_t at; (at = file.find("@")) != std::string::npos;) file.replace(at, 1, (dir / "t").string());
    for (size_t at; (at = held.find("@")) != std::string::npos;) held.replace(at, 1, "memory:runs");
    const SequenceInfo sequence{"s0", 0, 5, {}};
    return std::pair(memory_plan(file, nullptr)->bind(sequence), memory_plan(held, &memory)->bind(sequence));
  };
  const auto same_points = [&](const std::string& text, Point point, int32_t layer) {
    const auto [file, held] = both(text);
    const auto a = file->point_edits(point, layer), b = held->point_edits(point, layer);
    REQUIRE((a.size() == 1 && b.size() == 1));
    CHECK(a[0].n_values == b[0].n_values);
    CHECK(a[0].width == b[0].width);
    const size_t bytes = static_cast<size_t>(a[0].n_values * a[0].width) * sizeof(float);
    CHECK(std::memcmp(a[0].values, b[0].values, bytes) == 0);
    const int32_t slot = point_info(point).slots() ? 1 : 0;
    for (int64_t p = 0; p < 3; ++p) CHECK(a[0].value_row(p, slot, 2) == b[0].value_row(p, slot, 2));
  };
  same_points(
      "[{'op': 'patch', 'point': 'resid_mid', 'from': '@', 'sample': 's1', 'layers': '2', 'tokens': "
      "{'positions': '0:3'}}]",
      Point::resid_mid, 2);
  same_points("[{'op': 'patch', 'point': 'expert.out', 'from': '@', 'experts': {'4': [1, 2]}}]", Point::expert_out, 4);
  same_points("[{'op': 'ablate', 'point': 'embed', 'value': {'mean_of': '@'}}]", Point::embed, -1);
  same_points("[{'op': 'ablate', 'point': 'expert.hidden', 'layers': '3', 'value': {'mean_of': '@'}}]",
              Point::expert_hidden, 3);
  const auto [file, held] =
      both("[{'op': 'replay', 'trace': '@', 'sample': 's1', 'past': 'leave', 'weights': 'recorded'}]");
  for (int32_t l = 1; l < 6; ++l) {
    const RouterStep &a = file->router(l).steps[0], &b = held->router(l).steps[0];
    REQUIRE((a.replay_k == b.replay_k && a.replay_positions == 3 && b.replay_positions == 3));
    for (int64_t i = 0; i < 9; ++i) {
      CHECK(a.replay_ids[i] == b.replay_ids[i]);
      CHECK(a.replay_weights[i] == b.replay_weights[i]);
    }
  }
}

TEST_CASE("vectors from memory, for all slots and by expert") {
  EditMemory memory;
  memory.add("steer", {{4}, {1, 2, 3, 4}});
  std::vector<float> by_expert(8 * 4);
  for (size_t i = 0; i < by_expert.size(); ++i) by_expert[i] = static_cast<float>(i);
  memory.add("experts", {{8, 4}, by_expert});
  const auto plan = memory_plan(
      "[{'op': 'add', 'point': 'resid_mid', 'layers': '2', 'vector': 'memory:steer', 'scale': 0.5},"
      " {'op': 'ablate', 'point': 'expert.out', 'layers': '3', 'value': 'memory:experts'}]",
      &memory);
  memory = {};  // the plan has its own copy
  const auto bound = plan->bind({"r", 0, 4, {}});
  const PointEdit& add = bound->point_edits(Point::resid_mid, 2)[0];
  CHECK(add.kind == PointEdit::Kind::add);
  CHECK(add.scale == 0.5f);
  CHECK(add.values[add.value_row(3) * 4 + 2] == 3);
  const PointEdit& set = bound->point_edits(Point::expert_out, 3)[0];
  CHECK(set.values[set.value_row(0, 1, 6) * 4 + 1] == 25);
}

TEST_CASE("numbers in the edit itself, in place of a vector's name") {
  const auto plan = memory_plan(
      "[{'op': 'add', 'point': 'resid_mid', 'layers': '1-2', 'vector': [1, -2, 3, 0.25], 'scale': 0.5},"
      " {'op': 'ablate', 'point': 'embed', 'value': [4, 5, 6, 7]}]",
      nullptr);
  const auto bound = plan->bind({"r", 0, 4, {}});
  for (const int32_t layer : {1, 2}) {
    const PointEdit& add = bound->point_edits(Point::resid_mid, layer)[0];
    CHECK(add.scale == 0.5f);
    CHECK(add.values[add.value_row(3) * 4 + 1] == -2);
    CHECK(add.values[add.value_row(0) * 4 + 3] == 0.25f);
  }
  const PointEdit& set = bound->point_edits(Point::embed, -1)[0];
  CHECK(set.values[set.value_row(0) * 4 + 2] == 6);
  const auto failure = [&](const std::string& text) { return error_of([&] { memory_plan(text, nullptr); }); };
  CHECK(failure("[{'op': 'add', 'point': 'embed', 'vector': [1, 2, 3]}]") ==
        "E.json: [0].vector: expected a tensor of shape [4], found [3]");
  CHECK(failure("[{'op': 'add', 'point': 'embed', 'vector': []}]") ==
        "E.json: [0].vector: expected 1 to 1048576 numbers, found 0");
  CHECK(failure("[{'op': 'ablate', 'point': 'embed', 'value': [1, 2, 'x', 4]}]") ==
        "E.json: [0].value[2]: expected a number, found \"x\"");
  CHECK(failure("[{'op': 'ablate', 'point': 'embed', 'value': [1, 2, 3, 1e39]}]") ==
        "E.json: [0].value[3]: expected a number that a float can hold, found 1e+39");
}

TEST_CASE("names in memory: what is not there, or does not fit, is an error of one line") {
  EditMemory memory;
  const auto failure = [&](const std::string& text) { return error_of([&] { memory_plan(text, &memory); }); };
  const std::string patch = "[{'op': 'patch', 'point': 'embed', 'from': 'memory:";
  CHECK(failure(patch + "a'}]") == "E.json: [0].from: expected a recording in memory (none), found \"a\"");
  memory.add(store_of("clean", "embed"));
  memory.add("v", {{3}, {1, 2, 3}});
  CHECK(failure(patch + "v'}]") == "E.json: [0].from: expected a recording in memory (clean), found \"v\"");
  CHECK(failure(patch + "'}]") == "E.json: [0].from: expected \"memory:NAME\", found \"memory:\"");
  CHECK(failure("[{'op': 'add', 'point': 'embed', 'vector': 'memory:clean'}]") ==
        "E.json: [0].vector: expected a vector in memory (v), found \"clean\"");
  CHECK(failure("[{'op': 'ablate', 'point': 'embed', 'value': 'memory:v'}]") ==
        "E.json: [0].value: expected a tensor of shape [4], found [3]");
  CHECK(failure("[{'op': 'patch', 'point': 'resid_mid', 'layers': '2', 'from': 'memory:clean'}]") ==
        "E.json: [0].from: expected a trace that holds layer.2.resid_mid, found none in memory:clean");
  CHECK(failure("[{'op': 'replay', 'trace': 'memory:clean'}]") ==
        "E.json: [0].trace: expected a trace that holds router.ids, found none in memory:clean");
  CHECK(failure("[{'op': 'patch', 'point': 'embed', 'from': 'memory:clean', 'sample': 'z'}]") ==
        "E.json: [0].sample: expected a sample of memory:clean, found \"z\"");
  CHECK(error_of([&] {
          memory_plan(patch + "clean'}]", &memory)->check({"s0", 0, 6, {}});
        }) == "E.json: [0]: record \"s0\", position 5: expected a recorded value, found none in memory:clean");
  // Without memory the text is a path like any other.
  CHECK(error_of([&] { memory_plan(patch + "clean'}]", nullptr); }).find("memory:clean") != std::string::npos);
  CHECK(error_of([&] {
          memory.add("clean", {{1}, {1}});
        }) == "memory:clean: expected a name of its own, found one that is taken");
  CHECK(error_of([&] {
          memory.add("w", {{2, 2}, {1, 2, 3}});
        }) == "memory:w: expected as many values as the shape [2, 2] tells, found 3");
  CHECK(error_of([&] {
          memory.add("w", {{1}, {std::numeric_limits<float>::quiet_NaN()}});
        }) == "memory:w: expected finite values, found nan at element 0");
  const TraceOptions options = options_in("unused");
  CHECK(error_of([&] { memory.add(std::make_shared<ActivationStore>("open", options.shape, options.points)); }) ==
        "memory:open: expected a finished store, found one that still records");
}
