#include "eval/causal/map.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/files.h"
#include "base/safetensors.h"
#include "engine/kept_streams.h"
#include "eval/store/staged_files.h"
#include "probes/edit_memory.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

constexpr std::array<std::pair<Without, std::string_view>, 3> kinds_by_name = {
    {{Without::hole, "hole"}, {Without::ban, "ban"}, {Without::mean, "mean"}}};
constexpr const char* map_file = "map.safetensors";
constexpr const char* map_summary = "summary.json";

struct Cell {
  int64_t position = 0, slot = 0;
  int32_t expert = -1;
  float weight = 0;
};

// Whether a token of a record is among those asked for.
bool counts(const MapRequest& request, const EncodedRecord& record, int64_t position) {
  if (position < request.first_position || position >= request.end_position) return false;
  if (request.span.empty()) return true;
  return std::any_of(record.spans.begin(), record.spans.end(), [&](const SpanTokens& span) {
    return span.name == request.span && position >= span.begin && position < span.end;
  });
}

// One record's map.
class RecordMap {
 public:
  RecordMap(const Session& session, const EncodedRecord& record, const Job& job, const MetricRows& rows,
            const MapRequest& request)
      : session_(session),
        backend_(*session.backend),
        record_(record),
        job_(job),
        rows_(rows),
        request_(request),
        n_tokens_(job.n_given()),
        n_slots_(session.model.n_active()),
        pool_(backend_, session.model, blocks()),
        sequence_(pool_),
        whole_(backend_, session.model, session.weights, 0, Buffers::Policy::keep),
        streams_(whole_),
        cells_(backend_, session.model, session.weights, 0) {}

  // False when interrupted.
  bool run(MapResult& result);

  double base = 0;
  std::vector<float> effects;  // [T, L, k]
  std::vector<int32_t> ids;    // [T, L, k]

 private:
  // The sequence itself, and the cells of one step: one of r rows touches at most r / block_size + 2 blocks. A cell
  // alone may have all rows.
  int64_t blocks() const {
    const int64_t of_all = KvPool::blocks_for(n_tokens_);
    return of_all + request_.step_tokens / KvPool::block_size + 2 * cells_a_step() + of_all;
  }
  int64_t cells_a_step() const { return std::min<int64_t>(64, std::max<int64_t>(1, request_.step_tokens / 8)); }
  void run_base();
  std::shared_ptr<const EditPlan> plan(int32_t layer, const Cell& cell) const;
  void run_step(int32_t layer, size_t layer_index, std::span<const Cell> cells, MapResult& result);
  size_t at(int64_t token, size_t layer, int64_t slot) const {
    return (static_cast<size_t>(token) * request_.layers.size() + layer) * static_cast<size_t>(n_slots_) +
           static_cast<size_t>(slot);
  }
  Tensor scratch(std::shared_ptr<void>& memory, int64_t rows, int64_t cols) const {
    memory = backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float)));
    return Tensor(static_cast<float*>(memory.get()), rows, cols);
  }

  const Session& session_;
  Backend& backend_;
  const EncodedRecord& record_;
  const Job& job_;
  const MetricRows& rows_;
  const MapRequest& request_;
  int64_t n_tokens_, n_slots_;
  KvPool pool_;
  SequenceCache sequence_;
  Forward whole_;
  KeptStreams streams_;
  Forward cells_;
  std::vector<float> weights_;  // [T, L, k]
  std::shared_ptr<void> logits_memory_;
  Tensor logits_;  // [n_rows, n_vocab] of the unedited run
};

