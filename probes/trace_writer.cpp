// Writing a trace: each batch becomes rows of a spool, finish() turns rows into tensors.
#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "base/files.h"
#include "base/half.h"
#include "base/row_spool.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "probes/pattern_spool.h"
#include "probes/trace.h"
#include "probes/trace_schema.h"

namespace signalbox::probes {

namespace {

constexpr size_t max_staged_bytes = size_t{32} << 20;  // of one batch; larger ones go to the spool piece by piece
constexpr size_t chunk_bytes = size_t{16} << 20;       // of rows, while tensors are written

// A tensor of the file whose first dimension is T, and where its elements lie within a row of the spool.
struct RowTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> tail;     // shape without T
  size_t bytes = 0, offset = 0;  // of one row
  int64_t pattern = -1;          // its rows are in the spool of patterns, as that tensor; their width is not yet known
};

// What one take() fills: `width` elements at `offset` of a row; `given` of them come from the forward, the rest (layers
// of fewer experts than E) is NaN.
struct Column {
  int64_t offset = -1;
  int64_t width = 0, given = 0;
  int64_t pattern = -1;  // tensor of the spool of patterns; `width` is then the number of heads
};

[[noreturn]] void misuse(const std::string& what) { throw Error("trace", what); }

json::Value extents_json(std::span<const RowSpool::Extent> extents) {
  json::Value list = json::Value::array();
  for (const RowSpool::Extent& extent : extents)
    list.push_back(json::Value::array().push_back(static_cast<int64_t>(extent.offset)).push_back(extent.n));
  return list;
}

std::vector<RowSpool::Extent> extents_of(const json::Ref& list) {
  std::vector<RowSpool::Extent> extents;
  for (const json::Ref& one : list.items()) {
    if (one.length() != 2) one.fail("expected an offset and a number of rows, found another list");
    constexpr int64_t most = int64_t{1} << 60;
    extents.push_back({static_cast<uint64_t>(one[0].size(most)), one[1].integer(1, most)});
  }
  return extents;
}

int64_t total(std::span<const RowSpool::Extent> extents) {
  int64_t n = 0;
  for (const RowSpool::Extent& extent : extents) n += extent.n;
  return n;
}

std::string hash_text(std::optional<uint64_t> hash) { return hash ? hex64(*hash) : "none"; }

}  // namespace

struct TraceWriter::State {
  TraceOptions options;
  std::vector<int32_t> layers;     // with recorded router points
  std::vector<RowTensor> tensors;  // in order of offset
  std::vector<Column> columns;     // [column_of()], and the same again for slopes
  std::map<std::string, std::vector<double>> numbers;
  size_t row_bytes = 0;
  size_t tokens = 0, positions = 0, spans = 0, phase = 0, original_ids = 0;  // offsets of a row
  bool wide_ids = false, compact = false;
  int64_t n_columns = 0;
  std::unique_ptr<RowSpool> spool;
  std::vector<int64_t> pattern_heads;  // [tensor of the spool of patterns]
  std::unique_ptr<PatternSpool> patterns;
  std::vector<std::pair<size_t, int64_t>> absent;  // offset, floats: stacked layers that do not have the point

  // The batch at hand.
  bool open = false, finished = false, lost = false;  // lost: rows of a batch that was abandoned
  std::vector<RowRange> ranges;
  int64_t n_rows = 0, n_keys = 0;  // n_keys: of patterns
  std::vector<uint64_t> extents;   // of ranges, when the batch goes to the spool piece by piece
  std::vector<std::byte> staged, piece;
  std::vector<uint8_t> taken;  // [column_of()]
  int64_t n_taken = 0;

