#include "eval/causal/patch.h"

#include <algorithm>

#include "base/error.h"
#include "engine/receivers.h"
#include "eval/causal/exchanged_point.h"
#include "eval/causal/recorded_run.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

// One exchange: a unit at one position, or (position -1) at all that are taken.
struct PatchCell {
  PatchUnit unit;
  int64_t position = -1;
  int64_t first = 0;  // the first token that changes
  size_t row = 0;     // of PatchedPair::rows
};

// Positions of the source run by those of the target run, -1 where nothing is exchanged.
std::vector<int32_t> exchanged_positions(const CausalPair& pair, const RecordJobs& made, const PatchRequest& request) {
  const size_t target = request.denoising ? pair.corrupt : pair.clean;
  std::vector<int32_t> source_of(static_cast<size_t>(made.jobs[target].n_given()), -1);
  const std::vector<SpanTokens>& spans = made.encoded[pair.clean].spans;
  for (const auto& [clean, corrupt] : pair.map) {
    if (clean < request.first_position || clean >= request.end_position) continue;
    const int32_t position = clean;
    if (!request.span.empty() && std::none_of(spans.begin(), spans.end(), [&](const SpanTokens& span) {
          return span.name == request.span && position >= span.begin && position < span.end;
        }))
      continue;
    source_of[static_cast<size_t>(request.denoising ? corrupt : clean)] = request.denoising ? clean : corrupt;
  }
  return source_of;
}

// The same of all positions that stand for one another.
std::vector<int32_t> standing_for(const CausalPair& pair, int64_t n_tokens, bool denoising) {
  std::vector<int32_t> source_of(static_cast<size_t>(n_tokens), -1);
  for (const std::array<int32_t, 2>& entry : pair.map)
    source_of[static_cast<size_t>(entry[denoising ? 1 : 0])] = entry[denoising ? 0 : 1];
  return source_of;
}

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

class PairPatch {
 public:
  PairPatch(const Session& session, const RecordJobs& made, const CausalPair& pair, const PatchRequest& request)
      : session_(session),
        backend_(*session.backend),
        request_(request),
        pair_(pair),
        job_(made.jobs[request.denoising ? pair.corrupt : pair.clean]),
        source_job_(made.jobs[request.denoising ? pair.clean : pair.corrupt]),
        rows_(request.denoising ? pair.corrupt_rows : pair.clean_rows),
        source_of_(exchanged_positions(pair, made, request)),
        n_tokens_(job_.n_given()),
        stands_for_(standing_for(pair, n_tokens_, request.denoising)),
        pool_(backend_, session.model, blocks()),
        sequence_(pool_),
        receivers_(backend_, session.model, session.weights),
        cells_(backend_, session.model, session.weights, 0) {}

  PatchedPair run(int64_t done);

 private:
  // As causal map's: the sequence itself, and the cells of one step.
  int64_t blocks() const {
    const int64_t of_all = KvPool::blocks_for(n_tokens_);
    return of_all + request_.step_tokens / KvPool::block_size + 2 * cells_a_step() + of_all;
  }
  int64_t cells_a_step() const { return std::min<int64_t>(64, std::max<int64_t>(1, request_.step_tokens / 8)); }
  std::vector<PatchUnit> units(const ExchangedPoint& point) const;
  std::vector<PatchCell> cells(const ExchangedPoint& point, size_t index);
  void run_step(ExchangedPoint& point, const PatchPlace& place, std::span<const PatchCell> cells);
  std::span<const float> stream(int32_t entry, int64_t position) const {
    const int32_t n_layers = session_.shape.n_layers();
    return entry < n_layers ? target_.store->row(Point::resid_in, entry, 0, position)
                            : target_.store->row(Point::resid_out, n_layers - 1, 0, position);
  }
  std::pair<std::shared_ptr<void>, Tensor> scratch(int64_t rows, int64_t cols) const {
    auto memory = backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float)));
    const Tensor tensor(static_cast<float*>(memory.get()), rows, cols);
    return {std::move(memory), tensor};
  }
  Tensor reference() const { return request_.denoising ? source_.logits : target_.logits; }

  const Session& session_;
  Backend& backend_;
  const PatchRequest& request_;
  const CausalPair& pair_;
  const Job &job_, &source_job_;
  const MetricRows& rows_;
  std::vector<int32_t> source_of_;
  int64_t n_tokens_;
  std::vector<int32_t> stands_for_;
  KvPool pool_;
  SequenceCache sequence_;
  Receivers receivers_;
  Forward cells_;
  RecordedRun target_, source_;
  double base_ = 0;
  PatchedPair result_;
};