// Routes as they are handed to a sink: ids and weights of the layers asked for.
class RouteSink : public ProbeSink {
 public:
  RouteSink(const MapRequest& request, int64_t n_slots, std::vector<int32_t>& ids, std::vector<float>& weights)
      : request_(request), n_slots_(n_slots), ids_(ids), weights_(weights) {}
  bool wants(Point point, int32_t layer) const override {
    return (point == Point::router_ids || point == Point::router_weights) &&
           std::binary_search(request_.layers.begin(), request_.layers.end(), layer);
  }
  void begin(const StepRows& rows) override { n_rows_ = rows.n_rows; }
  void take(Point, int32_t layer, const float* data, int64_t width) override { put(weights_, layer, data, width); }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t width) override {
    put(ids_, layer, ids, width);
  }
  void end() override {}

 private:
  template <class T>
  void put(std::vector<T>& to, int32_t layer, const T* from, int64_t width) {
    const size_t n_layers = request_.layers.size();
    const auto index = static_cast<size_t>(std::lower_bound(request_.layers.begin(), request_.layers.end(), layer) -
                                           request_.layers.begin());
    for (int64_t t = 0; t < n_rows_; ++t)
      std::copy_n(from + t * width, width,
                  to.begin() + static_cast<int64_t>((static_cast<size_t>(t) * n_layers + index) *
                                                    static_cast<size_t>(n_slots_)));
  }
  const MapRequest& request_;
  int64_t n_slots_, n_rows_ = 0;
  std::vector<int32_t>& ids_;
  std::vector<float>& weights_;
};

void RecordMap::run_base() {
  const size_t n = static_cast<size_t>(n_tokens_) * request_.layers.size() * static_cast<size_t>(n_slots_);
  ids.assign(n, -1);
  weights_.assign(n, 0.f);
  effects.assign(n, std::numeric_limits<float>::quiet_NaN());
  Batch batch;
  batch.append(sequence_, nullptr, 0, job_.prompt->tokens, job_.prompt->spans, n_tokens_, rows_.n_rows());
  RouteSink sink(request_, n_slots_, ids, weights_);
  const Outputs outputs = whole_.run(batch, &sink);
  whole_.flush(sink);
  logits_ = scratch(logits_memory_, outputs.logits.rows, outputs.logits.cols);
  backend_.copy(logits_.data, outputs.logits.data, static_cast<size_t>(logits_.rows * logits_.cols) * sizeof(float));
  base = metric_value(backend_, rows_, logits_, logits_);
}

std::shared_ptr<const EditPlan> RecordMap::plan(int32_t layer, const Cell& cell) const {
  const std::string layers = std::to_string(layer);
  json::Value edit = json::Value::object(), experts = json::Value::array(), edits = json::Value::array();
  experts.push_back(int64_t{cell.expert});
  EditMemory memory;
  if (request_.without == Without::mean) {
    const std::vector<double>& mean = request_.mean_contribution(layer, cell.expert);
    EditMemory::Vector output{{static_cast<int64_t>(mean.size())}, {}};
    for (const double x : mean) output.values.push_back(static_cast<float>(x / static_cast<double>(cell.weight)));
    memory.add("mean", std::move(output));
    edit.set("op", "ablate").set("point", "expert.out").set("value", "memory:mean");
  } else if (request_.without == Without::ban) {
    edit.set("op", "deactivate").set("mode", "ban");
  } else {
    edit.set("op", "scale_expert").set("by", 0);
  }
  edit.set("layers", layers).set("experts", std::move(experts));
  edit.set("tokens", json::Value::object().set(
                         "positions", std::to_string(cell.position) + ":" + std::to_string(cell.position + 1)));
  edits.push_back(std::move(edit));
  return EditPlan::parse(json::Ref(edits, "edits"), ".", session_.shape, 0, &memory);
}