  size_t column_of(Point point, int32_t layer, bool slope = false) const {
    const size_t number = static_cast<size_t>(point) + (slope ? static_cast<size_t>(n_points) : 0);
    return number * (options.shape.layers.size() + 1) + static_cast<size_t>(layer + 1);
  }
  size_t add(std::string name, std::string dtype, std::vector<int64_t> tail) {
    RowTensor tensor{std::move(name), std::move(dtype), std::move(tail), 0, row_bytes};
    tensor.bytes = static_cast<size_t>(safetensors::TensorHeader{tensor.name, tensor.dtype, tensor.tail}.bytes());
    row_bytes += tensor.bytes;
    tensors.push_back(std::move(tensor));
    return tensors.back().offset;
  }
  void add_column(Point point, int32_t layer, size_t offset, int64_t width, int64_t given, bool slope = false) {
    columns[column_of(point, layer, slope)] = {static_cast<int64_t>(offset), width, given};
    ++n_columns;
  }
  void add_pattern(Point point, int32_t layer, bool slope = false) {
    const int64_t index = static_cast<int64_t>(pattern_heads.size());
    const std::vector<int64_t> dims = point_dims(point, layer, options.shape, options.n_slots);
    pattern_heads.push_back(dims.front());
    tensors.push_back({(slope ? slope_prefix : "") + point_name(point, layer), "F32", dims, 0, row_bytes, index});
    columns[column_of(point, layer, slope)] = {0, dims.front(), 0, index};
    ++n_columns;
  }
  void lay_out();

  // Puts elements of all rows in place: fill(row, out) writes `bytes` of one row.
  template <class Fill>
  void put(size_t offset, size_t bytes, Fill fill) {
    if (extents.empty()) {
      for (int64_t r = 0; r < n_rows; ++r) fill(r, staged.data() + static_cast<size_t>(r) * row_bytes + offset);
      return;
    }
    piece.resize(bytes);
    for (size_t i = 0; i < ranges.size(); ++i)
      for (int64_t r = 0; r < ranges[i].n_rows; ++r) {
        fill(ranges[i].batch_row + r, piece.data());
        spool->write(extents[i] + static_cast<uint64_t>(r) * row_bytes + offset, piece.data(), bytes);
      }
  }
  const Column& take(Point point, int32_t layer, bool slope = false) {
    if (!open) misuse("expected take() between begin() and end()");
    const Column& column = columns.at(column_of(point, layer, slope));
    if (column.offset < 0) misuse("expected a point that is recorded, found " + point_name(point, layer));
    uint8_t& taken_already = taken[column_of(point, layer, slope)];
    if (taken_already) misuse("expected " + point_name(point, layer) + " once a batch, found it twice");
    taken_already = 1;
    ++n_taken;
    return column;
  }
  void check_width(Point point, int32_t layer, int64_t expected, int64_t found) const {
    if (expected != found)
      misuse("expected rows of " + std::to_string(expected) + " for " + point_name(point, layer) + ", found " +
             std::to_string(found));
  }
  static void fill_none(std::byte* out, size_t n) {
    const float none = std::numeric_limits<float>::quiet_NaN();
    for (size_t i = 0; i < n; ++i) std::memcpy(out + sizeof(float) * i, &none, sizeof(float));
  }
  void put_none(size_t offset, int64_t n) {
    put(offset, sizeof(float) * static_cast<size_t>(n),
        [&](int64_t, std::byte* out) { fill_none(out, static_cast<size_t>(n)); });
  }
  void put_ids(size_t offset, const int32_t* ids, int64_t n_slots) {
    const size_t size = wide_ids ? 2 : 1;
    put(offset, size * static_cast<size_t>(n_slots), [&](int64_t r, std::byte* out) {
      for (int64_t k = 0; k < n_slots; ++k) {
        // -1, an unused slot, becomes the dtype's maximum.
        const uint16_t id = static_cast<uint16_t>(ids[r * n_slots + k]);
        std::memcpy(out + size * static_cast<size_t>(k), &id, size);
      }
    });
  }
  void write_tensors(AtomicFile& file, std::span<const std::string> ids);
  void write_patterns(AtomicFile& file, std::span<const uint64_t> begin);
};

