// What edits become: steps of the router at each layer, writes at points, and on which positions they act.
#include <cmath>
#include <cstring>

#include "base/csv.h"
#include "base/half.h"
#include "base/safetensors.h"
#include "probes/draws.h"
#include "tests/probes/sample.h"
#include "tests/probes/trace_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

std::vector<int32_t> experts_of(const RouterStep& step) { return {step.experts, step.experts + step.n_listed}; }

// "1:ban[3] 2:ban[3]": steps by layer.
std::string layers_of(const EditPlan& plan, int32_t edit = 0) {
  auto bound = plan.bind(sequence_of(4));
  std::string text;
  for (int32_t l = 0; l < sample_shape().n_layers(); ++l) {
    const RouterProgram program = bound->router(l);
    for (int32_t i = 0; i < program.n_steps; ++i)
      if (program.steps[i].edit == edit) text += std::to_string(l);
  }
  return text;
}

std::shared_ptr<const BoundEdits> bound_of(const std::string& edits, int64_t n_given = 8,
                                           std::vector<SpanTokens> spans = {}, const std::string& record = "r",
                                           uint32_t sample = 0) {
  return plan_of(edits)->bind({record, sample, n_given, std::move(spans)});
}

void write_tensors(const std::filesystem::path& file,
                   const std::vector<std::pair<safetensors::TensorHeader, std::vector<float>>>& tensors) {
  std::vector<safetensors::TensorHeader> headers;
  for (const auto& [header, values] : tensors) headers.push_back(header);
  safetensors::Writer writer(file, headers);
  for (const auto& [header, values] : tensors) {
    if (header.dtype == "F32") writer.write(values.data(), values.size() * 4);
    for (float value : values) {
      const uint16_t half =
          header.dtype == "BF16" ? static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16) : f16_of_float(value);
      if (header.dtype != "F32") writer.write(&half, 2);
    }
  }
  writer.finish();
}

}  // namespace

TEST_CASE("edits: layers") {
  CHECK(layers_of(*plan_of("[{'op': 'top_k', 'k': 1}]")) == "12345");
  CHECK(layers_of(*plan_of("[{'op': 'top_k', 'k': 1, 'layers': 'all'}]")) == "12345");
  CHECK(layers_of(*plan_of("[{'op': 'top_k', 'k': 1, 'layers': '0-2,5'}]")) == "125");
  CHECK(layers_of(*plan_of("[{'op': 'top_k', 'k': 1, 'layers': '4,2'}]")) == "24");
  CHECK(layers_of(*plan_of("[{'op': 'scale_shared', 'by': 0}]")) == "1234");
  CHECK(layers_of(*plan_of("[{'op': 'scale_shared', 'by': 0, 'layers': '4-5'}]")) == "4");
}

