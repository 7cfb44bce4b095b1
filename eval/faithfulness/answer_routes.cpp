#include "eval/faithfulness/answer_routes.h"

#include <algorithm>

namespace signalbox {

LastRoutes::LastRoutes(const ModelShape& shape, std::vector<int64_t> first_row, std::vector<int64_t> n_rows)
    : layers_(shape.moe_layers()),
      first_row_(std::move(first_row)),
      n_rows_(std::move(n_rows)),
      routes_(first_row_.size(), std::vector<Routes>(layers_.size())) {}

size_t LastRoutes::layer_index(int32_t layer) const {
  return static_cast<size_t>(std::lower_bound(layers_.begin(), layers_.end(), layer) - layers_.begin());
}

bool LastRoutes::wants(Point point, int32_t layer) const {
  return (point == Point::router_ids || point == Point::router_weights) &&
         std::binary_search(layers_.begin(), layers_.end(), layer);
}

void LastRoutes::begin(const StepRows& rows) { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }

void LastRoutes::take(Point, int32_t layer, const float* data, int64_t width) {
  for (const RowRange& range : ranges_) {
    const int64_t skip = std::clamp<int64_t>(first_row_[range.sample] - range.first_row, 0, range.n_rows);
    auto& weights = routes_[range.sample][layer_index(layer)].weights;
    weights.insert(weights.end(), data + (range.batch_row + skip) * width,
                   data + (range.batch_row + range.n_rows) * width);
  }
}

void LastRoutes::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  for (const RowRange& range : ranges_) {
    const int64_t skip = std::clamp<int64_t>(first_row_[range.sample] - range.first_row, 0, range.n_rows);
    Routes& routes = routes_[range.sample][layer_index(layer)];
    routes.n_slots = n_slots;
    routes.ids.insert(routes.ids.end(), ids + (range.batch_row + skip) * n_slots,
                      ids + (range.batch_row + range.n_rows) * n_slots);
  }
}

RouteLikeness route_likeness(const LastRoutes::Routes& a, const LastRoutes::Routes& b, int64_t n_rows) {
  RouteLikeness total;
  for (int64_t row = 0; row < n_rows; ++row) {
    int64_t common = 0, both = 0;
    double low = 0, high = 0;
    for (int64_t i = 0; i < a.n_slots; ++i) {
      const int32_t id = a.ids[row * a.n_slots + i];
      if (id < 0) continue;
      ++both;
      const double weight = a.weights[row * a.n_slots + i];
      const auto begin = b.ids.begin() + row * b.n_slots, end = begin + b.n_slots;
      const auto found = std::find(begin, end, id);
      if (found == end) {
        high += weight;
        continue;
      }
      ++common;
      const double other = b.weights[static_cast<size_t>(found - b.ids.begin())];
      low += std::min(weight, other);
      high += std::max(weight, other);
    }
    for (int64_t i = 0; i < b.n_slots; ++i) {
      const int32_t id = b.ids[row * b.n_slots + i];
      const auto begin = a.ids.begin() + row * a.n_slots;
      if (id < 0 || std::find(begin, begin + a.n_slots, id) != begin + a.n_slots) continue;
      ++both;
      high += b.weights[row * b.n_slots + i];
    }
    total.jaccard += both == 0 ? 1 : static_cast<double>(common) / static_cast<double>(both);
    total.weighted += high == 0 ? 1 : low / high;
  }
  const auto n = static_cast<double>(n_rows);
  return {total.jaccard / n, total.weighted / n};
}

}  // namespace signalbox
