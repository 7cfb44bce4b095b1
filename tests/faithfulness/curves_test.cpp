// Curves, areas and likeness of routes, by hand.
#include "eval/faithfulness/curves.h"

#include <doctest/doctest.h>

#include <cmath>

#include "eval/faithfulness/answer_routes.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

FaithCurve curve(int64_t unit, int64_t n, std::vector<FaithPoint> points) {
  return {.unit = unit, .n_sentences = n, .points = std::move(points)};
}

}  // namespace

TEST_CASE("area over one curve") {
  // Answers differ at 0 and 1/2, agree at 1: 1/2 * 1 + 1/2 * 1/2.
  CHECK(area_over(curve(0, 2, {{0, false, {}}, {0.5, false, {}}, {1, true, {}}})) == doctest::Approx(0.75));
  CHECK(area_over(curve(0, 2, {{0, false, {}}, {0.5, true, {}}, {1, true, {}}})) == doctest::Approx(0.25));
  CHECK(area_over(curve(0, 4, {{0, true, {}}, {1, true, {}}})) == 0);
  // Flat outside the points: 0 .. 1/2 all different, then down to 1.
  CHECK(area_over(curve(0, 2, {{0.5, false, {}}, {1, true, {}}})) == doctest::Approx(0.75));
  CHECK(area_over(curve(0, 2, {{0, true, {}}, {0.5, false, {}}})) == doctest::Approx(0.25 + 0.5));
  CHECK(std::isnan(area_over(curve(0, 2, {}))));
}

TEST_CASE("accuracy under one curve, and areas over p") {
  CHECK(accuracy_under(curve(0, 2, {{0, 0, 0.0}, {0.5, 0, 1.0}, {1, 1, 1.0}})) == doctest::Approx(0.75));
  CHECK(accuracy_under(curve(0, 2, {{0.5, 0, 1.0}, {1, 1, 0.0}})) == doctest::Approx(0.5 + 0.25));
  CHECK(std::isnan(accuracy_under(curve(0, 2, {{0, 0, 1.0}, {1, 1, {}}}))));
  CHECK(area_over(curve(0, 2, {{0, 0.25, {}}, {0.5, 0.5, {}}, {1, 0.75, {}}})) == doctest::Approx(0.5));
  const auto rows = mean_areas(
      std::vector{curve(0, 1, {{0, 0, 0.0}, {1, 1, 1.0}}), curve(1, 1, {{0, 1, {}}, {1, 1, {}}})}, 0, 100, 1);
  CHECK(rows.back().area.n == 2);
  CHECK(rows.back().accuracy.n == 1);
  CHECK(rows.back().accuracy.mean == doctest::Approx(0.5));
}

TEST_CASE("mean areas are weighted by the share of each length") {
  // Two of length 1 (areas 1/2, 0), one of length 2 (area 3/4).
  const std::vector<FaithCurve> curves = {curve(0, 1, {{0, false, {}}, {1, true, {}}}),
                                          curve(1, 1, {{0, true, {}}, {1, true, {}}}),
                                          curve(2, 2, {{0, false, {}}, {0.5, false, {}}, {1, true, {}}})};
  const auto rows = mean_areas(curves, 0, 2000, 1);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].n_sentences == 1);
  CHECK(rows[0].weight == doctest::Approx(2.0 / 3));
  CHECK(rows[0].area.mean == doctest::Approx(0.25));
  CHECK(rows[1].area.mean == doctest::Approx(0.75));
  CHECK(rows[2].n_sentences == 0);
  CHECK(rows[2].area.mean == doctest::Approx(rows[0].weight * 0.25 + rows[1].weight * 0.75));
  CHECK(rows[2].area.n == 3);
  CHECK(rows[2].area.ci.lo == doctest::Approx(0));
  CHECK(rows[2].area.ci.hi == doctest::Approx(0.75));
  // Explanations of one unit are resampled together: one unit gives no interval.
  std::vector<FaithCurve> one_unit = curves;
  for (FaithCurve& c : one_unit) c.unit = 7;
  CHECK(mean_areas(one_unit, 0, 100, 1)[2].area.mean == doctest::Approx(5.0 / 12));
  CHECK(std::isnan(mean_areas(one_unit, 0, 100, 1)[2].area.ci.lo));
  CHECK(mean_areas({}, 0, 100, 1).empty());
}