TEST_CASE("edits: steps of every op") {
  auto step_of = [](const std::string& edit) {
    static std::vector<std::shared_ptr<const BoundEdits>> alive;
    alive.push_back(bound_of("[" + edit + "]"));
    const RouterProgram program = alive.back()->router(3);
    REQUIRE(program.n_steps == 1);
    return program.steps[0];
  };
  RouterStep step = step_of("{'op': 'deactivate', 'mode': 'ban', 'experts': [5, 2], 'weights': 'hole'}");
  CHECK(step.op == EditOp::ban);
  CHECK(step.weights == WeightPolicy::hole);
  CHECK(experts_of(step) == std::vector<int32_t>{2, 5});
  CHECK(std::isinf(step.margin_below));
  CHECK(step_of("{'op': 'deactivate', 'mode': 'steermoe', 'experts': [1]}").op == EditOp::steermoe_down);
  CHECK(step_of("{'op': 'activate', 'mode': 'steermoe', 'experts': [1]}").op == EditOp::steermoe_up);
  CHECK(step_of("{'op': 'activate', 'mode': 'force', 'experts': [1]}").op == EditOp::force);
  CHECK(step_of("{'op': 'activate', 'mode': 'bias', 'by': 1.5, 'experts': [1]}").value == 1.5f);
  CHECK(step_of("{'op': 'deactivate', 'mode': 'bias', 'by': 1.5, 'experts': [1]}").value == -1.5f);
  CHECK(step_of("{'op': 'temperature', 't': 0.5}").value == 0.5f);
  CHECK(step_of("{'op': 'top_k', 'k': 3}").k == 3);
  CHECK(step_of("{'op': 'misroute', 'policy': 'shift', 'by': -1}").shift == 7);
  CHECK(step_of("{'op': 'misroute', 'policy': 'shift', 'by': 19}").shift == 3);
  CHECK(experts_of(step_of("{'op': 'misroute', 'policy': 'fixed', 'experts': [5, 2]}")) == std::vector<int32_t>{5, 2});
  CHECK(step_of("{'op': 'misroute', 'policy': 'gumbel', 'tau': 2, 'seed': 9}").seed == 9);
  CHECK(step_of("{'op': 'misroute', 'policy': 'random', 'exclude_original': true}").exclude_original);
  CHECK(step_of("{'op': 'misroute', 'policy': 'random'}").seed == 1);
  CHECK(step_of("{'op': 'scale_expert', 'by': 0, 'experts': {'3': [1]}}").value == 0);
  CHECK(step_of("{'op': 'top_k', 'k': 1, 'tokens': {'margin_below': 0.25}}").margin_below == 0.25f);
  CHECK(step_of("{'op': 'top_k', 'k': 1, 'tokens': {'near_tie_below': 0.25}}").near_tie_below == 0.25f);
  for (const char* policy : {"next_best", "swap_last", "worst"})
    CHECK(step_of("{'op': 'misroute', 'policy': '" + std::string(policy) + "'}").n_listed == 0);
  std::vector<int32_t> order = experts_of(step_of("{'op': 'misroute', 'policy': 'permute'}"));
  CHECK(order == draw_permutation(8, 1, 3));
  CHECK(order != draw_permutation(8, 1, 4));
  std::sort(order.begin(), order.end());
  CHECK(order == std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("edits: policies within the groups that are kept") {
  ModelShape shape;
  shape.d_model = 4;
  shape.n_vocab = 8;
  shape.layers.resize(1);
  shape.layers[0] = {
      .moe = true, .n_experts = 8, .n_active = 2, .d_ff = 3, .shared = false, .groups = true, .n_kept = 4};
  const auto parsed = [&](const std::string& edit) {
    std::string text = "[" + edit + "]";
    std::replace(text.begin(), text.end(), '\'', '"');
    const json::Value value = json::parse(text, "E.json");
    return EditPlan::parse(json::Ref(value, "E.json"), ".", shape, 1);
  };
  const std::string within = "'within': 'kept_groups'}";
  for (const char* policy : {"next_best", "swap_last", "worst", "random", "gumbel', 'tau': 1, 'seed': 3, 'layers': '0"})
    CHECK(parsed("{'op': 'misroute', 'policy': '" + std::string(policy) + "', " + within)
              ->bind({"s", 0, 3, {}})
              ->router(0)
              .steps[0]
              .within_kept);
  CHECK_FALSE(parsed("{'op': 'misroute', 'policy': 'worst'}")->bind({"s", 0, 3, {}})->router(0).steps[0].within_kept);
  shape.layers[0].n_kept = 3;
  CHECK_THROWS_WITH_AS(parsed("{'op': 'misroute', 'policy': 'next_best', " + within),
                       "E.json: [0]: layer 0: expected at least 4 experts in the groups that are kept, found 3", Error);
  CHECK_THROWS_WITH_AS(parsed("{'op': 'misroute', 'policy': 'random', 'exclude_original': true, " + within),
                       doctest::Contains("expected at least 4 experts in the groups"), Error);
  CHECK_NOTHROW(parsed("{'op': 'misroute', 'policy': 'swap_last', " + within));
}

TEST_CASE("edits: no-ops are left out, others keep their column") {
  auto plan = plan_of(
      "[{'op': 'temperature', 't': 1}, {'op': 'top_k', 'k': 2, 'weights': 'hole'}, {'op': 'misroute', 'policy': "
      "'shift', "
      "'by': 16}, {'op': 'deactivate', 'mode': 'bias', 'by': 0, 'experts': [1]}, {'op': 'scale_expert', 'by': 1.0, "
      "'experts': [1]}, {'op': 'scale_shared', 'by': 1}, {'op': 'misroute', 'policy': 'worst', 'tokens': {'fraction': "
      "0}}, "
      "{'op': 'misroute', 'policy': 'worst', 'tokens': {'margin_below': 0}}, {'op': 'ablate', 'point': 'expert.out', "
      "'value': 'zero', 'experts': []}, {'op': 'ablate', 'point': 'moe.out', 'value': 'zero', 'neurons': []}]");
  CHECK(plan->n_edits() == 10);
  CHECK(plan->empty());
  CHECK_FALSE(plan->needs_margin());
  CHECK(plan_of("[{'op': 'misroute', 'policy': 'worst', 'tokens': {'near_tie_below': 0.5}}]")->needs_margin());
  auto bound = plan->bind(sequence_of(3));
  CHECK(bound->first_position() == INT64_MAX);
  for (int32_t e = 0; e < 10; ++e) CHECK(acting(*bound, 5, e) == "00000");
  auto mixed = plan_of("[{'op': 'temperature', 't': 1}, {'op': 'top_k', 'k': 1}]");
  CHECK_FALSE(mixed->empty());
  CHECK(layers_of(*mixed, 0).empty());
  CHECK(layers_of(*mixed, 1) == "12345");
  // A k that is the model's own is no no-op where it undoes an earlier one.
  auto undone = plan_of("[{'op': 'top_k', 'k': 1}, {'op': 'top_k', 'k': 2, 'tokens': {'phase': 'given'}}]");
  CHECK(layers_of(*undone, 1) == "12345");
  // A no-op is checked all the same.
  CHECK(plan_error("[{'op': 'temperature', 't': 1, 'layers': '9'}]").find("expected layers below 6") !=
        std::string::npos);
  CHECK(plan_error("[{'op': 'scale_expert', 'by': 1, 'experts': [8]}]").find("experts below 8") != std::string::npos);
}

TEST_CASE("edits: facts of a plan") {
  CHECK(plan_of("[]")->max_slots() == 2);
  CHECK(plan_of("[{'op': 'top_k', 'k': 5, 'layers': '2'}]")->max_slots() == 5);
  CHECK(plan_of("[{'op': 'top_k', 'k': 1}]")->max_slots() == 2);
  auto plan = plan_of(
      "[{'op': 'ablate', 'point': 'resid_out', 'value': 'zero', 'tokens': {'margin_below': 1, 'span': 'b'}},"
      " {'op': 'top_k', 'k': 1, 'tokens': {'span': 'a'}}]");
  CHECK(plan->needs_margin());
  CHECK(plan->has_point_edits());
  CHECK(plan->span_names() == std::vector<std::string>{"a", "b"});
  const std::vector<std::string> both = {"b", "a"}, one = {"a"};
  CHECK_NOTHROW(plan->require_spans(both));
  CHECK(error_of([&] { plan->require_spans(one); }) ==
        "E.json: [0].tokens.span: expected a span that a record has (a), found \"b\"");
  CHECK(error_of([&] { plan->require_spans({}); }).find("(there are none)") != std::string::npos);
  CHECK(json::dump(plan_of("[{'op': 'top_k', 'k': 1}]")->source()) == R"([{"op":"top_k","k":1}])");
  CHECK(plan_of("[{'op': 'deactivate', 'mode': 'ban', 'experts': {'4': [1], '2': [3, 0]}}]")->experts_of(0) ==
        std::vector<std::pair<int32_t, std::vector<int32_t>>>{{2, {3, 0}}, {4, {1}}});
}

TEST_CASE("edits: conditions by position") {
  auto on = [](const std::string& tokens, std::vector<SpanTokens> spans = {}) {
    return acting(*bound_of("[{'op': 'top_k', 'k': 1, 'tokens': {" + tokens + "}}]", 5, spans), 8);
  };
  CHECK(on("") == "11111111");
  CHECK(on("'phase': 'all'") == "11111111");
  CHECK(on("'phase': 'given'") == "11111000");
  CHECK(on("'phase': 'generated'") == "00000111");
  CHECK(on("'positions': '2:6'") == "00111100");
  CHECK(on("'positions': ':3'") == "11100000");
  CHECK(on("'positions': '6:'") == "00000011");
  CHECK(on("'positions': ':'") == "11111111");
  CHECK(on("'phase': 'generated', 'positions': '0:6'") == "00000100");
  CHECK(on("'span': 'a'", {{"a", 1, 3}, {"b", 0, 5}, {"a", 4, 5}}) == "01101000");
  CHECK(on("'span': 'a', 'positions': '2:9'", {{"a", 1, 3}}) == "00100000");
  CHECK(on("'span': 'a'") == "00000000");
  CHECK(on("'span': 'a'", {{"a", 3, 8}}) == "00011000");  // generated tokens are in no span
  CHECK(on("'fraction': 1") == "11111111");
}

TEST_CASE("edits: fractions are drawn by seed, record, sample and position") {
  auto drawn = [](double fraction, int seed, const std::string& record, uint32_t sample = 0) {
    const std::string edits = "[{'op': 'top_k', 'k': 1, 'seed': " + std::to_string(seed) +
                              ", 'tokens': {'fraction': " + std::to_string(fraction) + "}}]";
    return acting(*bound_of(edits, 4000, {}, record, sample), 4000);
  };
  const std::string quarter = drawn(0.25, 3, "a");
  const double share = static_cast<double>(std::count(quarter.begin(), quarter.end(), '1')) / 4000;
  CHECK(share > 0.22);
  CHECK(share < 0.28);
  CHECK(drawn(0.25, 3, "a") == quarter);
  CHECK(drawn(0.25, 4, "a") != quarter);
  CHECK(drawn(0.25, 3, "b") != quarter);
  CHECK(drawn(0.25, 3, "a", 1) != quarter);
  const std::string half = drawn(0.5, 3, "a");
  for (size_t i = 0; i < quarter.size(); ++i) CHECK_FALSE((quarter[i] == '1' && half[i] == '0'));
}

TEST_CASE("edits: draws are fixed for good") {
  // Traces and runs of earlier versions must stay reproducible.
  CHECK(record_hash("") == 0xf52a15e9a9b5e89bULL);
  CHECK(record_hash("q1") == 0x490d1e006960b328ULL);
  CHECK(draw_permutation(8, 7, 3) == std::vector<int32_t>{0, 5, 6, 2, 3, 7, 4, 1});
  std::vector<int> first(5, 0);
  for (uint64_t seed = 0; seed < 5000; ++seed) ++first[static_cast<size_t>(draw_permutation(5, seed, 0)[0])];
  for (int n : first) CHECK(std::abs(n - 1000) < 130);
}

TEST_CASE("edits: the first position at which an edit can act") {
  auto first = [](const std::string& edits, std::vector<SpanTokens> spans = {}) {
    return bound_of(edits, 5, spans)->first_position();
  };
  CHECK(first("[{'op': 'top_k', 'k': 1}]") == 0);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'positions': '3:9'}}]") == 3);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'phase': 'generated'}}]") == 5);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'phase': 'generated', 'positions': '7:9'}}]") == 7);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'phase': 'generated', 'positions': '0:5'}}]") == INT64_MAX);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'phase': 'given', 'positions': '5:9'}}]") == INT64_MAX);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'span': 'a'}}]", {{"a", 2, 4}}) == 2);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'span': 'a'}}]") == INT64_MAX);
  CHECK(first("[{'op': 'top_k', 'k': 1, 'tokens': {'positions': '4:9'}}, {'op': 'ablate', 'point': 'embed', 'value': "
              "'zero', 'tokens': {'positions': '2:3'}}]") == 2);
}

