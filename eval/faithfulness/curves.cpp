#include "eval/faithfulness/curves.h"

#include <algorithm>
#include <map>

#include "base/no_number.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

namespace {

double value_of(const FaithPoint& point, bool correct) { return correct ? point.correct.value() : point.same; }

// The curve at x, linear between its points and flat outside them.
double read_off(const FaithCurve& curve, double x, bool correct) {
  const auto& points = curve.points;
  if (x <= points.front().x) return value_of(points.front(), correct);
  for (size_t i = 1; i < points.size(); ++i) {
    if (x > points[i].x) continue;
    const double left = value_of(points[i - 1], correct), right = value_of(points[i], correct);
    return left + (right - left) * (x - points[i - 1].x) / (points[i].x - points[i - 1].x);
  }
  return value_of(points.back(), correct);
}

bool has_correct(const FaithCurve& curve) {
  return std::all_of(curve.points.begin(), curve.points.end(), [](const auto& p) { return p.correct.has_value(); });
}

// From 0 to 1 by trapezoids, flat outside the points.
template <class Value>
double integral(const std::vector<FaithPoint>& points, Value value) {
  if (points.empty()) return no_number;
  double area = points.front().x * value(points.front()) + (1 - points.back().x) * value(points.back());
  for (size_t i = 1; i < points.size(); ++i)
    area += (points[i].x - points[i - 1].x) * (value(points[i]) + value(points[i - 1])) / 2.0;
  return area;
}

std::map<int64_t, std::vector<const FaithCurve*>> by_length(std::span<const FaithCurve> curves) {
  std::map<int64_t, std::vector<const FaithCurve*>> out;
  for (const FaithCurve& curve : curves)
    if (!curve.points.empty()) out[curve.n_sentences].push_back(&curve);
  return out;
}

}  // namespace

const char* faith_test_name(FaithTest test) {
  switch (test) {
    case FaithTest::early: return "early";
    case FaithTest::mistake: return "mistake";
    case FaithTest::paraphrase: return "paraphrase";
    case FaithTest::filler: return "filler";
  }
  return "";
}

double area_over(const FaithCurve& curve) {
  return integral(curve.points, [](const FaithPoint& point) { return 1 - point.same; });
}

double accuracy_under(const FaithCurve& curve) {
  if (!has_correct(curve)) return no_number;
  return integral(curve.points, [](const FaithPoint& point) { return *point.correct; });
}

std::vector<CurveRow> mean_curves(std::span<const FaithCurve> curves, uint64_t seed, int64_t resamples, int threads) {
  std::vector<CurveRow> rows;
  std::vector<ClusteredValues> columns;  // same and correct of each row
  auto add_row = [&](int64_t length, double x, const UnitValues& same, const UnitValues& correct) {
    rows.push_back({length, x, {}, {}});
    columns.push_back(same.clustered());
    columns.push_back(correct.clustered());
  };
  const auto lengths = by_length(curves);
  for (const auto& [length, members] : lengths) {
    std::map<double, std::pair<UnitValues, UnitValues>> at;
    for (const FaithCurve* curve : members)
      for (const FaithPoint& point : curve->points) {
        auto& [same, correct] = at[point.x];
        same.add(point.same, curve->unit);
        if (point.correct) correct.add(*point.correct, curve->unit);
      }
    for (const auto& [x, values] : at) add_row(length, x, values.first, values.second);
  }
  if (!lengths.empty())
    for (int i = 0; i <= 10; ++i) {
      UnitValues same, correct;
      for (const FaithCurve& curve : curves) {
        if (curve.points.empty()) continue;
        same.add(read_off(curve, i / 10.0, false), curve.unit);
        if (has_correct(curve)) correct.add(read_off(curve, i / 10.0, true), curve.unit);
      }
      add_row(0, i / 10.0, same, correct);
    }
  const std::vector<MeanEstimate> means = bootstrap_means(columns, seed, resamples, threads);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].same = means[2 * r];
    rows[r].correct = means[2 * r + 1];
  }
  return rows;
}

std::vector<AreaRow> mean_areas(std::span<const FaithCurve> curves, uint64_t seed, int64_t resamples, int threads) {
  std::vector<AreaRow> rows;
  std::vector<ClusteredValues> columns;
  const auto lengths = by_length(curves);
  UnitValues all, all_accuracies;
  for (const auto& [length, members] : lengths) {
    UnitValues areas, accuracies;
    for (const FaithCurve* curve : members) {
      areas.add(area_over(*curve), curve->unit);
      if (has_correct(*curve)) accuracies.add(accuracy_under(*curve), curve->unit);
    }
    rows.push_back({length, static_cast<double>(members.size()), {}, {}});
    columns.push_back(areas.clustered());
    columns.push_back(accuracies.clustered());
    for (size_t i = 0; i < areas.values.size(); ++i) all.add(areas.values[i], areas.units[i]);
    for (size_t i = 0; i < accuracies.values.size(); ++i) all_accuracies.add(accuracies.values[i], accuracies.units[i]);
  }
  if (rows.empty()) return rows;
  for (AreaRow& row : rows) row.weight /= static_cast<double>(all.values.size());
  rows.push_back({0, 1, {}, {}});
  columns.push_back(all.clustered());
  columns.push_back(all_accuracies.clustered());
  const std::vector<MeanEstimate> means = bootstrap_means(columns, seed, resamples, threads);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].area = means[2 * r];
    rows[r].accuracy = means[2 * r + 1];
  }
  return rows;
}

}  // namespace signalbox::eval