// The units taken of a point: one that is all of it under `position` and `whole`.
std::vector<PatchUnit> PairPatch::units(const ExchangedPoint& point) const {
  const bool apart = request_.by == PatchBy::unit || request_.by == PatchBy::both || request_.by == PatchBy::natural;
  if (!apart || !has_patch_units(point.at().point)) return {PatchUnit()};
  std::vector<PatchUnit> units = point.units();
  if (!request_.units.empty())
    std::erase_if(units, [&](const PatchUnit& unit) {
      return std::none_of(request_.units.begin(), request_.units.end(),
                          [&](int32_t wanted) { return std::to_string(wanted) == unit.name; });
    });
  if (point.at().point != Point::expert_hidden || request_.neurons.empty()) return units;
  std::vector<PatchUnit> neurons;
  for (const PatchUnit& unit : units)
    for (const int32_t j : request_.neurons)
      neurons.push_back({unit.name + ":" + std::to_string(j), unit.expert, j, 1});
  return neurons;
}

std::vector<PatchCell> PairPatch::cells(const ExchangedPoint& point, size_t index) {
  const bool by_position = request_.by == PatchBy::position || request_.by == PatchBy::both ||
                           (request_.by == PatchBy::natural && !has_patch_units(point.at().point));
  const PatchPlace place = patch_place(point.at(), session_.shape);
  int64_t routed_layers = 0;
  for (const int32_t l : session_.model.moe_layers()) routed_layers += l >= place.first_route;
  std::vector<PatchCell> todo;
  const auto add = [&](const PatchUnit& unit, int64_t position, const std::string& name, int64_t first_taken,
                       int64_t first_changed) {
    PatchRow row;
    row.point = index;
    row.unit = name;
    row.routes = (n_tokens_ - first_taken) * routed_layers;
    ++result_.cells;
    if (first_changed < 0)
      ++result_.unchanged;
    else
      todo.push_back({unit, position, first_changed, result_.rows.size()});
    result_.rows.push_back(row);
  };
  for (const PatchUnit& unit : units(point)) {
    int64_t first_taken = -1, first_changed = -1;
    for (int64_t t = 0; t < n_tokens_; ++t) {
      if (!point.defined(unit, t)) continue;
      const bool changed = point.changes(unit, t);
      if (by_position) {
        const std::string at = std::to_string(t);
        add(unit, t, unit.name.empty() ? at : unit.name + "@" + at, t, changed ? t : -1);
        continue;
      }
      if (first_taken < 0) first_taken = t;
      if (changed && first_changed < 0) first_changed = t;
    }
    if (!by_position && first_taken >= 0) add(unit, -1, unit.name, first_taken, first_changed);
  }
  result_.undefined += point.n_undefined();
  return todo;
}