TEST_CASE("edits: experts by rank") {
  TemporaryDirectory dir;
  write_file(dir / "rd.csv",
             "layer,expert,\"rd\",q\r\n1,0,0.5,\r\n1,1,-0.9,\r\n1,2,0.4,\r\n2,7,0.5,\r\n2,6,0.45,\r\n5,3,0,\r\n");
  auto chosen = [&](const std::string& more) {
    auto plan = plan_of("[{'op': 'scale_expert', 'by': 0, 'experts': {'from': 'rd.csv', " + more + "]", dir.path());
    std::string text;
    for (const auto& [layer, experts] : plan->experts_of(0))
      for (int32_t e : experts) text += std::to_string(layer) + "." + std::to_string(e) + " ";
    return text;
  };
  CHECK(chosen("'top': 2}}") == "1.0 2.7 ");
  CHECK(chosen("'top': 3, 'sign': '+'}}") == "1.0 2.7 2.6 ");
  CHECK(chosen("'top': 9}}") == "1.0 1.2 2.7 2.6 ");
  CHECK(chosen("'top': 9, 'sign': '-'}}") == "1.1 ");
  CHECK(chosen("'top': 2, 'sign': 'both'}}") == "1.1 1.0 ");
  CHECK(chosen("'top': 9, 'per_layer': 1}}") == "1.0 2.7 ");
  CHECK(chosen("'top': 1}, 'layers': '2'}") == "2.7 ");
  auto failure = [&](const std::string& csv, const std::string& more = "'top': 2") {
    write_file(dir / "bad.csv", csv);
    return plan_error("[{'op': 'scale_expert', 'by': 0, 'experts': {'from': 'bad.csv', " + more + "}}]", dir.path());
  };
  CHECK(failure("layer,expert\n1,2\n").find("bad.csv: expected a column \"rd\", found none") != std::string::npos);
  CHECK(failure("layer,expert,rd\n9,2,1\n")
            .find("bad.csv: line 2: layer: expected a layer of the model with a router, "
                  "found 9") != std::string::npos);
  CHECK(failure("layer,expert,rd\n0,2,1\n").find("found 0") != std::string::npos);
  CHECK(failure("layer,expert,rd\n1,8,1\n").find("line 2: expert: expected an expert below 8, found 8") !=
        std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,1\n1,2,1\n").find("line 3: expected a row for each expert") != std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,nan\n").find("line 2: rd: expected a number, found \"nan\"") !=
        std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,\n").find("expected a number, found \"\"") != std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2\n").find("line 2: expected 3 fields, found 2") != std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,\"1\n").find("expected a closing quote") != std::string::npos);
  CHECK(failure("").find("expected a header row") != std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,-1\n").find("expected experts with an rd of the sign asked for") !=
        std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,1\n", "'top': 0").find(".top: expected an integer from 1") != std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,1\n", "'top': 1, 'sign': 'x'").find(".sign: expected") != std::string::npos);
  CHECK(failure("layer,expert,rd\n1,2,1\n", "'n': 1").find("unknown key \"n\"") != std::string::npos);
  CHECK(plan_error("[{'op': 'scale_expert', 'by': 0, 'experts': {'from': 'no.csv', 'top': 1}}]", dir.path())
            .find("no.csv: expected a CSV file, found no file") != std::string::npos);
}

