#include "eval/causal/cell_runner.h"

#include <algorithm>

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

// Counts routes of a step's cells that are not those of the unedited run. The sample of a row is its cell.
class FlipSink : public ProbeSink {
 public:
  FlipSink(const ActivationStore& base, int32_t first_layer, size_t n_cells)
      : base_(base), ids_(base.ids(base.rows(0))), first_layer_(first_layer), flipped_(n_cells) {}
  bool wants(Point point, int32_t layer) const override { return point == Point::router_ids && layer >= first_layer_; }
  void begin(const StepRows& rows) override { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }
  void take(Point, int32_t, const float*, int64_t) override {}
  void take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) override {
    const auto k = static_cast<size_t>(n_slots), n_layers = base_.layers().size(),
               place = static_cast<size_t>(*base_.layer_index(layer));
    for (const RowRange& range : ranges_)
      for (int64_t r = 0; r < range.n_rows; ++r) {
        const int32_t* is = ids + (range.batch_row + r) * n_slots;
        const auto was =
            ids_.begin() + static_cast<ptrdiff_t>((static_cast<size_t>(range.first_row + r) * n_layers + place) * k);
        flipped_[static_cast<size_t>(range.sample)] += !std::is_permutation(is, is + n_slots, was);
      }
  }
  void end() override {}
  const std::vector<int64_t>& flipped() const { return flipped_; }  // [cells]

 private:
  const ActivationStore& base_;
  std::vector<int32_t> ids_;
  int32_t first_layer_;
  std::vector<RowRange> ranges_;
  std::vector<int64_t> flipped_;
};

}  // namespace

CellRunner::CellRunner(const Session& session, const Job& job, const MetricRows& rows, const std::string& globs,
                       int64_t step_tokens, int64_t step_cells, std::shared_ptr<const EditPlan> plan)
    : session_(session),
      backend_(*session.backend),
      job_(job),
      rows_(rows),
      step_tokens_(step_tokens),
      step_cells_(step_cells),
      pool_(backend_, session.model, blocks()),
      sequence_(pool_),
      cells_(backend_, session.model, session.weights, 0) {
  const std::string all = "*.router.ids,*.router.weights,*.resid_in," +
                          point_name(Point::resid_out, session.shape.n_layers() - 1) +
                          (globs.empty() ? "" : "," + globs);
  base_ = record_run(session, job, rows.n_rows(), PointSet::parse(all, session.shape), "target", plan.get(), sequence_);
  measure_against({});
}

int64_t CellRunner::blocks() const {
  const int64_t of_all = KvPool::blocks_for(n_tokens());
  return of_all + step_tokens_ / KvPool::block_size + 2 * step_cells_ + of_all;
}

void CellRunner::measure_against(Tensor reference) {
  reference_ = reference ? reference : base_.logits;
  value_ = metric_value(backend_, rows_, base_.logits, reference_);
}

int64_t CellRunner::routed_layers(int32_t first) const {
  const std::vector<int32_t> moe = session_.model.moe_layers();
  return std::count_if(moe.begin(), moe.end(), [&](int32_t l) { return l >= first; });
}

std::span<const float> CellRunner::stream(int32_t entry, int64_t position) const {
  const int32_t n_layers = session_.shape.n_layers();
  return entry < n_layers ? base_.store->row(Point::resid_in, entry, 0, position)
                          : base_.store->row(Point::resid_out, n_layers - 1, 0, position);
}

std::pair<std::shared_ptr<void>, Tensor> CellRunner::scratch(int64_t rows, int64_t cols) const {
  auto memory = backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float)));
  const Tensor tensor(static_cast<float*>(memory.get()), rows, cols);
  return {std::move(memory), tensor};
}

size_t CellRunner::step_end(std::span<const int64_t> firsts, size_t begin) const {
  size_t end = begin;
  int64_t n_rows = 0;
  while (end < firsts.size() && static_cast<int64_t>(end - begin) < step_cells_ &&
         (end == begin || n_rows + n_tokens() - firsts[end] <= step_tokens_)) {
    n_rows += n_tokens() - firsts[end];
    ++end;
  }
  return end;
}

std::vector<CellEffect> CellRunner::run(int32_t entry, int32_t first_route, std::span<const RunCell> cells) {
  const int64_t d_model = session_.model.d_model, n = n_tokens();
  std::vector<SequenceCache> forks;
  forks.reserve(cells.size());
  std::vector<std::shared_ptr<const BoundEdits>> bound;
  Batch batch;
  std::vector<float> rows;
  for (size_t i = 0; i < cells.size(); ++i) {
    const RunCell& cell = cells[i];
    const auto begin = static_cast<ptrdiff_t>(rows.size());
    for (int64_t t = cell.first; t < n; ++t) {
      const std::span<const float> own = stream(entry, t);
      rows.insert(rows.end(), own.begin(), own.end());
    }
    for (size_t p = 0; p < cell.positions.size(); ++p)
      std::copy_n(cell.rows.begin() + static_cast<ptrdiff_t>(p) * d_model, d_model,
                  rows.begin() + begin + (cell.positions[p] - cell.first) * d_model);
    bound.push_back(cell.plan ? cell.plan->bind(sequence_info(job_)) : nullptr);
    forks.push_back(sequence_.fork(cell.first));
    const std::span<const int32_t> tokens = std::span(job_.prompt->tokens).subspan(static_cast<size_t>(cell.first));
    batch.append(forks.back(), bound.back().get(), static_cast<int64_t>(i), tokens, {}, n,
                 std::min(n - cell.first, rows_.n_rows()));
  }
  const auto n_rows = static_cast<int64_t>(rows.size()) / d_model;
  const auto [memory, x] = scratch(n_rows, d_model);
  backend_.upload(x.data, rows.data(), rows.size() * sizeof(float));
  FlipSink flips(*base_.store, first_route, cells.size());
  const Outputs outputs = cells_.run_from(batch, entry, x, &flips);
  cells_.flush(flips);
  const auto [own_memory, own] = scratch(base_.logits.rows, base_.logits.cols);
  const size_t row_bytes = static_cast<size_t>(own.cols) * sizeof(float);
  std::vector<CellEffect> effects;
  int64_t from = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    const int64_t count = std::min(n - cells[i].first, rows_.n_rows()), kept = rows_.n_rows() - count;
    // Rows before the first changed token are those of the unedited run.
    if (kept > 0) backend_.copy(own.data, base_.logits.data, static_cast<size_t>(kept) * row_bytes);
    backend_.copy(own.row(kept), outputs.logits.row(from), static_cast<size_t>(count) * row_bytes);
    from += count;
    effects.push_back({metric_value(backend_, rows_, own, reference_) - value_, flips.flipped()[i]});
  }
  layers_run_ += static_cast<double>(n_rows) * static_cast<double>(session_.shape.n_layers() - entry);
  layers_of_brute_force_ +=
      static_cast<double>(cells.size()) * static_cast<double>(n) * static_cast<double>(session_.shape.n_layers());
  return effects;
}

}  // namespace signalbox::eval