void TraceWriter::State::lay_out() {
  const ModelShape& shape = options.shape;
  const int32_t n_experts = shape.n_experts();
  const int64_t n_slots = options.n_slots, n_router_layers = static_cast<int64_t>(layers.size());
  wide_ids = n_experts >= 256;
  compact = options.compact;
  columns.assign(2 * static_cast<size_t>(n_points) * (shape.layers.size() + 1), Column());
  // Wide elements first, so that every tensor of the file is aligned for its dtype.
  tokens = add("tokens", "I32", {});
  positions = add("positions", "I32", {});
  spans = add("spans", "U32", {});
  auto stacked = [&](Point point, const std::string& dtype, int64_t width, bool slope = false) {
    const PointSet& points = slope ? options.slopes : options.points;
    if (!points.wants_any(point)) return;
    std::vector<int64_t> tail = {n_router_layers};
    if (point_info(point).shape != PointInfo::Shape::scalar) tail.push_back(width);
    const size_t offset = add((slope ? slope_prefix : "") + std::string(point_info(point).name), dtype, tail);
    const size_t layer_bytes = tensors.back().bytes / static_cast<size_t>(n_router_layers);
    for (size_t i = 0; i < layers.size(); ++i) {
      if (!points.wants(point, layers[i])) {
        absent.emplace_back(offset + i * layer_bytes, width);
        continue;
      }
      add_column(point, layers[i], offset + i * layer_bytes, width,
                 point_width(point, layers[i], shape, options.n_slots), slope);
    }
  };
  stacked(Point::router_margin, "F32", 1);
  stacked(Point::router_group_margin, "F32", 1);
  stacked(Point::router_logits, "F32", n_experts);
  stacked(Point::router_scores, "F32", n_experts);
  if (!compact) stacked(Point::router_weights, "F32", n_slots);
  for (const Point point : {Point::expert_norm, Point::expert_update_share, Point::expert_direct})
    stacked(point, "F32", n_slots);
  for (const PointAt& at : options.points.all()) {
    if (point_info(at.point).stacked) continue;
    if (point_info(at.point).positions()) {
      add_pattern(at.point, at.layer);
      continue;
    }
    const size_t offset =
        add(point_name(at.point, at.layer), "F32", point_dims(at.point, at.layer, shape, options.n_slots));
    const int64_t width = static_cast<int64_t>(tensors.back().bytes / sizeof(float));
    add_column(at.point, at.layer, offset, width, width);
  }
  stacked(Point::router_logits, "F32", n_experts, true);
  stacked(Point::router_weights, "F32", n_slots, true);
  for (const PointAt& at : options.slopes.all()) {
    if (point_info(at.point).stacked) continue;
    if (point_info(at.point).positions()) {
      add_pattern(at.point, at.layer, true);
      continue;
    }
    const size_t offset = add(slope_prefix + point_name(at.point, at.layer), "F32",
                              point_dims(at.point, at.layer, shape, options.n_slots));
    const int64_t width = static_cast<int64_t>(tensors.back().bytes / sizeof(float));
    add_column(at.point, at.layer, offset, width, width, true);
  }
  if (compact) stacked(Point::router_weights, "F16", n_slots);
  const char* id_dtype = wide_ids ? "U16" : "U8";
  stacked(Point::router_ids, id_dtype, n_slots);
  if (options.original_ids && options.points.wants_any(Point::router_ids))
    original_ids = add("router.original_ids", id_dtype, {n_router_layers, n_slots});
  phase = add("phase", "U8", {});
}