TEST_CASE("edits: rates") {
  TemporaryDirectory dir;
  std::string csv = "layer,expert,domain,count,tokens,share,mean_weight\n";
  for (int l = 1; l < 5; ++l)
    for (int e = 0; e < 8; ++e)
      csv += std::to_string(l) + "," + std::to_string(e) + ",,1,4," + (e < 3 ? "0.25" : "0") + ",\n" +
             std::to_string(l) + "," + std::to_string(e) + ",\"a,b\",1,4,0.5,\n";
  write_file(dir / "usage.csv", csv);
  const std::string op = "{'op': 'misroute', 'policy': 'frequency_matched', 'rates': 'usage.csv'";
  auto plan = plan_of("[" + op + ", 'layers': '2'}]", dir.path());
  auto bound = plan->bind(sequence_of(2));
  const RouterStep& step = bound->router(2).steps[0];
  CHECK(step.rates[2] == 0.25f);
  CHECK(step.rates[3] == 0);
  CHECK(plan_error("[" + op + "}]", dir.path()).find(".rates: expected rows for layer 5, found none in") !=
        std::string::npos);
  CHECK(plan_error("[" + op + ", 'layers': '1-4'}, {'op': 'deactivate', 'mode': 'ban', 'experts': {'3': [0, 1]}}]",
                   dir.path())
            .find("layer 3: expected at least 2 experts with a share above 0") != std::string::npos);
  write_file(dir / "usage.csv", "layer,expert,domain,share\n1,0,,1.5\n");
  CHECK(plan_error("[" + op + "}]", dir.path()).find("line 2: share: expected a number from 0 to 1") !=
        std::string::npos);
}

