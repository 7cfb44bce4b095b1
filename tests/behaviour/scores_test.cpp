// Scores and risk differences against hand-computed cases.
#include <doctest/doctest.h>

#include "eval/detect/risk_difference.h"
#include "eval/score/answers.h"
#include "tests/support.h"

using namespace signalbox;

TEST_CASE("answers: normalisation and exact match") {
  CHECK(normalize_answer(" The  Quick, brown fox! ") == "quick brown fox");
  CHECK(normalize_answer("A an the") == "");
  CHECK(normalize_answer("theatre") == "theatre");
  CHECK(normalize_answer("U.S.") == "us");
  CHECK(exact_match(" Narqui.", {"Narqui."}));
  CHECK(exact_match("the Narqui", {"Other", "narqui"}));
  CHECK_FALSE(exact_match("Narqui river", {"Narqui"}));
  CHECK_FALSE(exact_match("", {"Narqui"}));
}

TEST_CASE("answers: abstention and refusal are phrases, not substrings") {
  CHECK(abstained(" I do not know."));
  CHECK(abstained("Sorry, I don't know that."));
  CHECK(abstained("The document does not mention it."));
  CHECK_FALSE(abstained("It is not far."));
  CHECK_FALSE(abstained("Notre Dame"));
  CHECK_FALSE(abstained("The unknowns are many"));
  CHECK(refused("Sorry, I cannot help with that."));
  CHECK(refused("I can't help."));
  CHECK(refused("That is forbidden, so I cannot help."));
  CHECK(refused("Sorry, that is not allowed."));
  CHECK_FALSE(refused("I do not know."));
  CHECK_FALSE(refused("Grind the chalk and help yourself."));
}

TEST_CASE("risk differences of a small trace, by hand") {
  test::TemporaryDirectory scratch;
  ModelShape shape;
  shape.d_model = 4;
  shape.n_vocab = 8;
  shape.layers = {{false, 0, 0, 8, false}, {true, 3, 1, 8, false}};
  TraceOptions options;
  options.dir = scratch.path();
  options.shape = shape;
  options.points = PointSet::parse(default_points, shape);
  options.span_names = {"q"};
  TraceWriter writer(options);
  // Two samples: experts 0 0 1 2 | 1 1 2; the span holds tokens 1.. of the first and all of the second.
  const int32_t ids[] = {0, 0, 1, 2, 1, 1, 2}, positions[] = {0, 1, 2, 3, 0, 1, 2}, tokens[7] = {};
  const uint32_t spans[] = {0, 1, 1, 1, 1, 1, 1};
  const float weights[] = {1, 1, 1, 1, 1, 1, 1};
  const uint8_t phase[] = {0, 0, 1, 1, 0, 0, 0};
  const RowRange ranges[] = {{0, 0, 4, 0}, {1, 0, 3, 4}};
  writer.begin({7, ranges, tokens, positions, phase, spans});
  writer.take_ids(1, ids, nullptr, 1);
  writer.take(Point::router_weights, 1, weights, 1);
  writer.end();
  const std::vector<std::string> names = {"a", "b"};
  writer.finish(names, [](int64_t) { return json::Value::object(); });

  const TraceReader trace(scratch.path());
  const auto all = risk_differences(trace, {1, 2});
  REQUIRE(all.size() == 3);
  CHECK(all[0].layer == 1);
  CHECK((all[0].a1 == 2 && all[0].d1 == 2 && all[0].a2 == 0 && all[0].d2 == 3));
  CHECK(all[0].value() == doctest::Approx(0.5));
  CHECK(all[1].value() == doctest::Approx(1.0 / 4 - 2.0 / 3));
  CHECK(all[2].value() == doctest::Approx(1.0 / 4 - 1.0 / 3));
  const auto span = risk_differences(trace, {1, 2}, {"q", Phase::all});
  CHECK(span[0].value() == doctest::Approx(1.0 / 3));
  const auto given = risk_differences(trace, {1, 2}, {"", Phase::given});
  CHECK(given[0].value() == doctest::Approx(1.0));
  CHECK_THROWS_AS(risk_differences(trace, {1, 2}, {"none", Phase::all}), Error);
  CHECK_THROWS_AS(risk_differences(trace, {1, 0}), Error);

  CHECK(top_experts(all, 1, +1)[0].expert == 0);
  CHECK(top_experts(all, 1, -1)[0].expert == 1);
  CHECK(top_experts(all, 2, 0)[0].expert == 0);
  CHECK(top_experts(all, 9, 0).size() == 3);
}
