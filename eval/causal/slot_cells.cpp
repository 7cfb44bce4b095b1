#include "eval/causal/slot_cells.h"

#include <algorithm>

#include "probes/edit_memory.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

// Routes of the layers with a router, as they are handed over: ids ascending within a route, so that equal sets are
// equal; of the map's layers ids and weights in the order of slots.
class RouteSink : public ProbeSink {
 public:
  RouteSink(const std::vector<int32_t>& routed, int64_t n_slots) : routed_(routed), n_slots_(n_slots) {}
  bool wants(Point point, int32_t layer) const override { return point == Point::router_ids && place(layer) >= 0; }
  void begin(const StepRows& rows) override {
    n_rows_ = rows.n_rows;
    sets.assign(static_cast<size_t>(n_rows_ * n_slots_) * routed_.size(), -1);
  }
  void take(Point, int32_t, const float*, int64_t) override {}
  void take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t width) override {
    for (int64_t t = 0; t < n_rows_; ++t) {
      int32_t* to = set(t, place(layer));
      std::copy_n(ids + t * width, std::min(width, n_slots_), to);
      std::sort(to, to + n_slots_);
    }
  }
  void end() override {}

  std::vector<int32_t> sets;  // [rows, routed, k]

 protected:
  int64_t place(int32_t layer) const {
    const auto found = std::lower_bound(routed_.begin(), routed_.end(), layer);
    return found == routed_.end() || *found != layer ? -1 : found - routed_.begin();
  }
  int32_t* set(int64_t row, int64_t place) {
    return sets.data() + (row * static_cast<int64_t>(routed_.size()) + place) * n_slots_;
  }
  const std::vector<int32_t>& routed_;
  int64_t n_slots_, n_rows_ = 0;
};

class BaseRoutes : public RouteSink {
 public:
  BaseRoutes(const std::vector<int32_t>& routed, const std::vector<int32_t>& layers, int64_t n_slots, int64_t n_tokens)
      : RouteSink(routed, n_slots), layers_(layers) {
    ids.assign(static_cast<size_t>(n_tokens * n_slots) * layers.size(), -1);
    weights.assign(ids.size(), 0.f);
  }
  bool wants(Point point, int32_t layer) const override {
    return RouteSink::wants(point, layer) ||
           (point == Point::router_weights && std::binary_search(layers_.begin(), layers_.end(), layer));
  }
  void take(Point, int32_t layer, const float* data, int64_t width) override { put(weights, layer, data, width); }
  void take_ids(int32_t layer, const int32_t* data, const int32_t* original, int64_t width) override {
    RouteSink::take_ids(layer, data, original, width);
    if (std::binary_search(layers_.begin(), layers_.end(), layer)) put(ids, layer, data, width);
  }
  std::vector<int32_t> ids;    // [T, L, k]
  std::vector<float> weights;  // [T, L, k]

 private:
  template <class T>
  void put(std::vector<T>& to, int32_t layer, const T* from, int64_t width) {
    const auto index = std::lower_bound(layers_.begin(), layers_.end(), layer) - layers_.begin();
    for (int64_t t = 0; t < n_rows_; ++t)
      std::copy_n(from + t * width, width, to.begin() + (t * static_cast<int64_t>(layers_.size()) + index) * n_slots_);
  }
  const std::vector<int32_t>& layers_;
};

// The stream behind one layer, [rows, d_model].
class StreamSink : public ProbeSink {
 public:
  explicit StreamSink(int32_t layer) : layer_(layer) {}
  bool wants(Point point, int32_t layer) const override { return point == Point::resid_out && layer == layer_; }
  void begin(const StepRows& rows) override { n_rows_ = rows.n_rows; }
  void take(Point, int32_t, const float* data, int64_t width) override { stream.assign(data, data + n_rows_ * width); }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}

  std::vector<float> stream;

 private:
  int32_t layer_;
  int64_t n_rows_ = 0;
};

}  // namespace

SlotCells::SlotCells(const Session& session, const Job& job, const MetricRows& rows, const MapRequest& request)
    : session_(session),
      backend_(*session.backend),
      job_(job),
      rows_(rows),
      request_(request),
      routed_(session.model.moe_layers()),
      n_tokens_(job.n_given()),
      n_slots_(session.model.n_active()),
      pool_(backend_, session.model, blocks()),
      sequence_(pool_),
      whole_(backend_, session.model, session.weights, 0, Buffers::Policy::keep),
      streams_(whole_),
      cells_(backend_, session.model, session.weights, 0) {
  run_base();
}