TEST_CASE("edits: writes of zeros and of tensors") {
  TemporaryDirectory dir;
  std::vector<float> experts(8 * 4);
  for (size_t i = 0; i < experts.size(); ++i) experts[i] = static_cast<float>(i);
  write_tensors(dir / "v.safetensors", {{{"d", "F32", {4}}, {1, 2, 3, 4}},
                                        {{"e", "F32", {8, 4}}, experts},
                                        {{"zero", "F32", {4}}, {0, 0, 0, 0}},
                                        {{"nan", "F32", {4}}, {0, NAN, 0, 0}},
                                        {{"half", "F16", {4}}, {0.5f, -2, 1, 65504}},
                                        {{"brain", "BF16", {4}}, {1, 2, 3, -4}},
                                        {{"wide", "F32", {5}}, {0, 0, 0, 0, 0}}});
  auto plan = plan_of(
      "[{'op': 'ablate', 'point': 'resid_mid', 'value': 'zero', 'layers': '0,2', 'neurons': [3, 1]},"
      " {'op': 'add', 'point': 'resid_mid', 'vector': 'v.safetensors:half', 'scale': -2, 'layers': '2'},"
      " {'op': 'ablate', 'point': 'expert.out', 'value': 'v.safetensors:e', 'experts': {'3': [5, 2]}},"
      " {'op': 'add', 'point': 'embed', 'vector': 'v.safetensors:brain'},"
      " {'op': 'add', 'point': 'embed', 'vector': 'v.safetensors:zero'},"
      " {'op': 'add', 'point': 'embed', 'vector': 'v.safetensors:d', 'scale': 0},"
      " {'op': 'ablate', 'point': 'layer.1.expert.hidden', 'value': 'zero'}]",
      dir.path());
  auto bound = plan->bind(sequence_of(4));
  CHECK(bound->point_edits(Point::resid_mid, 1).empty());
  CHECK(bound->point_edits(Point::resid_mid, 0).size() == 1);
  const auto mid = bound->point_edits(Point::resid_mid, 2);
  REQUIRE(mid.size() == 2);
  CHECK(mid[0].kind == PointEdit::Kind::set);
  CHECK(mid[0].edit == 0);
  CHECK(std::vector<int32_t>(mid[0].columns.begin(), mid[0].columns.end()) == std::vector<int32_t>{1, 3});
  CHECK(mid[0].values[mid[0].value_row(7) * mid[0].width + 3] == 0);
  CHECK(mid[1].kind == PointEdit::Kind::add);
  CHECK(mid[1].scale == -2);
  CHECK(mid[1].values[3] == 65504);
  const auto out = bound->point_edits(Point::expert_out, 3);
  REQUIRE(out.size() == 1);
  CHECK_FALSE(out[0].all_experts);
  CHECK(std::vector<int32_t>(out[0].experts.begin(), out[0].experts.end()) == std::vector<int32_t>{2, 5});
  CHECK(out[0].value_row(0, 1, 5) == 5);
  CHECK(out[0].values[5 * 4 + 1] == 21);
  const auto embed = bound->point_edits(Point::embed, -1);
  REQUIRE(embed.size() == 1);
  CHECK(embed[0].values[3] == -4);
  CHECK(bound->point_edits(Point::expert_hidden, 1)[0].width == 3);
  CHECK(bound->point_edits(Point::expert_hidden, 2).empty());
  auto failure = [&](const std::string& vector, const std::string& point = "resid_in") {
    return plan_error("[{'op': 'add', 'point': '" + point + "', 'vector': '" + vector + "'}]", dir.path());
  };
  CHECK(failure("v.safetensors:wide").find("[0].vector: expected a tensor of shape [4], found [5]") !=
        std::string::npos);
  CHECK(failure("v.safetensors:e").find("expected a tensor of shape [4], found [8, 4]") != std::string::npos);
  CHECK(failure("v.safetensors:wide", "expert.out").find("expected a tensor of shape [4] or [8, 4], found [5]") !=
        std::string::npos);
  CHECK(failure("v.safetensors:nan").find("expected finite values, found nan at element 1") != std::string::npos);
  CHECK(failure("v.safetensors:x").find("v.safetensors") != std::string::npos);
  CHECK(failure("w.safetensors:x").find("w.safetensors") != std::string::npos);
  CHECK(failure("v.safetensors").find("[0].vector: expected \"FILE:tensor\"") != std::string::npos);
}