TraceWriter::TraceWriter(TraceOptions options) : state_(std::make_unique<State>()) {
  if (options.n_slots == 0) options.n_slots = options.shape.n_active();
  if (static_cast<int64_t>(options.span_names.size()) > max_span_names)
    throw Error((options.dir / trace_file).string(),
                "expected at most 32 names of spans in a trace, found " + std::to_string(options.span_names.size()));
  for (const auto& [key, value] : options.metadata)
    if (std::find(run_metadata.begin(), run_metadata.end(), key) == run_metadata.end())
      misuse("expected metadata that the schema knows, found \"" + key + "\"");
  std::error_code failed;
  std::filesystem::create_directories(options.dir, failed);
  if (failed) throw Error(options.dir.string(), "cannot make the directory: " + failed.message());
  state_->options = std::move(options);
  state_->layers = state_->options.points.router_layers();
  for (const int32_t layer : state_->options.slopes.router_layers())
    if (std::find(state_->layers.begin(), state_->layers.end(), layer) == state_->layers.end())
      state_->layers.push_back(layer);
  std::sort(state_->layers.begin(), state_->layers.end());
  state_->lay_out();
  const std::filesystem::path& dir = state_->options.dir;
  const bool kept = state_->options.resumable;
  const auto lifetime = kept ? RowSpool::Lifetime::file : RowSpool::Lifetime::process;
  state_->spool = std::make_unique<RowSpool>(kept ? dir / rows_spool : dir, state_->row_bytes, lifetime);
  if (!state_->pattern_heads.empty())
    state_->patterns =
        std::make_unique<PatternSpool>(kept ? dir / patterns_spool : dir, state_->pattern_heads, lifetime);
  state_->taken.resize(state_->columns.size());
}

TraceWriter::~TraceWriter() = default;

bool TraceWriter::wants(Point point, int32_t layer) const { return state_->options.points.wants(point, layer); }
int64_t TraceWriter::n_rows() const { return state_->spool->n_rows(); }
int64_t TraceWriter::n_rows(int64_t sample) const { return state_->spool->n_rows(sample); }

void TraceWriter::begin(const StepRows& rows) {
  State& s = *state_;
  if (s.open || s.finished) misuse("expected end() before the next begin()");
  std::map<int64_t, int64_t> next;  // rows of samples that occur more than once in the batch
  for (const RowRange& range : rows.ranges) {
    if (range.sample < 0 || range.n_rows < 0 || range.batch_row < 0 || range.batch_row + range.n_rows > rows.n_rows)
      misuse("expected ranges within the batch");
    auto [known, fresh] = next.try_emplace(range.sample, s.spool->n_rows(range.sample));
    if (range.first_row != known->second)
      misuse("expected row " + std::to_string(known->second) + " of sample " + std::to_string(range.sample) +
             ", found row " + std::to_string(range.first_row));
    known->second += range.n_rows;
  }
  s.ranges.assign(rows.ranges.begin(), rows.ranges.end());
  std::erase_if(s.ranges, [](const RowRange& range) { return range.n_rows == 0; });
  s.n_rows = rows.n_rows;
  s.open = true;
  s.extents.clear();
  std::fill(s.taken.begin(), s.taken.end(), 0);
  s.n_taken = 0;
  if (static_cast<size_t>(rows.n_rows) * s.row_bytes <= max_staged_bytes) {
    s.staged.resize(static_cast<size_t>(rows.n_rows) * s.row_bytes);
  } else {
    for (const RowRange& range : s.ranges) s.extents.push_back(s.spool->reserve(range.sample, range.n_rows));
  }
  s.n_keys = 0;
  for (int64_t r = 0; s.patterns && r < rows.n_rows; ++r)
    s.n_keys = std::max<int64_t>(s.n_keys, rows.positions[r] + int64_t{1});
  if (s.ranges.empty()) return;
  if (s.patterns) {
    for (const RowRange& range : s.ranges)
      if (rows.positions[range.batch_row] != range.first_row)
        misuse("expected " + std::string(point_info(Point::attn_pattern).name) + " of rows that begin at position 0");
    s.patterns->begin(s.ranges);
  }
  auto put = [&](size_t offset, const auto* data, auto otherwise) {
    s.put(offset, sizeof(otherwise), [&](int64_t r, std::byte* out) {
      const auto value = data ? data[r] : otherwise;
      std::memcpy(out, &value, sizeof(otherwise));
    });
  };
  put(s.tokens, rows.tokens, int32_t{0});
  put(s.positions, rows.positions, int32_t{0});
  put(s.spans, rows.spans, uint32_t{0});
  put(s.phase, rows.phase, uint8_t{0});
  for (const auto& [offset, n] : s.absent) s.put_none(offset, n);
}

