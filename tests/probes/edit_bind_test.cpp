// Edits that draw on a trace: replay, patch, means.
#include <cmath>
#include <cstring>

#include "base/safetensors.h"
#include "tests/probes/trace_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

// Samples s0 (5 rows), s1 (3 rows) and s0 again (4 rows).
void write_runs(const std::filesystem::path& dir, const std::string& points = "*", int32_t n_slots = 2,
                const ModelShape& shape = sample_shape()) {
  TraceOptions options = trace_options(dir, points, shape);
  options.n_slots = n_slots;
  TraceWriter writer(options);
  feed(writer, options, {{0, 0, 5, 0}, {1, 0, 3, 0}, {2, 0, 4, 0}});
  const std::vector<std::string> ids = {"s0", "s1", "s0"};
  writer.finish(ids, [](int64_t) { return json::Value::object(); });
}

SequenceInfo info(const std::string& record, int64_t n_given, uint32_t sample = 0) {
  return {record, sample, n_given, {}};
}

}  // namespace

TEST_CASE("replay: routes by position") {
  TemporaryDirectory dir;
  write_runs(dir / "t", "*", 3);
  const std::string op = "{'op': 'replay', 'trace': 't'";
  auto plan = plan_of("[" + op + "}]", dir.path());
  CHECK(plan->max_slots() == 3);
  CHECK(plan->has_router_edits());
  auto bound = plan->bind(info("s1", 3));
  for (int32_t l = 1; l < 6; ++l) {
    const RouterStep& step = bound->router(l).steps[0];
    CHECK(step.op == EditOp::replay);
    CHECK(step.replay_k == 3);
    CHECK(step.replay_positions == 3);
    CHECK(step.replay_weights == nullptr);
    CHECK_FALSE(step.leave_past);
    for (int64_t p = 0; p < 3; ++p)
      for (int64_t k = 0; k < 3; ++k) CHECK(step.replay_ids[step.replay_index[p] * 3 + k] == id_at(1, p, l, k, 8));
  }
  // Recorded weights, another record's route, and edits beside the replay that stay as they are.
  auto other = plan_of("[{'op': 'top_k', 'k': 1, 'layers': '1-2'}, " + op +
                           ", 'sample': 's1', 'weights': 'recorded', 'past': 'leave', 'layers': '2'}]",
                       dir.path());
  auto transplant = other->bind(info("x", 50));
  CHECK(transplant->router(1).n_steps == 1);
  REQUIRE(transplant->router(2).n_steps == 2);
  CHECK(transplant->router(3).n_steps == 0);
  const RouterStep& step = transplant->router(2).steps[1];
  CHECK(step.edit == 1);
  CHECK(step.leave_past);
  CHECK(step.replay_weights[2 * 3 + 1] == value_at(1, 2, Point::router_weights, 2, 1));
}

TEST_CASE("replay: samples of one record") {
  TemporaryDirectory dir;
  write_runs(dir / "t", "*.router.ids");
  auto plan = plan_of("[{'op': 'replay', 'trace': 't'}]", dir.path());
  CHECK(plan->bind(info("s0", 2, 0))->router(1).steps[0].replay_positions == 5);
  CHECK(plan->bind(info("s0", 2, 1))->router(1).steps[0].replay_positions == 4);
  CHECK(plan->bind(info("s1", 2, 7))->router(1).steps[0].replay_positions == 3);  // one recording serves all
  const std::string file = (dir / "t/trace.safetensors").string();
  CHECK(error_of([&] { plan->bind(info("s0", 2, 2)); }) ==
        "E.json: [0]: expected a sample for record \"s0\" (sample 2) in " + file + ", found 2 samples of it");
  CHECK(error_of([&] { plan->check(info("new", 2)); }) ==
        "E.json: [0]: expected a sample for record \"new\" (sample 0) in " + file + ", found none");
}

TEST_CASE("replay: positions past the recording") {
  TemporaryDirectory dir;
  write_runs(dir / "t", "*.router.ids");
  const std::string file = (dir / "t/trace.safetensors").string();
  auto check = [&](const std::string& more, int64_t n_given) {
    return error_of([&] {
      plan_of("[{'op': 'replay', 'trace': 't', 'sample': 's1'" + more + "}]", dir.path())->check(info("r", n_given));
    });
  };
  CHECK(check("", 3) == "no error");
  CHECK(check("", 4) == "E.json: [0]: record \"r\", position 3: expected a recorded route, found none in " + file);
  CHECK(check(", 'past': 'leave'", 4) == "no error");
  CHECK(check(", 'tokens': {'positions': '0:3'}", 4) == "no error");
  CHECK(check(", 'tokens': {'positions': '2:9'}", 9).find("position 3") != std::string::npos);
  CHECK(check(", 'tokens': {'phase': 'generated'}", 9) == "no error");  // only the run will tell
}

