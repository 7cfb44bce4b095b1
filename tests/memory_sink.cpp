#include "tests/memory_sink.h"

#include <algorithm>
#include <cmath>

namespace signalbox::test {

void MemorySink::begin(const StepRows& rows) {
  ranges_.assign(rows.ranges.begin(), rows.ranges.end());
  n_keys_ = 1 + *std::max_element(rows.positions, rows.positions + rows.n_rows);
}

void MemorySink::append(const std::string& name, const float* data, int64_t width) {
  for (const RowRange& range : ranges_) {
    Values& values = samples[range.sample][name];
    values.width = width;
    values.data.insert(values.data.end(), data + range.batch_row * width,
                       data + (range.batch_row + range.n_rows) * width);
  }
}

void MemorySink::take(Point point, int32_t layer, const float* data, int64_t width) {
  if (!point_info(point).positions()) return append(point_name(point, layer), data, width);
  const int64_t heads = width / n_keys_;
  for (const RowRange& range : ranges_) {
    Values& values = samples[range.sample][point_name(point, layer)];
    values.width = heads;
    for (int64_t r = 0; r < range.n_rows; ++r)
      for (int64_t h = 0; h < heads; ++h) {
        const float* row = data + ((range.batch_row + r) * heads + h) * n_keys_;
        const int64_t seen = range.first_row + r + 1;
        values.data.insert(values.data.end(), row, row + seen);
        // Nothing may stand behind what the row sees.
        if (std::any_of(row + seen, row + n_keys_, [](float x) { return x != 0; })) values.data.back() = NAN;
      }
  }
}

void MemorySink::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  int64_t rows = 0;
  for (const RowRange& range : ranges_) rows = std::max(rows, range.batch_row + range.n_rows);
  const std::vector<float> applied(ids, ids + rows * n_slots);
  append(point_name(Point::router_ids, layer), applied.data(), n_slots);
  if (!original_ids) return;
  const std::vector<float> original(original_ids, original_ids + rows * n_slots);
  append("layer." + std::to_string(layer) + ".router.original_ids", original.data(), n_slots);
}

}  // namespace signalbox::test