void TraceWriter::take(Point point, int32_t layer, const float* data, int64_t width) {
  State& s = *state_;
  const Column& column = s.take(point, layer);
  if (column.pattern >= 0) {
    s.check_width(point, layer, column.width * s.n_keys, width);
    if (!s.ranges.empty()) s.patterns->put(static_cast<size_t>(column.pattern), data, s.n_keys);
    return;
  }
  s.check_width(point, layer, column.given, width);
  if (s.ranges.empty()) return;
  const size_t n = static_cast<size_t>(column.given), offset = static_cast<size_t>(column.offset);
  if (point == Point::router_weights && s.compact) {
    s.put(offset, 2 * n, [&](int64_t r, std::byte* out) {
      for (size_t k = 0; k < n; ++k) {
        const uint16_t half = f16_of_float(data[static_cast<size_t>(r) * n + k]);
        std::memcpy(out + 2 * k, &half, 2);
      }
    });
    return;
  }
  s.put(offset, sizeof(float) * static_cast<size_t>(column.width), [&](int64_t r, std::byte* out) {
    std::memcpy(out, data + static_cast<size_t>(r) * n, sizeof(float) * n);
    State::fill_none(out + sizeof(float) * n, static_cast<size_t>(column.width) - n);
  });
}

void TraceWriter::take_slope(Point point, int32_t layer, const float* data, int64_t width) {
  State& s = *state_;
  const Column& column = s.take(point, layer, true);
  if (column.pattern >= 0) {
    s.check_width(point, layer, column.width * s.n_keys, width);
    if (!s.ranges.empty()) s.patterns->put(static_cast<size_t>(column.pattern), data, s.n_keys);
    return;
  }
  s.check_width(point, layer, column.given, width);
  if (s.ranges.empty()) return;
  const size_t n = static_cast<size_t>(column.given);
  s.put(static_cast<size_t>(column.offset), sizeof(float) * static_cast<size_t>(column.width),
        [&](int64_t r, std::byte* out) {
          std::memcpy(out, data + static_cast<size_t>(r) * n, sizeof(float) * n);
          State::fill_none(out + sizeof(float) * n, static_cast<size_t>(column.width) - n);
        });
}

void TraceWriter::set_numbers(const std::string& name, std::vector<double> of_samples) {
  const auto& names = state_->options.numbers;
  if (std::find(names.begin(), names.end(), name) == names.end())
    misuse("expected numbers of a name that was announced");
  state_->numbers[name] = std::move(of_samples);
}

void TraceWriter::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  State& s = *state_;
  const Column& column = s.take(Point::router_ids, layer);
  s.check_width(Point::router_ids, layer, column.given, n_slots);
  if (s.ranges.empty()) return;
  s.put_ids(static_cast<size_t>(column.offset), ids, n_slots);
  if (!s.options.original_ids) return;
  const auto first = std::lower_bound(s.layers.begin(), s.layers.end(), layer) - s.layers.begin();
  const size_t layer_bytes = static_cast<size_t>(n_slots) * (s.wide_ids ? 2 : 1);
  s.put_ids(s.original_ids + static_cast<size_t>(first) * layer_bytes, original_ids ? original_ids : ids, n_slots);
}

void TraceWriter::end() {
  State& s = *state_;
  if (!s.open) misuse("expected begin() before end()");
  s.open = false;
  if (s.n_taken != s.n_columns)
    for (const PointAt& at : s.options.points.all())
      if (!s.taken[s.column_of(at.point, at.layer)])
        misuse("expected a value at " + point_name(at.point, at.layer) + ", which is to be recorded, found none");
  if (s.n_taken != s.n_columns) misuse("expected every gradient that is to be recorded, found some without");
  if (!s.extents.empty()) return;
  for (const RowRange& range : s.ranges)
    s.spool->append(range.sample, s.staged.data() + static_cast<size_t>(range.batch_row) * s.row_bytes, range.n_rows);
}