TEST_CASE("replay: what does not fit is an error before the first token") {
  TemporaryDirectory dir;
  write_runs(dir / "t");
  write_runs(dir / "some", "layer.2.router.ids,layer.3.router.ids");
  write_runs(dir / "points", "embed");
  auto failure = [&](const std::string& more, const ModelShape& shape = sample_shape()) {
    return plan_error("[{'op': 'replay', " + more + "}]", dir.path(), shape);
  };
  CHECK(failure("'trace': 'nowhere'").find("nowhere") != std::string::npos);
  CHECK(failure("'trace': 't', 'sample': 'z'").find(".sample: expected a sample of") != std::string::npos);
  CHECK(failure("'trace': 'points'").find("[0].trace: expected a trace that holds router.ids") != std::string::npos);
  CHECK(failure("'trace': 'some'").find("[0].trace: expected routes of layer 1, found none in") != std::string::npos);
  CHECK(failure("'trace': 'some', 'layers': '2-3'") == "no error");
  CHECK(failure("'trace': 'some', 'layers': '2', 'weights': 'recorded'").find("holds router.weights") !=
        std::string::npos);
  ModelShape more_experts = sample_shape(), more_active = sample_shape();
  for (auto& layer : more_experts.layers) layer.n_experts += layer.moe;
  for (auto& layer : more_active.layers) layer.n_active += layer.moe;
  CHECK(failure("'trace': 't'", more_experts).find("expected routes over 9 experts, found 8") != std::string::npos);
  CHECK(failure("'trace': 't'", more_active).find("expected routes of 3 experts a token, found 2") !=
        std::string::npos);
  write_runs(dir / "wide", "*", 3);
  CHECK(failure("'trace': 'wide', 'weights': 'keep_slot'").find(".weights: expected no more slots") !=
        std::string::npos);
}

TEST_CASE("add: what a trace holds at each position, times a scale") {
  TemporaryDirectory dir;
  write_runs(dir / "t");
  auto plan = plan_of(
      "[{'op': 'add', 'point': 'resid_mid', 'from': 't', 'sample': 's1', 'layers': '2', 'scale': -2},"
      "{'op': 'add', 'point': 'embed', 'from': 't', 'sample': 's1', 'scale': 0}]",
      dir.path());
  auto bound = plan->bind(info("s0", 3));
  const PointEdit& mid = bound->point_edits(Point::resid_mid, 2)[0];
  CHECK(mid.kind == PointEdit::Kind::add);
  CHECK(mid.scale == -2);
  CHECK(mid.values[mid.value_row(2) * mid.width + 3] == value_at(1, 2, Point::resid_mid, 2, 3));
  CHECK(bound->point_edits(Point::embed, -1).empty());  // adds nothing
  CHECK(error_of([&] { plan->check(info("s0", 4)); }).find("position 3: expected a recorded value") !=
        std::string::npos);
  CHECK(plan_error("[{'op': 'add', 'point': 'embed', 'from': 't', 'vector': 'a:b'}]", dir.path()) ==
        "E.json: [0].from: expected \"vector\" or \"from\", found both");
}

TEST_CASE("patch: values by position and slot") {
  TemporaryDirectory dir;
  write_runs(dir / "t");
  auto plan = plan_of(
      "[{'op': 'patch', 'point': 'resid_mid', 'from': 't', 'sample': 's1', 'layers': '2', 'tokens': "
      "{'positions': '1:3'}}, {'op': 'patch', 'point': 'expert.out', 'from': 't', 'experts': {'4': [1]}},"
      "{'op': 'patch', 'point': 'embed', 'from': 't/trace.safetensors', 'tokens': {'phase': 'generated'}}]",
      dir.path());
  auto bound = plan->bind(info("s0", 5));
  const PointEdit& mid = bound->point_edits(Point::resid_mid, 2)[0];
  CHECK(mid.kind == PointEdit::Kind::set);
  CHECK(mid.n_values == 3);
  CHECK(mid.values[mid.value_row(2) * mid.width + 3] == value_at(1, 2, Point::resid_mid, 2, 3));
  const PointEdit& out = bound->point_edits(Point::expert_out, 4)[0];
  CHECK(out.n_values == 10);
  CHECK(out.values[out.value_row(3, 1, 1) * out.width] == value_at(0, 3, Point::expert_out, 4, 4));
  CHECK_FALSE(out.all_experts);
  const std::string file = (dir / "t/trace.safetensors").string();
  CHECK(error_of([&] { out.value_row(3, 2, 1); }) ==
        "E.json: [1]: layer 4, record \"s0\", position 3: expected a recorded value of slot 2, found none in " + file);
  CHECK(error_of([&] { bound->point_edits(Point::embed, -1)[0].value_row(5); }) ==
        "E.json: [2]: record \"s0\", position 5: expected a recorded value, found none in " + file);
  CHECK(error_of([&] { plan->check(info("s0", 6)); }) ==
        "E.json: [1]: record \"s0\", position 5: expected a recorded value, found none in " + file);
  write_runs(dir / "few", "embed");
  CHECK(plan_error("[{'op': 'patch', 'point': 'resid_in', 'from': 'few'}]", dir.path())
            .find("[0].from: expected a trace that holds layer.0.resid_in, found none in") != std::string::npos);
  ModelShape wide = sample_shape();
  wide.d_model = 5;
  CHECK(plan_error("[{'op': 'patch', 'point': 'embed', 'from': 'few'}]", dir.path(), wide)
            .find("expected embed with rows of 5 in") != std::string::npos);
}