void PairPatch::run_step(ExchangedPoint& point, const PatchPlace& place, std::span<const PatchCell> cells) {
  const int64_t d_model = session_.model.d_model;
  std::vector<SequenceCache> forks;
  forks.reserve(cells.size());
  std::vector<std::shared_ptr<const BoundEdits>> bound;
  Batch batch;
  std::vector<float> rows;
  std::vector<ExchangedPoint::Place> places;
  std::vector<size_t> rows_at;  // of each place, in floats
  for (size_t i = 0; i < cells.size(); ++i) {
    const PatchCell& cell = cells[i];
    const int64_t last = cell.position < 0 ? n_tokens_ : cell.position + 1;
    for (int64_t t = cell.first; t < n_tokens_; ++t) {
      if (place.stream && t < last && point.defined(cell.unit, t) && point.changes(cell.unit, t)) {
        places.push_back({&cell.unit, t});
        rows_at.push_back(rows.size());
      }
      const std::span<const float> own = stream(place.entry, t);
      rows.insert(rows.end(), own.begin(), own.end());
    }
    bound.push_back(place.stream ? nullptr : point.plan(cell.unit, cell.first, last)->bind(sequence_info(job_)));
    forks.push_back(sequence_.fork(cell.first));
    const std::span<const int32_t> tokens = std::span(job_.prompt->tokens).subspan(static_cast<size_t>(cell.first));
    batch.append(forks.back(), bound.back().get(), static_cast<int64_t>(i), tokens, {}, n_tokens_,
                 std::min(n_tokens_ - cell.first, rows_.n_rows()));
  }
  if (place.stream) {
    const std::vector<float> exchanged = point.streams(places);
    for (size_t i = 0; i < places.size(); ++i)
      std::copy_n(exchanged.begin() + static_cast<ptrdiff_t>(i) * d_model, d_model,
                  rows.begin() + static_cast<ptrdiff_t>(rows_at[i]));
  }
  const auto n_rows = static_cast<int64_t>(rows.size()) / d_model;
  const auto [memory, x] = scratch(n_rows, d_model);
  backend_.upload(x.data, rows.data(), rows.size() * sizeof(float));
  FlipSink flips(*target_.store, place.first_route, cells.size());
  const Outputs outputs = cells_.run_from(batch, place.entry, x, &flips);
  cells_.flush(flips);
  const auto [own_memory, own] = scratch(target_.logits.rows, target_.logits.cols);
  const size_t row_bytes = static_cast<size_t>(own.cols) * sizeof(float);
  int64_t from = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    const int64_t count = std::min(n_tokens_ - cells[i].first, rows_.n_rows()), kept = rows_.n_rows() - count;
    // Rows before the first changed token are those of the unedited run.
    if (kept > 0) backend_.copy(own.data, target_.logits.data, static_cast<size_t>(kept) * row_bytes);
    backend_.copy(own.row(kept), outputs.logits.row(from), static_cast<size_t>(count) * row_bytes);
    from += count;
    PatchRow& row = result_.rows[cells[i].row];
    row.effect = metric_value(backend_, rows_, own, reference()) - base_;
    row.flipped = flips.flipped()[i];
  }
  result_.layers_run += static_cast<double>(n_rows) * static_cast<double>(session_.shape.n_layers() - place.entry);
  result_.layers_of_brute_force += static_cast<double>(cells.size()) * static_cast<double>(n_tokens_) *
                                   static_cast<double>(session_.shape.n_layers());
}

PatchedPair PairPatch::run(int64_t done) {
  std::string globs =
      "*.router.ids,*.router.weights,*.resid_in," + point_name(Point::resid_out, session_.shape.n_layers() - 1);
  for (const PointAt& at : request_.points) globs += exchanged_globs(at, session_.shape);
  const PointSet points = PointSet::parse(globs, session_.shape);
  target_ = record_run(session_, job_, rows_.n_rows(), points, "target", nullptr, sequence_);
  const MetricRows& source_rows = request_.denoising ? pair_.clean_rows : pair_.corrupt_rows;
  source_ = record_run(session_, source_job_, source_rows.n_rows(), points, "source");
  base_ = metric_value(backend_, rows_, target_.logits, reference());
  for (size_t i = 0; i < request_.points.size(); ++i) {
    ExchangedPoint point(session_, receivers_, *target_.store, *source_.store, source_of_, stands_for_,
                         request_.points[i]);
    const PatchPlace place = patch_place(point.at(), session_.shape);
    const std::vector<PatchCell> todo = cells(point, i);
    for (size_t begin = 0; begin < todo.size();) {
      if (request_.interrupted && *request_.interrupted) {
        result_.interrupted = true;
        return std::move(result_);
      }
      size_t end = begin;
      int64_t n_rows = 0;
      while (end < todo.size() && static_cast<int64_t>(end - begin) < cells_a_step() &&
             (end == begin || n_rows + n_tokens_ - todo[end].first <= request_.step_tokens)) {
        n_rows += n_tokens_ - todo[end].first;
        ++end;
      }
      run_step(point, place, std::span(todo).subspan(begin, end - begin));
      begin = end;
    }
    if (request_.on_progress) request_.on_progress(done + static_cast<int64_t>(i) + 1);
  }
  return std::move(result_);
}