json::Value TraceWriter::settle(int64_t sample) {
  State& s = *state_;
  if (s.open || !s.options.resumable) misuse("expected settle() between the batches of a resumable trace");
  json::Value settled = json::Value::object();
  const auto rows = s.spool->settle(sample);
  settled.set("rows", extents_json(rows)).set("hash", hash_text(s.spool->hash(rows)));
  if (!s.patterns) return settled;
  const auto patterns = s.patterns->settle(sample);
  return settled.set("patterns", extents_json(patterns)).set("patterns_hash", hash_text(s.patterns->hash(patterns)));
}

bool TraceWriter::restore(int64_t sample, const json::Ref& settled) {
  State& s = *state_;
  if (s.spool->n_rows(sample) > 0) misuse("expected restore() of a sample without rows");
  settled.reject_unknown({"rows", "hash", "patterns", "patterns_hash"});
  const std::vector<RowSpool::Extent> rows = extents_of(settled.at("rows"));
  if (hash_text(s.spool->hash(rows)) != settled.at("hash").string()) return false;
  if (s.patterns) {
    const std::vector<RowSpool::Extent> patterns = extents_of(settled.at("patterns"));
    const int64_t n_rows = total(rows);
    if (total(patterns) != PatternSpool::units(0, n_rows) ||
        hash_text(s.patterns->hash(patterns)) != settled.at("patterns_hash").string())
      return false;
    s.patterns->restore(sample, n_rows, patterns);
  }
  s.spool->restore(sample, rows);
  return true;
}

void TraceWriter::sync() {
  state_->spool->sync();
  if (state_->patterns) state_->patterns->sync();
}

void TraceWriter::abandon() {
  state_->open = false;
  state_->lost = true;
}

void TraceWriter::State::write_tensors(AtomicFile& file, std::span<const std::string> ids) {
  const int64_t n_tokens = spool->n_rows();
  std::vector<int64_t> offsets = {0};
  json::Value samples = json::Value::array(), names = json::Value::array();
  for (size_t i = 0; i < ids.size(); ++i) {
    samples.push_back(json::Value(ids[i]));
    offsets.push_back(offsets.back() + spool->n_rows(static_cast<int64_t>(i)));
  }
  for (const std::string& name : options.span_names) names.push_back(json::Value(name));
  std::map<std::string, std::string> metadata;
  for (std::string_view key : run_metadata) metadata.emplace(key, "");
  for (const auto& [key, value] : options.metadata) metadata[key] = value;
  metadata["schema"] = trace_schema;
  metadata["n_experts"] = std::to_string(options.shape.n_experts());
  metadata["n_active"] = std::to_string(options.shape.n_active());
  metadata["samples"] = json::dump(samples);
  metadata["spans"] = json::dump(names);

  for (RowTensor& tensor : tensors) {
    if (tensor.pattern < 0) continue;
    tensor.tail.back() = patterns->longest();
    tensor.bytes = static_cast<size_t>(safetensors::TensorHeader{tensor.name, tensor.dtype, tensor.tail}.bytes());
  }
  std::vector<safetensors::TensorHeader> headers;
  headers.push_back({"sample_offsets", "I64", {static_cast<int64_t>(offsets.size())}});
  for (const std::string& name : options.numbers) {
    if (numbers[name].size() != ids.size()) misuse("expected a number of each sample for " + name);
    headers.push_back({name, "F64", {static_cast<int64_t>(ids.size())}});
  }
  headers.push_back({"layers", "I32", {static_cast<int64_t>(layers.size())}});
  for (const RowTensor& tensor : tensors) {
    std::vector<int64_t> tensor_shape = {n_tokens};
    tensor_shape.insert(tensor_shape.end(), tensor.tail.begin(), tensor.tail.end());
    headers.push_back({tensor.name, tensor.dtype, std::move(tensor_shape)});
  }
  const std::string header = safetensors::make_header(headers, metadata);
  file.write_at(0, header.data(), header.size());
  uint64_t end = header.size();
  file.write_at(end, offsets.data(), offsets.size() * sizeof(int64_t));
  end += offsets.size() * sizeof(int64_t);
  for (const std::string& name : options.numbers) {
    file.write_at(end, numbers[name].data(), numbers[name].size() * sizeof(double));
    end += numbers[name].size() * sizeof(double);
  }
  file.write_at(end, layers.data(), layers.size() * sizeof(int32_t));
  end += layers.size() * sizeof(int32_t);
  std::vector<uint64_t> next;  // where each tensor goes on
  for (const RowTensor& tensor : tensors) {
    next.push_back(end);
    end += tensor.bytes * static_cast<uint64_t>(n_tokens);
  }
  if (patterns) write_patterns(file, next);
  std::vector<std::byte>().swap(staged);
  std::vector<std::byte> buffer(std::max(row_bytes, std::min(chunk_bytes, row_bytes * static_cast<size_t>(n_tokens))));
  std::vector<std::byte> one;
  spool->read_all(buffer, [&](const std::byte* rows, int64_t n) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const RowTensor& tensor = tensors[i];
      if (tensor.pattern >= 0) continue;
      one.resize(tensor.bytes * static_cast<size_t>(n));
      for (int64_t r = 0; r < n; ++r)
        std::memcpy(one.data() + static_cast<size_t>(r) * tensor.bytes,
                    rows + static_cast<size_t>(r) * row_bytes + tensor.offset, tensor.bytes);
      file.write_at(next[i], one.data(), one.size());
      next[i] += one.size();
    }
  });
}