int64_t SlotCells::blocks() const {
  const int64_t of_all = KvPool::blocks_for(n_tokens_);
  return of_all + request_.step_tokens / KvPool::block_size + 2 * request_.step_cells + of_all;
}

size_t SlotCells::at(const SlotCell& cell) const {
  return (static_cast<size_t>(cell.position) * request_.layers.size() + cell.layer) * static_cast<size_t>(n_slots_) +
         static_cast<size_t>(cell.slot);
}

Tensor SlotCells::scratch(std::shared_ptr<void>& memory, int64_t rows, int64_t cols) const {
  memory = backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float)));
  return Tensor(static_cast<float*>(memory.get()), rows, cols);
}

bool SlotCells::can_take(const SlotCell& cell) const {
  return ids_[at(cell)] >= 0 && (request_.without != Without::mean || weights_[at(cell)] != 0);
}

void SlotCells::run_base() {
  Batch batch;
  batch.append(sequence_, nullptr, 0, job_.prompt->tokens, job_.prompt->spans, n_tokens_, rows_.n_rows());
  BaseRoutes sink(routed_, request_.layers, n_slots_, n_tokens_);
  const Outputs outputs = whole_.run(batch, &sink);
  whole_.flush(sink);
  ids_ = std::move(sink.ids);
  weights_ = std::move(sink.weights);
  routes_ = std::move(sink.sets);
  logits_ = scratch(logits_memory_, outputs.logits.rows, outputs.logits.cols);
  backend_.copy(logits_.data, outputs.logits.data, static_cast<size_t>(logits_.rows * logits_.cols) * sizeof(float));
  base_ = metric_value(backend_, rows_, logits_, logits_);
}

std::shared_ptr<const EditPlan> SlotCells::plan(const SlotCell& cell) const {
  const int32_t layer = request_.layers[cell.layer], expert = ids_[at(cell)];
  json::Value edit = json::Value::object(), experts = json::Value::array(), edits = json::Value::array();
  experts.push_back(int64_t{expert});
  EditMemory memory;
  if (request_.without == Without::mean) {
    const std::vector<double>& mean = request_.mean_contribution(layer, expert);
    EditMemory::Vector output{{static_cast<int64_t>(mean.size())}, {}};
    for (const double x : mean)
      output.values.push_back(static_cast<float>(x / static_cast<double>(weights_[at(cell)])));
    memory.add("mean", std::move(output));
    edit.set("op", "ablate").set("point", "expert.out").set("value", "memory:mean");
  } else if (request_.without == Without::ban) {
    edit.set("op", "deactivate").set("mode", "ban");
  } else {
    edit.set("op", "scale_expert").set("by", 0);
  }
  edit.set("layers", std::to_string(layer)).set("experts", std::move(experts));
  edit.set("tokens", json::Value::object().set(
                         "positions", std::to_string(cell.position) + ":" + std::to_string(cell.position + 1)));
  edits.push_back(std::move(edit));
  return EditPlan::parse(json::Ref(edits, "edits"), ".", session_.shape, 0, &memory);
}

// The layer of the cells, of their own tokens alone: later ones read nothing of it there that changes. Gives the stream
// behind it, [cells, d_model]; behind the last layer nothing, and each cell is done.
std::vector<float> SlotCells::run_own_layer(std::span<const SlotCell> cells, size_t first, const Done& done) {
  const int32_t layer = request_.layers[cells.front().layer];
  const bool last = layer + 1 == session_.model.n_layers();
  const int64_t d_model = session_.model.d_model, first_row = n_tokens_ - rows_.n_rows();
  std::vector<SequenceCache> forks;
  forks.reserve(cells.size());
  std::vector<std::shared_ptr<const BoundEdits>> bound;
  Batch batch;
  std::shared_ptr<void> memory;
  const Tensor x = scratch(memory, static_cast<int64_t>(cells.size()), d_model), stream = streams_.at(layer);
  for (size_t i = 0; i < cells.size(); ++i) {
    const int64_t t = cells[i].position;
    forks.push_back(sequence_.fork(t));
    bound.push_back(plan(cells[i])->bind(sequence_info(job_)));
    batch.append(forks.back(), bound.back().get(), 0, std::span(job_.prompt->tokens).subspan(static_cast<size_t>(t), 1),
                 {}, n_tokens_, last && t >= first_row ? 1 : 0);
    backend_.copy(x.row(static_cast<int64_t>(i)), stream.row(t), static_cast<size_t>(d_model) * sizeof(float));
  }
  StreamSink behind(layer);
  const Outputs outputs = cells_.run_from(batch, layer, x, last ? nullptr : &behind);
  if (!last) {
    cells_.flush(behind);
    return std::move(behind.stream);
  }
  std::shared_ptr<void> own_memory;
  const Tensor own = scratch(own_memory, logits_.rows, logits_.cols);
  const size_t row_bytes = static_cast<size_t>(logits_.cols) * sizeof(float);
  int64_t from = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    backend_.copy(own.data, logits_.data, static_cast<size_t>(logits_.rows) * row_bytes);
    if (const int64_t row = cells[i].position - first_row; row >= 0)
      backend_.copy(own.row(row), outputs.logits.row(from++), row_bytes);
    done(first + i, static_cast<float>(metric_value(backend_, rows_, own, logits_) - base_), 0);
  }
  return {};
}