// Patterns of the source can stand in the target only where all that they look at stands for something there.
void require_whole_patterns(const CausalPair& pair, const RecordJobs& made, const PatchRequest& request,
                            const std::string& where) {
  const std::vector<int32_t> source_of = exchanged_positions(pair, made, request);
  const Job& source = made.jobs[request.denoising ? pair.clean : pair.corrupt];
  std::vector<int32_t> target_of(static_cast<size_t>(source.n_given()), -1);
  const std::vector<int32_t> all = standing_for(pair, static_cast<int64_t>(source_of.size()), request.denoising);
  for (size_t t = 0; t < all.size(); ++t)
    if (all[t] >= 0) target_of[static_cast<size_t>(all[t])] = static_cast<int32_t>(t);
  for (size_t t = 0; t < source_of.size(); ++t)
    for (int32_t p = 0; p <= source_of[t]; ++p)
      if (const int32_t key = target_of[static_cast<size_t>(p)]; key < 0 || key > static_cast<int32_t>(t))
        throw Error(where, "expected for attn.pattern a map in which all that position " +
                               std::to_string(source_of[t]) + " of the " + (request.denoising ? "clean" : "corrupt") +
                               " record looks at stands for positions before its own, found position " +
                               std::to_string(p) + (key < 0 ? " left out" : " behind it"));
}

int64_t count_units(const PointAt& at, const ModelShape& shape) {
  if (patched_by_head(at.point)) return static_cast<int64_t>(head_units(at, shape).size());
  return shape.layers[static_cast<size_t>(at.layer)].n_experts;
}

}  // namespace

void check_patch(const PatchRequest& request, const std::vector<Record>& records, const std::vector<CausalPair>& pairs,
                 const RecordJobs& made, const ModelShape& shape) {
  const bool apart = request.by == PatchBy::unit || request.by == PatchBy::both || request.by == PatchBy::natural;
  const std::string by = "--by " + std::string(patch_by_name(request.by));
  bool any_units = false, any_hidden = false, any_patterns = false;
  for (const PointAt& at : request.points) {
    const std::string name = point_name(at.point, at.layer);
    any_hidden = any_hidden || at.point == Point::expert_hidden;
    any_patterns = any_patterns || at.point == Point::attn_pattern;
    if (!has_patch_units(at.point)) continue;
    any_units = true;
    const bool named = patched_by_head(at.point) && head_units(at, shape).front().name == "latent";
    if (!request.units.empty() && named)
      throw UsageError("--units", "expected points whose units are numbers, found " + name + " (latent and rope)");
    if (const int64_t n = count_units(at, shape); !request.units.empty() && request.units.back() >= n)
      throw UsageError("--units", "expected numbers below " + std::to_string(n) + " for " + name + ", found " +
                                      std::to_string(request.units.back()));
    if (const int64_t d_ff = shape.layers[static_cast<size_t>(at.layer)].d_ff;
        at.point == Point::expert_hidden && !request.neurons.empty() && request.neurons.back() >= d_ff)
      throw UsageError("--neurons", "expected numbers below " + std::to_string(d_ff) + " for " + name + ", found " +
                                        std::to_string(request.neurons.back()));
  }
  if ((request.by == PatchBy::unit || request.by == PatchBy::both) && !any_units)
    throw UsageError(by, "expected a point with heads or experts, found none");
  if (!request.units.empty() && !(any_units && apart))
    throw UsageError("--units", any_units ? "expected --by unit, both or natural beside it, found " + by
                                          : "expected a point with heads or experts, found none");
  if (!request.neurons.empty() && !(any_hidden && apart))
    throw UsageError("--neurons", any_hidden ? "expected --by unit, both or natural beside it, found " + by
                                             : "expected the point expert.hidden, found none");
  for (const CausalPair& pair : pairs) {
    const std::vector<int32_t> source_of = exchanged_positions(pair, made, request);
    if (std::all_of(source_of.begin(), source_of.end(), [](int32_t position) { return position < 0; }))
      throw Error(
          records[pair.clean].where,
          "expected a position to exchange under --positions and --span, found none in the pair \"" + pair.name + "\"");
    if (any_patterns) require_whole_patterns(pair, made, request, records[pair.corrupt].where);
  }
}

PatchedPair patch_pair(const Session& session, const RecordJobs& made, const CausalPair& pair,
                       const PatchRequest& request, int64_t done) {
  return PairPatch(session, made, pair, request).run(done);
}

}  // namespace signalbox::eval
