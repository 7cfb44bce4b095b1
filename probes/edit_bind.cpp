// A plan tied to one sequence: conditions by position, recorded routes and values.
#include <algorithm>
#include <atomic>

#include "probes/draws.h"
#include "probes/edit_plan.h"

namespace signalbox::probes {

// Per edit, what its condition and its recording mean for this sequence; then the steps and writes with their tables.
struct BoundEdits::Tables {
  using Ranges = std::vector<std::pair<int64_t, int64_t>>;
  std::vector<Ranges> spans;                        // [edit]
  std::vector<int64_t> samples;                     // [edit] of a recording
  std::vector<std::vector<int32_t>> recorded_rows;  // [edit][position] -> row of the sample, -1 none
  std::vector<std::vector<RouterStep>> steps;       // [layer], empty where nothing is replayed; or no layers at all
  std::vector<PointEdit> points;                    // as PlanData::points
  std::deque<std::vector<int32_t>> ints;
  std::deque<std::vector<float>> floats;
};

namespace {

std::string in_quotes(const std::string& text) {
  std::string out;
  for (char c : text.substr(0, 100)) out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return "\"" + out + (text.size() > 100 ? "...\"" : "\"");
}

// The sample of a trace that an edit imposes on a sequence.
int64_t recorded_sample(const PlanData& plan, const PlannedEdit& edit, const SequenceInfo& sequence) {
  const std::string& id = edit.sample ? *edit.sample : sequence.record;
  const int64_t n = edit.trace->count_samples(id);
  // A recording of one sample serves all; of several, each sample of the record meets its own.
  if (auto found = edit.trace->find_sample(id, n == 1 ? 0 : sequence.sample)) return *found;
  const std::string found = n == 0 ? "none" : std::to_string(n) + " samples of it";
  throw Error(plan.where, edit.path + ": expected a sample for record " + in_quotes(id) + " (sample " +
                              std::to_string(sequence.sample) + ") in " + edit.trace->where() + ", found " + found);
}

}  // namespace

namespace {
std::atomic<uint64_t> last_serial{0};
}

int32_t BoundEdits::n_experts(int32_t layer) const {
  return plan_->data_->shape.layers[static_cast<size_t>(layer)].n_experts;
}

BoundEdits::BoundEdits(std::shared_ptr<const EditPlan> plan, SequenceInfo sequence)
    : plan_(std::move(plan)),
      sequence_(std::move(sequence)),
      record_hash_(probes::record_hash(sequence_.record)),
      serial_(++last_serial),
      tables_(std::make_unique<Tables>()) {
  const PlanData& data = *plan_->data_;
  const size_t n_edits = data.edits.size();
  tables_->spans.resize(n_edits);
  tables_->samples.assign(n_edits, -1);
  tables_->recorded_rows.resize(n_edits);
  for (size_t i = 0; i < n_edits; ++i) {
    const PlannedEdit& edit = data.edits[i];
    for (const SpanTokens& span : sequence_.spans)
      if (span.name == edit.tokens.span) tables_->spans[i].emplace_back(span.begin, span.end);
    if (!edit.trace || !edit.acts) continue;
    tables_->samples[i] = recorded_sample(data, edit, sequence_);
    const std::vector<int32_t> positions = edit.trace->positions(edit.trace->rows(tables_->samples[i]));
    std::vector<int32_t>& rows = tables_->recorded_rows[i];
    rows.assign(positions.empty() ? 0 : static_cast<size_t>(positions.back()) + 1, -1);
    for (size_t r = 0; r < positions.size(); ++r) rows[positions[r]] = static_cast<int32_t>(r);
  }
  for (size_t i = 0; i < n_edits; ++i) {
    const PlannedEdit& edit = data.edits[i];
    if (!edit.acts) continue;
    const std::vector<int32_t>& rows = tables_->recorded_rows[i];
    const bool whole = edit.trace && !edit.leave_past && !edit.tokens.by_margin();
    int64_t first = -1;
    for (int64_t p = std::max<int64_t>(0, edit.tokens.begin); p < std::min(sequence_.n_given, edit.tokens.end); ++p) {
      if (!holds(static_cast<int32_t>(i), p)) continue;
      if (first < 0) first = p;
      if (!whole) break;
      if (p >= static_cast<int64_t>(rows.size()) || rows[p] < 0)
        throw Error(data.where, edit.path + ": record " + in_quotes(sequence_.record) + ", position " +
                                    std::to_string(p) + ": expected a recorded " + (edit.replay ? "route" : "value") +
                                    ", found none in " + edit.trace->where());
    }
    if (first < 0 && edit.tokens.phase != Phase::given && edit.tokens.span.empty() &&
        edit.tokens.end > sequence_.n_given)
      first = std::max(sequence_.n_given, edit.tokens.begin);
    if (first >= 0) first_position_ = std::min(first_position_, first);
  }
}

BoundEdits::~BoundEdits() = default;

bool BoundEdits::holds(int32_t index, int64_t position) const {
  const PlannedEdit& edit = plan_->data_->edits[static_cast<size_t>(index)];
  const TokenSelector& tokens = edit.tokens;
  if (!edit.acts || position < tokens.begin || position >= tokens.end) return false;
  const bool generated = position >= sequence_.n_given;
  if (tokens.phase == Phase::given && generated) return false;
  if (tokens.phase == Phase::generated && !generated) return false;
  if (!tokens.span.empty()) {
    const auto& ranges = tables_->spans[static_cast<size_t>(index)];
    if (generated || std::none_of(ranges.begin(), ranges.end(),
                                  [&](const auto& r) { return position >= r.first && position < r.second; }))
      return false;
  }
  return tokens.fraction >= 1 || draw_share(tokens.fraction, edit.seed, record_hash_, sequence_.sample, position);
}

void BoundEdits::active(int64_t position, uint8_t* out) const {
  const int32_t n_edits = plan_->n_edits();
  for (int32_t i = 0; i < n_edits; ++i) out[i] = holds(i, position);
}

RouterProgram BoundEdits::router(int32_t layer) const {
  const size_t l = static_cast<size_t>(layer);
  const bool own = l < tables_->steps.size() && !tables_->steps[l].empty();
  const auto& steps = own ? tables_->steps[l] : plan_->data_->steps[l];
  return {steps.data(), static_cast<int32_t>(steps.size())};
}

bool BoundEdits::has_router_edits() const { return plan_->has_router_edits(); }

std::span<const PointEdit> BoundEdits::point_edits(Point point, int32_t layer) const {
  const PlanData& data = *plan_->data_;
  if (!data.has_point_edits) return {};
  const size_t slot = data.point_slot(point, layer);
  return std::span(tables_->points)
      .subspan(static_cast<size_t>(data.points_begin[slot]),
               static_cast<size_t>(data.points_begin[slot + 1] - data.points_begin[slot]));
}

void EditPlan::check(const SequenceInfo& sequence) const { BoundEdits(shared_from_this(), sequence); }

int64_t EditPlan::first_position(const SequenceInfo& sequence) const {
  return BoundEdits(shared_from_this(), sequence).first_position();
}

std::shared_ptr<const BoundEdits> EditPlan::bind(const SequenceInfo& sequence) const {
  std::shared_ptr<BoundEdits> bound(new BoundEdits(shared_from_this(), sequence));
  BoundEdits::Tables& tables = *bound->tables_;
  // Routes of an edit are read once for all layers: [rows, L, k].
  std::vector<std::vector<int32_t>> ids(data_->edits.size());
  std::vector<std::vector<float>> weights(data_->edits.size());
  for (size_t i = 0; i < data_->edits.size(); ++i) {
    const PlannedEdit& edit = data_->edits[i];
    if (!edit.replay || !edit.acts) continue;
    const Recording::Rows rows = edit.trace->rows(tables.samples[i]);
    ids[i] = edit.trace->ids(rows);
    if (edit.recorded_weights) weights[i] = edit.trace->weights(rows);
  }
  auto layer_of = [&](const auto& all, const Recording& trace, int32_t layer) {
    const size_t k = static_cast<size_t>(trace.n_slots()), n_layers = trace.layers().size();
    const size_t first = static_cast<size_t>(*trace.layer_index(layer)) * k;
    std::remove_cvref_t<decltype(all)> one;
    one.reserve(all.size() / n_layers);
    for (size_t r = 0; r < all.size() / (n_layers * k); ++r)
      one.insert(one.end(), all.begin() + static_cast<ptrdiff_t>(r * n_layers * k + first),
                 all.begin() + static_cast<ptrdiff_t>(r * n_layers * k + first + k));
    return one;
  };
  for (size_t layer = 0; layer < data_->steps.size(); ++layer) {
    const auto& planned = data_->steps[layer];
    if (std::none_of(planned.begin(), planned.end(), [](const RouterStep& s) { return s.op == EditOp::replay; }))
      continue;
    tables.steps.resize(data_->steps.size());
    tables.steps[layer] = planned;
    for (RouterStep& step : tables.steps[layer]) {
      if (step.op != EditOp::replay) continue;
      const size_t i = static_cast<size_t>(step.edit);
      const Recording& trace = *data_->edits[i].trace;
      step.replay_ids = tables.ints.emplace_back(layer_of(ids[i], trace, static_cast<int32_t>(layer))).data();
      if (data_->edits[i].recorded_weights)
        step.replay_weights =
            tables.floats.emplace_back(layer_of(weights[i], trace, static_cast<int32_t>(layer))).data();
      step.replay_index = tables.recorded_rows[i].data();
      step.replay_positions = static_cast<int32_t>(tables.recorded_rows[i].size());
    }
  }
  tables.points = data_->points;
  for (size_t slot = 0; slot + 1 < data_->points_begin.size(); ++slot) {
    const Point point = static_cast<Point>(slot / (data_->shape.layers.size() + 1));
    for (int32_t p = data_->points_begin[slot]; p < data_->points_begin[slot + 1]; ++p) {
      PointEdit& write = tables.points[static_cast<size_t>(p)];
      write.owner = bound.get();
      const size_t i = static_cast<size_t>(write.edit);
      if (write.rows != PointEdit::Rows::by_position) continue;
      const Recording& trace = *data_->edits[i].trace;
      const Recording::Rows rows = trace.rows(tables.samples[i]);
      const std::string name = point_name(point, write.layer);
      write.values = trace.floats_in_place(name, rows);
      if (!write.values) write.values = tables.floats.emplace_back(trace.floats(name, rows)).data();
      write.n_values = rows.size() * write.n_slots;
      write.row_of = tables.recorded_rows[i];
    }
  }
  return bound;
}

int64_t PointEdit::value_row(int64_t position, int32_t slot, int32_t expert) const {
  if (rows == Rows::one) return 0;
  const int64_t key = rows == Rows::by_expert ? expert : position;
  const int64_t row = key >= 0 && key < static_cast<int64_t>(row_of.size()) ? row_of[static_cast<size_t>(key)] : -1;
  if (row >= 0 && rows == Rows::by_expert) return row;
  if (row >= 0 && slot < n_slots) return row * n_slots + slot;
  const PlanData& data = *owner->plan_->data_;
  const PlannedEdit& planned = data.edits[static_cast<size_t>(edit)];
  const std::string wanted = rows == Rows::by_expert ? "a mean of expert " + std::to_string(expert)
                             : row >= 0              ? "a recorded value of slot " + std::to_string(slot)
                                                     : "a recorded value";
  throw Error(data.where, planned.path + ": " + (layer < 0 ? "" : "layer " + std::to_string(layer) + ", ") + "record " +
                              in_quotes(owner->record()) + ", position " + std::to_string(position) + ": expected " +
                              wanted + ", found none" + (planned.trace ? " in " + planned.trace->where() : ""));
}

Error BoundEdits::fault_error(const RouteFault& fault, int32_t layer, int64_t position) const {
  const PlanData& data = *plan_->data_;
  const int32_t n_experts = data.shape.layers[static_cast<size_t>(layer)].n_experts;
  const std::string at = "layer " + std::to_string(layer) + ", record " + in_quotes(sequence_.record) + ", position " +
                         std::to_string(position) + ": ";
  const bool known = fault.edit >= 0 && fault.edit < plan_->n_edits();
  const PlannedEdit* edit = known ? &data.edits[static_cast<size_t>(fault.edit)] : nullptr;
  const std::string expert = fault.expert >= 0 ? "expert " + std::to_string(fault.expert) : "such an expert";
  std::string reason;
  switch (fault.kind) {
    case RouteFault::Kind::too_few_candidates:
      reason = "expected enough experts to fill the route, found too few of " + std::to_string(n_experts) + " left";
      break;
    case RouteFault::Kind::too_many_forced:
      reason = "expected no more forced experts than the route has slots, found more";
      break;
    case RouteFault::Kind::banned_expert: reason = "expected a route without banned experts, found " + expert; break;
    case RouteFault::Kind::repeated_expert:
      reason = "expected a route that names no expert twice, found " + expert + " again";
      break;
    case RouteFault::Kind::not_recorded:
      reason = "expected a recorded route, found none" + (edit && edit->trace ? " in " + edit->trace->where() : "");
      break;
    case RouteFault::Kind::not_finite:
      return Error(sequence_.record.empty() ? "router" : "record " + in_quotes(sequence_.record),
                   "layer " + std::to_string(layer) + ", position " + std::to_string(position) +
                       ": expected finite router logits, found NaN or infinity");
    case RouteFault::Kind::none: reason = "expected a fault of the router, found none"; break;
  }
  return Error(data.where, (edit ? edit->path + ": " : "") + at + reason);
}

}  // namespace signalbox::probes
