#include "eval/faithfulness/answer_routes.h"

#include <algorithm>

namespace signalbox::eval {

LastRoutes::LastRoutes(const ModelShape& shape, std::vector<int64_t> first_row, std::vector<int64_t> n_rows)
    : layers_(shape.moe_layers()),
      first_row_(std::move(first_row)),
      n_rows_(std::move(n_rows)),
      kept_(first_row_.size(), std::vector<Kept>(layers_.size())) {}

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
    auto& weights = kept_[range.sample][layer_index(layer)].weights;
    weights.insert(weights.end(), data + (range.batch_row + skip) * width,
                   data + (range.batch_row + range.n_rows) * width);
  }
}

void LastRoutes::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  for (const RowRange& range : ranges_) {
    const int64_t skip = std::clamp<int64_t>(first_row_[range.sample] - range.first_row, 0, range.n_rows);
    Kept& kept = kept_[range.sample][layer_index(layer)];
    kept.n_slots = n_slots;
    kept.ids.insert(kept.ids.end(), ids + (range.batch_row + skip) * n_slots,
                    ids + (range.batch_row + range.n_rows) * n_slots);
  }
}

Routes LastRoutes::routes(int64_t sample, size_t layer) const {
  const Kept& kept = kept_[sample][layer];
  return {n_rows(sample), 1, kept.n_slots, kept.ids, kept.weights};
}

}  // namespace signalbox::eval