TEST_CASE("edits: faults of the router kernel name edit, layer, record and position") {
  auto bound = bound_of("[{'op': 'top_k', 'k': 1}, {'op': 'misroute', 'policy': 'shift', 'by': 1}]", 4, {}, "q7");
  auto text = [&](RouteFault::Kind kind, int32_t expert = -1) {
    return std::string(bound->fault_error({kind, 3, 0, 1, expert}, 3, 12).what());
  };
  CHECK(text(RouteFault::Kind::banned_expert, 5) ==
        "E.json: [1]: layer 3, record \"q7\", position 12: expected a route without banned experts, found expert 5");
  CHECK(text(RouteFault::Kind::too_few_candidates).find("found too few of 8 left") != std::string::npos);
  CHECK(text(RouteFault::Kind::too_many_forced).find("expected no more forced experts") != std::string::npos);
  CHECK(text(RouteFault::Kind::not_recorded).find("expected a recorded route, found none") != std::string::npos);
  CHECK(text(RouteFault::Kind::not_finite).find("expected finite router logits") != std::string::npos);
}

TEST_CASE("edits: values of points with heads") {
  TemporaryDirectory dir;
  // 4 heads of 3 in a query, 2 of 5 in a value; whole rows and rows by head.
  const std::vector<safetensors::TensorHeader> headers = {
      {"row", "F32", {12}}, {"heads", "F32", {4, 3}}, {"v", "F32", {2, 5}}};
  safetensors::Writer vectors(dir / "vectors.safetensors", headers);
  std::vector<float> values(12 + 12 + 10);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1);
  vectors.write(values.data(), values.size() * sizeof(float));
  vectors.finish();
  const auto writes = [&](const std::string& edit, Point point) {
    const auto bound = plan_of("[" + edit + "]", dir.path())->bind({"s0", 0, 5, {}});
    const auto found = bound->point_edits(point, 2);
    REQUIRE(found.size() == 1);
    return std::vector<float>(found[0].values, found[0].values + found[0].n_values * found[0].width);
  };
  const std::string q = "{'op': 'add', 'point': 'attn.q', 'layers': '2', 'vector': 'vectors.safetensors:";
  CHECK(writes(q + "row'}", Point::attn_q) == std::vector<float>(values.begin(), values.begin() + 12));
  CHECK(writes(q + "heads'}", Point::attn_q) == std::vector<float>(values.begin() + 12, values.begin() + 24));
  const auto refused = [&](const std::string& edit) {
    return error_of([&] { plan_of("[" + edit + "]", dir.path()); });
  };
  CHECK(refused(q + "v'}") == "E.json: [0].vector: expected a tensor of shape [12] or [4, 3], found [2, 5]");
  CHECK(refused("{'op': 'ablate', 'point': 'attn.v', 'value': 'zero', 'neurons': [9, 10]}") ==
        "E.json: [0].neurons: expected neurons below 10 of layer.0.attn.v, found 10");
  CHECK(
      refused("{'op': 'ablate', 'point': 'attn.z', 'value': 'zero', 'experts': [1]}").find("unknown key \"experts\"") !=
      std::string::npos);
  for (const char* point : {"attn.pattern", "expert.contribution", "router.group_margin"})
    CHECK(refused("{'op': 'ablate', 'point': '" + std::string(point) + "', 'value': 'zero'}")
              .find("expected a point that can be written") != std::string::npos);
  CHECK(refused("{'op': 'ablate', 'point': 'router.in', 'value': 'zero', 'tokens': {'margin_below': 1}}")
            .find("expected a point after the router of its layer, found router.in") != std::string::npos);
  CHECK(refused("{'op': 'ablate', 'point': 'expert.in', 'value': 'zero', 'tokens': {'margin_below': 1}}") ==
        "no error");
  CHECK(refused("{'op': 'ablate', 'point': 'shared.in', 'layers': '5', 'value': 'zero'}").find("a shared expert") !=
        std::string::npos);

  // From a trace: the mean over its rows, or the row of the same position.
  TraceOptions options = trace_options(dir / "t", "*.attn.k,*.router.ids");
  write_trace(options, {3, 2});
  const std::vector<float> mean =
      writes("{'op': 'ablate', 'point': 'attn.k', 'layers': '2', 'value': {'mean_of': 't'}}", Point::attn_k);
  REQUIRE(mean.size() == 6);
  double sum = 0;
  for (const auto& [sample, n] : {std::pair(0, 3), std::pair(1, 2)})
    for (int64_t r = 0; r < n; ++r) sum += static_cast<double>(value_at(sample, r, Point::attn_k, 2, 4));
  CHECK(mean[4] == static_cast<float>(sum / 5));
  const auto bound =
      plan_of("[{'op': 'patch', 'point': 'attn.k', 'layers': '2', 'from': 't', 'sample': 's1'}]", dir.path())
          ->bind({"s0", 0, 2, {}});
  const PointEdit& patch = bound->point_edits(Point::attn_k, 2)[0];
  CHECK(patch.values[patch.value_row(1) * patch.width + 5] == value_at(1, 1, Point::attn_k, 2, 5));
  CHECK(refused("{'op': 'patch', 'point': 'attn.q', 'from': 't', 'layers': '2'}").find("holds layer.2.attn.q") !=
        std::string::npos);
  ModelShape narrow = sample_shape();
  for (LayerShape& layer : narrow.layers) layer.attention.d_key = 2;
  CHECK(error_of([&] {
          plan_of("[{'op': 'patch', 'point': 'attn.k', 'from': 't', 'layers': '2'}]", dir.path(), narrow);
        }).find("expected layer.2.attn.k with rows of 4") != std::string::npos);
}