// Cells of one layer, each a sequence of its own from its token on.
void RecordMap::run_step(int32_t layer, size_t layer_index, std::span<const Cell> cells, MapResult& result) {
  const Tensor base_stream = streams_.at(layer);
  const int64_t d_model = session_.model.d_model;
  std::vector<SequenceCache> forks;
  forks.reserve(cells.size());
  std::vector<std::shared_ptr<const BoundEdits>> bound;
  Batch batch;
  int64_t n_rows = 0;
  for (const Cell& cell : cells) n_rows += n_tokens_ - cell.position;
  std::shared_ptr<void> memory;
  const Tensor x = scratch(memory, n_rows, d_model);
  int64_t row = 0;
  for (const Cell& cell : cells) {
    const int64_t count = n_tokens_ - cell.position;
    forks.push_back(sequence_.fork(cell.position));
    bound.push_back(plan(layer, cell)->bind(sequence_info(job_)));
    const std::span<const int32_t> tokens = std::span(job_.prompt->tokens).subspan(static_cast<size_t>(cell.position));
    batch.append(forks.back(), bound.back().get(), 0, tokens, {}, n_tokens_, std::min(count, rows_.n_rows()));
    backend_.copy(x.row(row), base_stream.row(cell.position), static_cast<size_t>(count * d_model) * sizeof(float));
    row += count;
  }
  const Outputs outputs = cells_.run_from(batch, layer, x, nullptr);
  std::shared_ptr<void> own_memory;
  const Tensor own = scratch(own_memory, logits_.rows, logits_.cols);
  const size_t row_bytes = static_cast<size_t>(logits_.cols) * sizeof(float);
  int64_t from = 0;
  for (const Cell& cell : cells) {
    const int64_t count = std::min(n_tokens_ - cell.position, rows_.n_rows()), kept = rows_.n_rows() - count;
    // Rows before the token are those of the unedited run.
    if (kept > 0) backend_.copy(own.data, logits_.data, static_cast<size_t>(kept) * row_bytes);
    backend_.copy(own.row(kept), outputs.logits.row(from), static_cast<size_t>(count) * row_bytes);
    from += count;
    effects[at(cell.position, layer_index, cell.slot)] =
        static_cast<float>(metric_value(backend_, rows_, own, logits_) - base);
  }
  result.layers_run += static_cast<double>(n_rows) * static_cast<double>(session_.model.n_layers() - layer);
  result.layers_of_brute_force += static_cast<double>(cells.size()) * static_cast<double>(n_tokens_) *
                                  static_cast<double>(session_.model.n_layers());
}

bool RecordMap::run(MapResult& result) {
  run_base();
  for (size_t i = 0; i < request_.layers.size(); ++i) {
    std::vector<Cell> todo;
    for (int64_t t = 0; t < n_tokens_; ++t) {
      if (!counts(request_, record_, t)) continue;
      for (int64_t slot = 0; slot < n_slots_; ++slot) {
        const int32_t expert = ids[at(t, i, slot)];
        const float weight = weights_[at(t, i, slot)];
        // What weighs nothing has no output with which it would give its mean.
        if (expert < 0 || (request_.without == Without::mean && weight == 0)) continue;
        todo.push_back({t, slot, expert, weight});
      }
    }
    for (size_t begin = 0; begin < todo.size();) {
      if (request_.interrupted && *request_.interrupted) return false;
      size_t end = begin;
      int64_t rows = 0;
      while (end < todo.size() && static_cast<int64_t>(end - begin) < cells_a_step() &&
             (end == begin || rows + n_tokens_ - todo[end].position <= request_.step_tokens)) {
        rows += n_tokens_ - todo[end].position;
        ++end;
      }
      run_step(request_.layers[i], i, std::span(todo).subspan(begin, end - begin), result);
      result.cells += static_cast<int64_t>(end - begin);
      if (request_.on_progress) request_.on_progress(result.cells);
      begin = end;
    }
  }
  return true;
}

template <class T>
void put(safetensors::Writer& file, const std::vector<T>& values) {
  file.write(values.data(), values.size() * sizeof(T));
}

}  // namespace

Without parse_without(std::string_view name, const std::string& where) {
  for (const auto& [without, known] : kinds_by_name)
    if (known == name) return without;
  throw Error(where, "expected hole, ban or mean, found \"" + std::string(name) + "\"");
}

std::string_view without_name(Without without) { return kinds_by_name[static_cast<size_t>(without)].second; }

int64_t count_cells(const Session& session, const RecordJobs& made, const MapRequest& request) {
  int64_t tokens = 0;
  for (size_t i = 0; i < made.jobs.size(); ++i)
    for (int64_t t = 0; t < made.jobs[i].n_given(); ++t) tokens += counts(request, made.encoded[i], t);
  int64_t slots = 0;
  for (const int32_t layer : request.layers)
    slots += session.model.layers[static_cast<size_t>(layer)].moe()->router.n_active;
  return tokens * slots;
}

