#include "eval/causal/patch.h"

#include <algorithm>

#include "base/error.h"
#include "engine/receivers.h"
#include "eval/causal/cell_runner.h"
#include "eval/causal/exchanged_point.h"
#include "eval/causal/recorded_run.h"
#include "probes/edit_memory.h"

namespace signalbox::eval {

using namespace engine;
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

std::string all_globs(const PatchRequest& request, const ModelShape& shape) {
  std::string globs;
  for (const PointAt& at : request.points) globs += exchanged_globs(at, shape);
  for (const NamedExchange& named : request.with) globs += exchanged_globs(named.at, shape);
  return globs.substr(1);
}

class PairPatch {
 public:
  PairPatch(const Session& session, const RecordJobs& made, const CausalPair& pair, const PatchRequest& request)
      : session_(session),
        request_(request),
        source_of_(exchanged_positions(pair, made, request)),
        n_tokens_(static_cast<int64_t>(source_of_.size())),
        stands_for_(standing_for(pair, n_tokens_, request.denoising)),
        receivers_(*session.backend, session.model, session.weights),
        source_(record_run(session, made.jobs[request.denoising ? pair.clean : pair.corrupt],
                           (request.denoising ? pair.clean_rows : pair.corrupt_rows).n_rows(), points(), "source")),
        runner_(session, made.jobs[request.denoising ? pair.corrupt : pair.clean],
                request.denoising ? pair.corrupt_rows : pair.clean_rows, all_globs(request, session.shape),
                request.step_tokens, request.step_cells,
                with(made.jobs[request.denoising ? pair.corrupt : pair.clean])) {
    // kl is against the unedited clean run.
    if (request.denoising)
      runner_.measure_against(source_.logits);
    else if (!request.with.empty())
      runner_.measure_against(clean_.logits);
  }

  PatchedPair run(int64_t done);

 private:
  PointSet points() const {
    return PointSet::parse("*.router.ids,*.router.weights," + all_globs(request_, session_.shape), session_.shape);
  }
  std::shared_ptr<const EditPlan> with(const Job& job);
  std::vector<PatchUnit> units(const ExchangedPoint& point) const;
  std::vector<PatchCell> cells(const ExchangedPoint& point, size_t index);
  std::vector<RunCell> made(ExchangedPoint& point, const PatchPlace& place, std::span<const PatchCell> cells) const;

  const Session& session_;
  const PatchRequest& request_;
  std::vector<int32_t> source_of_;
  int64_t n_tokens_;
  std::vector<int32_t> stands_for_;
  Receivers receivers_;
  RecordedRun source_, clean_;
  CellRunner runner_;
  PatchedPair result_;
};

// The run with what is exchanged already: one after the other, each in the run that has those before it.
std::shared_ptr<const EditPlan> PairPatch::with(const Job& job) {
  if (request_.with.empty()) return nullptr;
  EditMemory memory;
  json::Value edits = json::Value::array();
  std::shared_ptr<const EditPlan> plan;
  const int64_t n_rows = source_.logits.rows;
  RecordedRun run = clean_ = record_run(session_, job, n_rows, points(), "target");
  for (const NamedExchange& named : request_.with) {
    ExchangedPoint point(session_, receivers_, *run.store, *source_.store, source_of_, stands_for_, named.at);
    const int64_t from = named.position < 0 ? 0 : named.position,
                  end = named.position < 0 ? n_tokens_ : std::min(n_tokens_, named.position + 1);
    int64_t first = from;
    while (first < end && !(point.defined(named.unit, first) && point.changes(named.unit, first))) ++first;
    if (first >= end) continue;
    ExchangedPoint::Edit made = point.edit(named.unit, first, end, "with" + std::to_string(edits.items().size()));
    memory.add(std::move(made.values));
    edits.push_back(std::move(made.edit));
    plan = EditPlan::parse(json::Ref(edits, "edits"), ".", session_.shape, 0, &memory);
    run = record_run(session_, job, n_rows, points(), "target", plan.get());
  }
  return plan;
}

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
  const int64_t routed_layers = runner_.routed_layers(place.first_route);
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

// The cells of a step with what is exchanged in them.
std::vector<RunCell> PairPatch::made(ExchangedPoint& point, const PatchPlace& place,
                                     std::span<const PatchCell> cells) const {
  std::vector<RunCell> made;
  std::vector<ExchangedPoint::Place> places;
  for (const PatchCell& cell : cells) {
    const int64_t last = cell.position < 0 ? n_tokens_ : cell.position + 1;
    RunCell& to = made.emplace_back();
    to.first = cell.first;
    if (!place.stream) {
      to.plan = point.plan(cell.unit, cell.first, last);
      continue;
    }
    for (int64_t t = cell.first; t < last; ++t) {
      if (!point.defined(cell.unit, t) || !point.changes(cell.unit, t)) continue;
      to.positions.push_back(t);
      places.push_back({&cell.unit, t});
    }
  }
  if (!place.stream) return made;
  const std::vector<float> rows = point.streams(places);
  auto from = rows.begin();
  for (RunCell& to : made) {
    const auto n = static_cast<ptrdiff_t>(to.positions.size()) * session_.model.d_model;
    to.rows.assign(from, from + n);
    from += n;
  }
  return made;
}

PatchedPair PairPatch::run(int64_t done) {
  for (size_t i = 0; i < request_.points.size(); ++i) {
    ExchangedPoint point(session_, receivers_, *runner_.base(), *source_.store, source_of_, stands_for_,
                         request_.points[i]);
    const PatchPlace place = patch_place(point.at(), session_.shape);
    const std::vector<PatchCell> todo = cells(point, i);
    std::vector<int64_t> firsts;
    for (const PatchCell& cell : todo) firsts.push_back(cell.first);
    for (size_t begin = 0; begin < todo.size();) {
      if (request_.interrupted && *request_.interrupted) {
        result_.interrupted = true;
        return std::move(result_);
      }
      const size_t end = runner_.step_end(firsts, begin);
      const std::vector<CellEffect> effects =
          runner_.run(place.entry, place.first_route, made(point, place, std::span(todo).subspan(begin, end - begin)));
      for (size_t c = begin; c < end; ++c) {
        result_.rows[todo[c].row].effect = effects[c - begin].effect;
        result_.rows[todo[c].row].flipped = effects[c - begin].flipped;
      }
      begin = end;
    }
    if (request_.on_progress) request_.on_progress(done + static_cast<int64_t>(i) + 1);
  }
  result_.layers_run = runner_.layers_run();
  result_.layers_of_brute_force = runner_.layers_of_brute_force();
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
  for (const NamedExchange& named : request.with) any_patterns = any_patterns || named.at.point == Point::attn_pattern;
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
  for (const NamedExchange& named : request.with)
    for (const PointAt& at : request.points)
      if (!comes_before(named.at, at, shape))
        throw UsageError("--with", "expected points before all of --points, found " + named.text + " beside " +
                                       point_name(at.point, at.layer));
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