TEST_CASE("means over a trace") {
  TemporaryDirectory dir;
  write_runs(dir / "t", "embed,layer.2.expert.out,*.router.ids", 3);
  auto plan = plan_of(
      "[{'op': 'ablate', 'point': 'embed', 'value': {'mean_of': 't'}},"
      " {'op': 'ablate', 'point': 'expert.out', 'layers': '2', 'value': {'mean_of': 't'}}]",
      dir.path());
  auto bound = plan->bind(info("any", 100));
  const std::pair<int64_t, int64_t> samples[] = {{0, 5}, {1, 3}, {2, 4}};
  const PointEdit& embed = bound->point_edits(Point::embed, -1)[0];
  double sum = 0;
  for (auto [s, n] : samples)
    for (int64_t r = 0; r < n; ++r) sum += value_at(s, r, Point::embed, -1, 2);
  CHECK(embed.values[embed.value_row(77) * embed.width + 2] == static_cast<float>(sum / 12));
  const PointEdit& out = bound->point_edits(Point::expert_out, 2)[0];
  CHECK(out.all_experts);
  for (int32_t e = 0; e < 8; ++e) {
    double total = 0;
    int64_t n = 0;
    for (auto [s, length] : samples)
      for (int64_t r = 0; r < length; ++r)
        for (int64_t k = 0; k < 3; ++k) {
          if (id_at(s, r, 2, k, 8) != e) continue;
          total += value_at(s, r, Point::expert_out, 2, k * 4 + 1);
          ++n;
        }
    REQUIRE(n > 0);
    CHECK(out.values[out.value_row(0, 0, e) * 4 + 1] == static_cast<float>(total / static_cast<double>(n)));
  }
  // An expert that the trace never used has no mean.
  {
    const TraceOptions options = trace_options(dir / "one", "layer.2.expert.out,layer.2.router.ids");
    write_trace(options, {1});
  }
  const int32_t used = id_at(0, 0, 2, 0, 8), unused = (used + 4) % 8;
  auto with = [&](const std::string& experts) {
    return "[{'op': 'ablate', 'point': 'expert.out', " + experts + ", 'value': {'mean_of': 'one'}}]";
  };
  CHECK(plan_error(with("'experts': {'2': [" + std::to_string(used) + "]}"), dir.path()) == "no error");
  CHECK(plan_error(with("'experts': {'2': [" + std::to_string(unused) + "]}"), dir.path())
            .find("[0].value.mean_of: expected layer 2 expert " + std::to_string(unused) +
                  " to be used in the trace") != std::string::npos);
  auto all = plan_of(with("'layers': '2'"), dir.path())->bind(info("r", 3));
  CHECK(error_of([&] { all->point_edits(Point::expert_out, 2)[0].value_row(1, 0, unused); }) ==
        "E.json: [0]: layer 2, record \"r\", position 1: expected a mean of expert " + std::to_string(unused) +
            ", found none");
  CHECK(plan_error("[{'op': 'ablate', 'point': 'moe.out', 'value': {'mean_of': 'one'}}]", dir.path())
            .find("expected a trace that holds layer.1.moe.out") != std::string::npos);
  {
    const TraceOptions options = trace_options(dir / "noids", "layer.2.expert.out");
    write_trace(options, {1});
  }
  CHECK(plan_error("[{'op': 'ablate', 'point': 'layer.2.expert.out', 'value': {'mean_of': 'noids'}}]", dir.path())
            .find("expected a trace that holds router.ids") != std::string::npos);
}