TEST_CASE("mean curves") {
  const std::vector<FaithCurve> curves = {curve(0, 1, {{0, false, false}, {1, true, true}}),
                                          curve(1, 2, {{0, true, {}}, {0.5, false, {}}, {1, true, {}}})};
  const auto rows = mean_curves(curves, 0, 100, 1);
  REQUIRE(rows.size() == 2 + 3 + 11);
  CHECK(rows[0].n_sentences == 1);
  CHECK(rows[0].same.mean == 0);
  CHECK(rows[0].correct.mean == 0);
  CHECK(rows[1].correct.mean == 1);
  CHECK(rows[3].x == 0.5);
  CHECK(rows[3].same.mean == 0);
  CHECK(rows[3].correct.n == 0);
  // All lengths at 0.2: 0.2 of the first, 1 - 0.4 of the second; the second has no answers.
  CHECK(rows[5 + 2].n_sentences == 0);
  CHECK(rows[5 + 2].x == doctest::Approx(0.2));
  CHECK(rows[5 + 2].same.mean == doctest::Approx((0.2 + 0.6) / 2));
  CHECK(rows[5 + 2].correct.mean == doctest::Approx(0.2));
  CHECK(rows[5 + 2].correct.n == 1);
  CHECK(rows[5 + 10].same.mean == 1);
}

TEST_CASE("only the last rows are kept, however they arrive") {
  ModelShape shape;
  shape.layers.resize(2);
  shape.layers[1] = {.moe = true, .n_experts = 9, .n_active = 2, .d_ff = 1, .shared = false};
  LastRoutes routes(shape, {3, 0}, {5, 2});
  CHECK(!routes.wants(Point::router_ids, 0));
  CHECK(routes.wants(Point::router_weights, 1));
  CHECK(routes.n_rows(0) == 2);
  auto feed = [&](std::vector<RowRange> ranges, const std::vector<int32_t>& ids) {
    std::vector<float> weights;
    for (int32_t id : ids) weights.push_back(static_cast<float>(id) / 10);
    routes.begin({.n_rows = static_cast<int64_t>(ids.size()) / 2,
                  .ranges = ranges,
                  .tokens = nullptr,
                  .positions = nullptr,
                  .phase = nullptr,
                  .spans = nullptr});
    routes.take_ids(1, ids.data(), nullptr, 2);
    routes.take(Point::router_weights, 1, weights.data(), 2);
    routes.end();
  };
  feed({{0, 0, 2, 0}, {1, 0, 1, 2}}, {0, 0, 0, 0, 1, 2});
  feed({{1, 1, 1, 0}, {0, 2, 2, 1}}, {3, 4, 0, 0, 5, 6});
  feed({{0, 4, 1, 0}}, {7, 8});
  const auto ids = [&](int64_t sample) {
    const Routes kept = routes.routes(sample, 0);
    CHECK(kept.n_tokens * kept.n_slots == static_cast<int64_t>(kept.ids.size()));
    return std::vector<int32_t>(kept.ids.begin(), kept.ids.end());
  };
  const Routes first = routes.routes(0, 0);
  CHECK(ids(0) == std::vector<int32_t>{5, 6, 7, 8});
  CHECK(std::vector<float>(first.weights.begin(), first.weights.end()) == std::vector<float>{0.5f, 0.6f, 0.7f, 0.8f});
  CHECK(ids(1) == std::vector<int32_t>{1, 2, 3, 4});
}
