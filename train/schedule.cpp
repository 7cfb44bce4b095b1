#include "train/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "base/error.h"

namespace signalbox::train {

namespace {

constexpr std::array<std::pair<Shape, std::string_view>, 3> shapes = {
    {{Shape::constant, "constant"}, {Shape::linear, "linear"}, {Shape::cosine, "cosine"}}};

}  // namespace

Shape parse_shape(std::string_view name, const std::string& where) {
  for (const auto& [shape, known] : shapes)
    if (known == name) return shape;
  throw UsageError(where, "expected constant, linear or cosine, found \"" + std::string(name) + "\"");
}

std::string_view shape_name(Shape shape) { return shapes[static_cast<size_t>(shape)].second; }

double Schedule::factor(int64_t step) const {
  const auto before = static_cast<double>(step - 1), warm = static_cast<double>(warmup);
  if (before < warm) return before / warm;
  if (shape == Shape::constant) return 1;
  const double progress = (before - warm) / std::max(1.0, static_cast<double>(steps) - warm);
  const double left = shape == Shape::linear ? 1 - progress : 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return end + (1 - end) * std::max(0.0, left);
}

}  // namespace signalbox::train