// Cells of one layer, each a sequence of its own from its token on, and in the layers above.
void SlotCells::run_step(std::span<const SlotCell> cells, size_t first, const Done& done) {
  const std::vector<float> changed = run_own_layer(cells, first, done);
  if (changed.empty()) return;
  const int32_t layer = request_.layers[cells.front().layer];
  const Tensor base_stream = streams_.at(layer + 1);
  const int64_t d_model = session_.model.d_model;
  std::vector<SequenceCache> forks;
  forks.reserve(cells.size());
  Batch batch;
  int64_t n_rows = 0;
  for (const SlotCell& cell : cells) n_rows += n_tokens_ - cell.position;
  std::shared_ptr<void> memory;
  const Tensor x = scratch(memory, n_rows, d_model);
  const size_t stream_bytes = static_cast<size_t>(d_model) * sizeof(float);
  int64_t row = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    const int64_t t = cells[i].position, count = n_tokens_ - t;
    forks.push_back(sequence_.fork(t));
    batch.append(forks.back(), nullptr, 0, std::span(job_.prompt->tokens).subspan(static_cast<size_t>(t)), {},
                 n_tokens_, std::min(count, rows_.n_rows()));
    backend_.upload(x.row(row), changed.data() + static_cast<int64_t>(i) * d_model, stream_bytes);
    if (count > 1) backend_.copy(x.row(row + 1), base_stream.row(t + 1), static_cast<size_t>(count - 1) * stream_bytes);
    row += count;
  }
  const auto above = std::upper_bound(routed_.begin(), routed_.end(), layer);
  const std::vector<int32_t> later(above, routed_.end());
  RouteSink routes(later, n_slots_);
  const Outputs outputs = cells_.run_from(batch, layer + 1, x, later.empty() ? nullptr : &routes);
  if (!later.empty()) cells_.flush(routes);
  std::shared_ptr<void> own_memory;
  const Tensor own = scratch(own_memory, logits_.rows, logits_.cols);
  const size_t row_bytes = static_cast<size_t>(logits_.cols) * sizeof(float);
  const int64_t width = static_cast<int64_t>(later.size()) * n_slots_,
                all = static_cast<int64_t>(routed_.size()) * n_slots_;
  int64_t from = 0, from_row = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    const int64_t n_own = n_tokens_ - cells[i].position, count = std::min(n_own, rows_.n_rows()),
                  kept = rows_.n_rows() - count;
    // Rows before the token are those of the unedited run.
    if (kept > 0) backend_.copy(own.data, logits_.data, static_cast<size_t>(kept) * row_bytes);
    backend_.copy(own.row(kept), outputs.logits.row(from), static_cast<size_t>(count) * row_bytes);
    from += count;
    int32_t flips = 0;
    for (int64_t t = 0; t < n_own && !later.empty(); ++t) {
      const int32_t* is = routes.sets.data() + (from_row + t) * width;
      const int32_t* was = routes_.data() + (cells[i].position + t + 1) * all - width;
      for (int64_t set = 0; set < width; set += n_slots_)
        flips += !std::equal(is + set, is + set + n_slots_, was + set);
    }
    from_row += n_own;
    done(first + i, static_cast<float>(metric_value(backend_, rows_, own, logits_) - base_), flips);
  }
}

bool SlotCells::run(std::span<const SlotCell> cells, const Done& done) {
  for (size_t begin = 0; begin < cells.size();) {
    if (request_.interrupted && *request_.interrupted) return false;
    size_t end = begin;
    int64_t rows = 0;
    while (end < cells.size() && cells[end].layer == cells[begin].layer &&
           static_cast<int64_t>(end - begin) < request_.step_cells &&
           (end == begin || rows + n_tokens_ - cells[end].position <= request_.step_tokens)) {
      rows += n_tokens_ - cells[end].position;
      ++end;
    }
    run_step(cells.subspan(begin, end - begin), begin, done);
    begin = end;
  }
  return true;
}

}  // namespace signalbox::eval
