// Traces with values that follow from where they stand, so that a test knows every byte.
#pragma once
#include <vector>

#include "probes/trace.h"
#include "tests/probes/sample.h"

namespace signalbox::test {

// The value at a point: a function of sample, row, point, layer and column alone.
inline float value_at(int64_t sample, int64_t row, Point point, int32_t layer, int64_t column) {
  return static_cast<float>(static_cast<int64_t>(point) + 1) + 0.25f * static_cast<float>(layer + 1) +
         static_cast<float>(sample * 1000 + row * 10 + column);
}
// How much a token's head looks at a key.
inline float share_at(int64_t sample, int64_t row, Point point, int32_t layer, int64_t head, int64_t key) {
  return key > row ? 0 : value_at(sample, row, point, layer, head * 4096 + key);
}
// Slot 0 and 1 of a route of n_slots; further slots are unused on odd rows.
inline int32_t id_at(int64_t sample, int64_t row, int32_t layer, int64_t slot, int32_t n_experts) {
  if (slot >= 2 && row % 2) return -1;
  return static_cast<int32_t>((sample * 7 + row * 3 + layer + slot) % n_experts);
}
inline int32_t original_at(int64_t sample, int64_t row, int32_t layer, int64_t slot, int32_t n_experts) {
  return slot >= 2 ? -1 : static_cast<int32_t>((sample + row + layer + slot) % n_experts);
}
inline int32_t token_at(int64_t sample, int64_t row) { return static_cast<int32_t>(sample * 100 + row); }

// What a forward hands over at a point for these (sample, row); [rows, width].
struct PointRows {
  int64_t width = 0;
  std::vector<float> data;
};
inline PointRows rows_at(const TraceOptions& options, PointAt at,
                         const std::vector<std::pair<int64_t, int64_t>>& rows) {
  const int32_t n_slots = options.n_slots ? options.n_slots : options.shape.n_active();
  PointRows out;
  if (point_info(at.point).positions()) {
    int64_t n_keys = 1;
    for (auto [sample, row] : rows) n_keys = std::max(n_keys, row + 1);
    const int64_t heads = point_dims(at.point, at.layer, options.shape, n_slots).front();
    out.width = heads * n_keys;
    for (auto [sample, row] : rows)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t k = 0; k < n_keys; ++k) out.data.push_back(share_at(sample, row, at.point, at.layer, h, k));
    return out;
  }
  out.width = 1;
  for (const int64_t n : point_dims(at.point, at.layer, options.shape, n_slots)) out.width *= n;
  for (auto [sample, row] : rows)
    for (int64_t c = 0; c < out.width; ++c) out.data.push_back(value_at(sample, row, at.point, at.layer, c));
  return out;
}

// Feeds one batch made of these ranges (batch_row is filled in here unless `shared`).
inline void feed(ProbeSink& writer, const TraceOptions& options, std::vector<RowRange> ranges, bool shared = false) {
  int64_t n_rows = 0;
  for (RowRange& range : ranges) {
    if (!shared) range.batch_row = n_rows;
    n_rows = std::max(n_rows, range.batch_row + range.n_rows);
  }
  std::vector<std::pair<int64_t, int64_t>> rows(static_cast<size_t>(n_rows));  // (sample, row) of batch rows
  for (const RowRange& range : ranges)
    for (int64_t r = 0; r < range.n_rows; ++r)
      rows[static_cast<size_t>(range.batch_row + r)] = {shared ? 0 : range.sample, range.first_row + r};
  std::vector<int32_t> tokens, positions;
  std::vector<uint8_t> phase;
  std::vector<uint32_t> spans;
  for (auto [sample, row] : rows) {
    tokens.push_back(token_at(sample, row));
    positions.push_back(static_cast<int32_t>(row));
    phase.push_back(row >= 3);
    spans.push_back(row < 2 ? 1 : 0);
  }
  writer.begin({n_rows, ranges, tokens.data(), positions.data(), phase.data(), spans.data()});
  const int32_t n_slots = options.n_slots ? options.n_slots : options.shape.n_active();
  for (const PointAt& at : options.points.all()) {
    REQUIRE(writer.wants(at.point, at.layer));
    if (at.point == Point::router_ids) {
      std::vector<int32_t> ids, original;
      const int32_t n_experts = options.shape.layers[static_cast<size_t>(at.layer)].n_experts;
      for (auto [sample, row] : rows)
        for (int64_t k = 0; k < n_slots; ++k) {
          ids.push_back(id_at(sample, row, at.layer, k, n_experts));
          original.push_back(original_at(sample, row, at.layer, k, n_experts));
        }
      writer.take_ids(at.layer, ids.data(), options.original_ids ? original.data() : nullptr, n_slots);
      continue;
    }
    const PointRows values = rows_at(options, at, rows);
    writer.take(at.point, at.layer, values.data.data(), values.width);
  }
  writer.end();
}

inline TraceOptions trace_options(const std::filesystem::path& dir, const std::string& points = "*",
                                  const ModelShape& shape = sample_shape()) {
  TraceOptions options;
  options.dir = dir;
  options.shape = shape;
  options.points = PointSet::parse(points, shape);
  options.span_names = {"doc", "target"};
  options.metadata = {{"model", "m"}, {"isa", "scalar"}};
  return options;
}

// A trace of samples of the given lengths under ids "s0", "s1", ...
inline void write_trace(const TraceOptions& options, const std::vector<int64_t>& lengths) {
  TraceWriter writer(options);
  std::vector<std::string> ids;
  for (size_t s = 0; s < lengths.size(); ++s) {
    ids.push_back("s" + std::to_string(s));
    feed(writer, options, {{static_cast<int64_t>(s), 0, lengths[s], 0}});
  }
  writer.finish(ids, [&](int64_t s) { return json::Value::object().set("id", ids[static_cast<size_t>(s)]); });
}

}  // namespace signalbox::test
