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
// Slot 0 and 1 of a route of n_slots; further slots are unused on odd rows.
inline int32_t id_at(int64_t sample, int64_t row, int32_t layer, int64_t slot, int32_t n_experts) {
  if (slot >= 2 && row % 2) return -1;
  return static_cast<int32_t>((sample * 7 + row * 3 + layer + slot) % n_experts);
}
inline int32_t original_at(int64_t sample, int64_t row, int32_t layer, int64_t slot, int32_t n_experts) {
  return slot >= 2 ? -1 : static_cast<int32_t>((sample + row + layer + slot) % n_experts);
}
inline int32_t token_at(int64_t sample, int64_t row) { return static_cast<int32_t>(sample * 100 + row); }

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
    const int64_t width =
        point_width(at.point, at.layer, options.shape, n_slots) * (point_info(at.point).slots() ? n_slots : 1);
    std::vector<float> data;
    for (auto [sample, row] : rows)
      for (int64_t c = 0; c < width; ++c) data.push_back(value_at(sample, row, at.point, at.layer, c));
    writer.take(at.point, at.layer, data.data(), width);
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