MapResult map_effects(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                      const MapRequest& request) {
  const std::vector<Job>& jobs = made.jobs;
  std::vector<MetricRows> rows;
  for (size_t i = 0; i < jobs.size(); ++i)
    rows.push_back(metric_rows(request.metric, records[i], made.encoded[i], session.encode));
  std::error_code failed;
  std::filesystem::create_directories(request.dir, failed);
  if (failed) throw Error(request.dir.string(), "cannot make the directory: " + failed.message());
  require_own_directory(request.dir, {map_file, map_summary, records_file}, "a map");
  MapResult result;
  std::vector<int64_t> offsets(1, 0);
  std::vector<double> base;
  std::vector<int32_t> tokens, ids;
  std::vector<float> effects;
  for (size_t i = 0; i < jobs.size(); ++i) {
    RecordMap map(session, made.encoded[i], jobs[i], rows[i], request);
    if (!map.run(result)) {
      result.interrupted = true;
      return result;
    }
    base.push_back(map.base);
    tokens.insert(tokens.end(), jobs[i].prompt->tokens.begin(), jobs[i].prompt->tokens.end());
    ids.insert(ids.end(), map.ids.begin(), map.ids.end());
    effects.insert(effects.end(), map.effects.begin(), map.effects.end());
    offsets.push_back(static_cast<int64_t>(tokens.size()));
  }
  const int64_t n = offsets.back(), n_layers = static_cast<int64_t>(request.layers.size()),
                k = session.model.n_active();
  const bool wide = session.model.n_experts() >= 256;
  json::Value samples = json::Value::array();
  for (const Job& job : jobs) samples.push_back(job.prompt->id);
  const safetensors::TensorHeader headers[] = {{"sample_offsets", "I64", {static_cast<int64_t>(offsets.size())}},
                                               {"base", "F64", {static_cast<int64_t>(base.size())}},
                                               {"effect", "F32", {n, n_layers, k}},
                                               {"tokens", "I32", {n}},
                                               {"layers", "I32", {n_layers}},
                                               {"router.ids", wide ? "U16" : "U8", {n, n_layers, k}}};
  safetensors::Writer file(request.dir / map_file, headers,
                           {{"schema", "signalbox.map/1"},
                            {"samples", json::dump(samples)},
                            {"metric", std::string(metric_name(request.metric))},
                            {"without", std::string(without_name(request.without))},
                            {"model", session.label},
                            {"model_hash", session.model_hash},
                            {"n_experts", std::to_string(session.model.n_experts())},
                            {"n_active", std::to_string(k)}});
  put(file, offsets);
  put(file, base);
  put(file, effects);
  put(file, tokens);
  put(file, request.layers);
  if (wide)
    put(file, std::vector<uint16_t>(ids.begin(), ids.end()));
  else
    put(file, std::vector<uint8_t>(ids.begin(), ids.end()));
  AtomicFile lines(request.dir / records_file);
  for (const Record& record : records) lines.write(json::dump(record.source) + "\n");
  lines.commit();
  file.finish();
  json::Value layers = json::Value::array();
  for (const int32_t layer : request.layers) layers.push_back(int64_t{layer});
  write_file_atomically(
      request.dir / map_summary,
      json::dump(json::Value::object()
                     .set("schema", "signalbox.map/1")
                     .set("metric", std::string(metric_name(request.metric)))
                     .set("without", std::string(without_name(request.without)))
                     .set("model", session.label)
                     .set("model_hash", session.model_hash)
                     .set("records", static_cast<int64_t>(jobs.size()))
                     .set("layers", std::move(layers))
                     .set("span", request.span)
                     .set("cells", result.cells)
                     .set("share_of_brute_force",
                          result.layers_of_brute_force > 0 ? result.layers_run / result.layers_of_brute_force : 0.0)) +
          "\n");
  return result;
}

}  // namespace signalbox::eval