// begin[i]: where tensors[i] begins in the file. Rows are filled up with zeros to the longest sample's length.
void TraceWriter::State::write_patterns(AtomicFile& file, std::span<const uint64_t> begin) {
  struct Out {
    uint64_t next = 0;
    size_t row_floats = 0, capacity = 0;  // of rows
    std::vector<float> rows;
  };
  size_t all = 1;
  for (const RowTensor& tensor : tensors) all += tensor.pattern >= 0 ? tensor.bytes : 0;
  const size_t capacity = std::max<size_t>(1, chunk_bytes / all);
  std::vector<Out> outs(pattern_heads.size());
  for (size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].pattern >= 0)
      outs[static_cast<size_t>(tensors[i].pattern)] = {begin[i], tensors[i].bytes / sizeof(float), capacity, {}};
  const auto flush = [&](Out& out) {
    file.write_at(out.next, out.rows.data(), out.rows.size() * sizeof(float));
    out.next += out.rows.size() * sizeof(float);
    out.rows.clear();
  };
  const int64_t longest = patterns->longest();
  patterns->read_all([&](size_t tensor, const float* row, int64_t n_keys) {
    Out& out = outs[tensor];
    for (int64_t h = 0; h < pattern_heads[tensor]; ++h) {
      out.rows.insert(out.rows.end(), row + h * n_keys, row + (h + 1) * n_keys);
      out.rows.resize(out.rows.size() + static_cast<size_t>(longest - n_keys), 0.f);
    }
    if (out.rows.size() >= out.capacity * out.row_floats) flush(out);
  });
  for (Out& out : outs) flush(out);
}

void TraceWriter::finish(std::span<const std::string> ids, const std::function<json::Value(int64_t)>& record) {
  State& s = *state_;
  if (s.open || s.finished) misuse("expected finish() once, after the last end()");
  if (s.lost) misuse("expected all batches to come to their end, found one that was abandoned");
  if (s.spool->n_samples() > static_cast<int64_t>(ids.size()))
    misuse("expected rows of at most " + std::to_string(ids.size()) + " samples, found " +
           std::to_string(s.spool->n_samples()));
  s.finished = true;
  AtomicFile trace(s.options.dir / trace_file), records(s.options.dir / records_file);
  s.write_tensors(trace, ids);
  for (size_t i = 0; i < ids.size(); ++i) records.write(json::dump(record(static_cast<int64_t>(i))) + "\n");
  // The trace comes last: where it stands, so do its records.
  trace.sync();
  records.commit();
  trace.commit();
  if (!s.options.resumable) return;
  for (const char* spool : {rows_spool, patterns_spool}) {
    std::error_code failed;  // what stays is removed by whoever goes on
    std::filesystem::remove(s.options.dir / spool, failed);
  }
}

}  // namespace signalbox::probes
