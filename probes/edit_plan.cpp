// From edits as written to steps and writes at each layer of a model.
#include "probes/edit_plan.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/csv.h"
#include "base/near_names.h"
#include "base/text.h"
#include "probes/draws.h"
#include "probes/edit_values.h"

namespace signalbox::probes {

namespace {

constexpr size_t max_edits = 4096;

class Planner {
 public:
  Planner(const json::Ref& list, const std::filesystem::path& base_dir, const ModelShape& shape, uint64_t seed,
          const EditMemory* memory)
      : plan_(std::make_unique<PlanData>()), values_(*plan_, memory) {
    plan_->where = list.where();
    plan_->source = list.value();
    plan_->shape = shape;
    plan_->steps.resize(shape.layers.size());
    points_.resize(n_points * (shape.layers.size() + 1));
    plan_->max_slots = shape.n_active();
    list.expect_array();
    if (list.length() > max_edits)
      list.fail("expected at most " + std::to_string(max_edits) + " edits, found " + std::to_string(list.length()));
    for (const json::Ref& edit : list.items()) specs_.push_back(EditSpec::parse(edit, base_dir, seed, memory));
  }

  std::unique_ptr<PlanData> plan() {
    for (size_t i = 0; i < specs_.size(); ++i) add(static_cast<int32_t>(i));
    check_conflicts(*plan_, specs_);
    for (const auto& steps : plan_->steps) plan_->has_router_edits |= !steps.empty();
    for (const auto& writes : points_) {
      plan_->points_begin.push_back(static_cast<int32_t>(plan_->points.size()));
      plan_->points.insert(plan_->points.end(), writes.begin(), writes.end());
    }
    plan_->points_begin.push_back(static_cast<int32_t>(plan_->points.size()));
    plan_->has_point_edits = !plan_->points.empty();
    return std::move(plan_);
  }

 private:
  void add(int32_t index) {
    const EditSpec& spec = specs_[index];
    const Targets targets = resolve_targets(spec, plan_->shape);
    PlannedEdit& edit = plan_->edits.emplace_back();
    edit.path = spec.ref.path();
    edit.tokens = spec.tokens;
    edit.seed = spec.seed;
    for (const auto& [layer, experts] : targets.layers)
      if (!experts.empty()) edit.experts.emplace_back(layer, experts);
    if (spec.kind == EditSpec::Kind::router)
      add_router(index, spec, edit, targets);
    else
      add_point(index, spec, edit, targets);
    if (edit.acts && spec.tokens.by_margin()) plan_->needs_margin = true;
  }

  const std::vector<int32_t>& keep(std::vector<int32_t> list) { return plan_->ints.emplace_back(std::move(list)); }

  void add_router(int32_t index, const EditSpec& spec, PlannedEdit& edit, const Targets& targets) {
    if (spec.op == EditOp::replay) prepare_replay(spec, edit, targets);
    for (const auto& [layer, experts] : targets.layers) {
      const LayerShape& shape = plan_->shape.layers[layer];
      RouterStep step;
      step.op = spec.op;
      step.weights = spec.weights;
      step.exclude_original = spec.exclude_original;
      step.leave_past = spec.leave_past;
      step.within_kept = spec.within_kept;
      if (spec.within_kept && !shape.groups)
        spec.ref.at("within").fail("layer " + std::to_string(layer) +
                                   ": expected a router that keeps some of several groups of experts, found one that "
                                   "drops none");
      step.edit = index;
      step.k = static_cast<int32_t>(spec.k);
      step.value = static_cast<float>(spec.by);
      step.margin_below = spec.tokens.margin_below;
      step.near_tie_below = spec.tokens.near_tie_below;
      step.seed = spec.seed;
      if (spec.op == EditOp::shift) {
        const int64_t shift = static_cast<int64_t>(spec.by) % shape.n_experts;
        step.shift = static_cast<int32_t>(shift < 0 ? shift + shape.n_experts : shift);
        step.value = 0;
      }
      if (spec.op == EditOp::top_k && spec.k > shape.n_experts)
        spec.ref.at("k").fail("layer " + std::to_string(layer) + ": expected at most " +
                              std::to_string(shape.n_experts) + " experts, found " + std::to_string(spec.k));
      // Lists of rates and permutations depend on the layer; they are read even for an edit that then does nothing, so
      // that a wrong file is never accepted.
      if (spec.op == EditOp::frequency_matched) step.rates = rates(spec, layer);
      if (no_op(spec, step, layer)) continue;
      if (spec.op == EditOp::permute) {
        const auto& order = keep(draw_permutation(shape.n_experts, spec.seed, layer));
        step.experts = order.data();
        step.n_listed = shape.n_experts;
      } else if (spec.needs_experts) {
        std::vector<int32_t> list = experts;
        if (spec.op != EditOp::fixed) std::sort(list.begin(), list.end());
        const auto& kept = keep(std::move(list));
        step.experts = kept.data();
        step.n_listed = static_cast<int32_t>(kept.size());
      }
      if (spec.op == EditOp::top_k) plan_->max_slots = std::max(plan_->max_slots, step.k);
      if (spec.op == EditOp::replay) {
        step.replay_k = edit.trace->n_slots();
        plan_->max_slots = std::max(plan_->max_slots, step.replay_k);
        if (spec.weights == WeightPolicy::keep_slot && step.replay_k > shape.n_active)
          spec.ref.at("weights").fail("expected no more slots than the original route's " +
                                      std::to_string(shape.n_active) + " for \"keep_slot\", found " +
                                      std::to_string(step.replay_k) + " in " + edit.trace->where());
      }
      plan_->steps[layer].push_back(step);
      edit.acts = true;
    }
  }

  // Edits that change nothing are left out, so that they cannot change a bit either.
  bool no_op(const EditSpec& spec, const RouterStep& step, int32_t layer) const {
    if (spec.tokens.never()) return true;
    switch (spec.op) {
      case EditOp::bias: return step.value == 0;
      case EditOp::temperature:
      case EditOp::scale_expert:
      case EditOp::scale_shared: return step.value == 1;
      case EditOp::shift: return step.shift == 0;
      case EditOp::top_k: {
        // Only where no earlier edit asks for another k: this one then undoes it.
        const auto& steps = plan_->steps[layer];
        const bool first =
            std::none_of(steps.begin(), steps.end(), [](const RouterStep& s) { return s.op == EditOp::top_k; });
        return first && step.k == plan_->shape.layers[layer].n_active;
      }
      default: return false;
    }
  }

  void prepare_replay(const EditSpec& spec, PlannedEdit& edit, const Targets& targets) {
    const json::Ref key = spec.ref.at("trace");
    edit.replay = true;
    edit.leave_past = spec.leave_past;
    edit.recorded_weights = spec.weights == WeightPolicy::recorded;
    edit.trace = values_.recording(spec, key);
    for (const auto& [layer, experts] : targets.layers)
      ValueSource::require_routes(*edit.trace, key, layer, plan_->shape.layers[layer]);
    if (edit.recorded_weights && !edit.trace->has("router.weights"))
      key.fail("expected a trace that holds router.weights, for weights \"recorded\", found none in " +
               edit.trace->where());
    require_sample(spec, edit);
  }
  void require_sample(const EditSpec& spec, PlannedEdit& edit) {
    edit.sample = spec.sample;
    if (spec.sample && !edit.trace->find_sample(*spec.sample))
      spec.ref.at("sample").fail("expected a sample of " + edit.trace->where() + ", found \"" + *spec.sample + "\"");
  }

  const float* rates(const EditSpec& spec, int32_t layer) {
    if (rates_file_ != spec.file) {
      rates_file_ = spec.file;
      rates_by_layer_ = read_rates(spec.file);
    }
    if (rates_by_layer_[layer].empty())
      spec.ref.at("rates").fail("expected rows for layer " + std::to_string(layer) + ", found none in " +
                                spec.file.string());
    return plan_->floats.emplace_back(rates_by_layer_[layer]).data();
  }
  // [layer][expert] of the rows over all domains; empty for a layer without rows.
  std::vector<std::vector<float>> read_rates(const std::filesystem::path& file) const {
    const ModelShape& shape = plan_->shape;
    const CsvTable table = CsvTable::read(file);
    const size_t layer_column = table.column("layer"), expert_column = table.column("expert");
    const size_t domain = table.column("domain"), share = table.column("share");
    std::vector<std::vector<float>> rates(shape.layers.size());
    for (size_t r = 0; r < table.n_rows(); ++r) {
      if (!table.text(r, domain).empty()) continue;
      const int64_t l = table.integer(r, layer_column), e = table.integer(r, expert_column);
      if (l < 0 || l >= shape.n_layers() || !shape.layers[l].moe)
        throw Error(table.place(r), "layer: expected a layer of the model with a router, found " + std::to_string(l));
      if (e < 0 || e >= shape.layers[l].n_experts)
        throw Error(table.place(r), "expert: expected an expert below " + std::to_string(shape.layers[l].n_experts) +
                                        ", found " + std::to_string(e));
      if (rates[l].empty()) rates[l].assign(shape.layers[l].n_experts, -1.0f);
      if (rates[l][e] >= 0)
        throw Error(table.place(r), "expected one row without a domain for each expert, found layer " +
                                        std::to_string(l) + " expert " + std::to_string(e) + " twice");
      const double value = table.number(r, share);
      if (value < 0 || value > 1)
        throw Error(table.place(r), "share: expected a number from 0 to 1, found " + table.text(r, share));
      rates[l][e] = static_cast<float>(value);
    }
    for (auto& layer : rates)
      for (float& value : layer) value = std::max(value, 0.0f);  // an expert without a row was never used
    return rates;
  }

  void add_point(int32_t index, const EditSpec& spec, PlannedEdit& edit, const Targets& targets) {
    const PointInfo& info = point_info(spec.point);
    if (std::isfinite(spec.tokens.margin_below) && (!info.per_layer || spec.point < Point::router_logits))
      spec.ref.at("tokens")
          .at("margin_below")
          .fail("expected a point after the router of its layer, found " + std::string(info.name));
    if (std::isfinite(spec.tokens.near_tie_below))
      spec.ref.at("tokens")
          .at("near_tie_below")
          .fail("expected an edit of the router, found one of the point " + std::string(info.name) +
                " (margin_below is for both)");
    for (const auto& [layer, experts] : targets.layers) {
      const int64_t width = point_width(spec.point, layer, plan_->shape, 0);
      PointEdit write;
      write.kind = spec.kind == EditSpec::Kind::add ? PointEdit::Kind::add : PointEdit::Kind::set;
      write.edit = index;
      write.layer = layer;
      write.margin_below = spec.tokens.margin_below;
      write.all_experts = !targets.by_expert;
      write.width = width;
      if (targets.by_expert) {
        std::vector<int32_t> list = experts;
        std::sort(list.begin(), list.end());
        write.experts = keep(std::move(list));
      }
      if (!spec.neurons.empty()) {
        if (spec.neurons.back() >= width)
          spec.ref.at("neurons").fail("expected neurons below " + std::to_string(width) + " of " +
                                      point_name(spec.point, layer) + ", found " + std::to_string(spec.neurons.back()));
        write.columns = keep(spec.neurons);
      }
      fill(write, spec, edit, layer, width, experts);
      if (spec.tokens.never() || (targets.by_expert && experts.empty()) ||
          (spec.neurons_given && spec.neurons.empty()) || adds_nothing(write))
        continue;
      points_[plan_->point_slot(spec.point, layer)].push_back(write);
      edit.acts = true;
    }
  }

  void fill(PointEdit& write, const EditSpec& spec, PlannedEdit& edit, int32_t layer, int64_t width,
            const std::vector<int32_t>& experts) {
    switch (spec.kind) {
      case EditSpec::Kind::ablate:
        if (spec.value == EditSpec::Value::zero) {
          values_.zero(write, width);
        } else if (spec.value == EditSpec::Value::tensor) {
          values_.tensor(write, spec.ref.at("value"), spec, layer);
        } else {
          values_.mean(write, spec.ref.at("value").at("mean_of"), spec, layer, width, experts);
        }
        break;
      case EditSpec::Kind::add:
        write.scale = static_cast<float>(spec.by);
        if (spec.adds_recording)
          by_position(write, spec, edit, layer);
        else
          values_.tensor(write, spec.ref.at("vector"), spec, layer);
        break;
      case EditSpec::Kind::patch:
        edit.patch = true;
        by_position(write, spec, edit, layer);
        break;
      case EditSpec::Kind::router: break;
    }
  }
  // Values of a recording; bind() finds them.
  void by_position(PointEdit& write, const EditSpec& spec, PlannedEdit& edit, int32_t layer) {
    edit.trace = values_.recording(spec, spec.ref.at("from"));
    const std::string name =
        ValueSource::require_point(*edit.trace, spec.ref.at("from"), spec.point, layer, plan_->shape);
    write.rows = PointEdit::Rows::by_position;
    write.n_slots = point_info(spec.point).slots() ? static_cast<int32_t>(edit.trace->tensor_shape(name)[1]) : 1;
    require_sample(spec, edit);
  }
  static bool adds_nothing(const PointEdit& write) {
    if (write.kind != PointEdit::Kind::add) return false;
    if (write.scale == 0) return true;
    return write.rows != PointEdit::Rows::by_position &&
           std::all_of(write.values, write.values + write.n_values * write.width, [](float x) { return x == 0; });
  }

  std::unique_ptr<PlanData> plan_;
  ValueSource values_;
  std::vector<EditSpec> specs_;
  std::vector<std::vector<PointEdit>> points_;  // [point_slot()]
  std::filesystem::path rates_file_;
  std::vector<std::vector<float>> rates_by_layer_;
};

}  // namespace

std::shared_ptr<const EditPlan> EditPlan::load(const std::filesystem::path& file, const ModelShape& shape,
                                               uint64_t seed) {
  const json::Value spec = json::parse_file(file, uint64_t{64} << 20);
  return parse(json::Ref(spec, file.string()), file.parent_path(), shape, seed);
}

std::shared_ptr<const EditPlan> EditPlan::parse(const json::Ref& edits, const std::filesystem::path& base_dir,
                                                const ModelShape& shape, uint64_t seed, const EditMemory* memory) {
  if (edits.value().type() != json::Type::object && edits.value().type() != json::Type::array)
    edits.fail_type("{\"edits\": [...]} or a list of edits");
  if (edits.value().type() == json::Type::object) edits.reject_unknown({"edits"});
  const json::Ref list = edits.value().type() == json::Type::object ? edits.at("edits") : edits;
  return std::shared_ptr<const EditPlan>(new EditPlan(Planner(list, base_dir, shape, seed, memory).plan()));
}

EditPlan::EditPlan(std::unique_ptr<PlanData> data) : data_(std::move(data)) {}
EditPlan::~EditPlan() = default;

int32_t EditPlan::n_edits() const { return static_cast<int32_t>(data_->edits.size()); }
bool EditPlan::empty() const { return !data_->has_router_edits && !data_->has_point_edits; }
bool EditPlan::has_router_edits() const { return data_->has_router_edits; }
bool EditPlan::has_point_edits() const { return data_->has_point_edits; }
int32_t EditPlan::max_slots() const { return data_->max_slots; }
bool EditPlan::needs_margin() const { return data_->needs_margin; }
bool EditPlan::depends_on_sample() const {
  const auto draws = [](const RouterStep& step) {
    return step.op == EditOp::random || step.op == EditOp::gumbel || step.op == EditOp::frequency_matched;
  };
  for (size_t i = 0; i < data_->edits.size(); ++i) {
    const PlannedEdit& edit = data_->edits[i];
    if (!edit.acts || edit.tokens.phase == Phase::generated) continue;
    if (edit.tokens.fraction < 1 || edit.trace) return true;
    for (const auto& steps : data_->steps)
      for (const RouterStep& step : steps)
        if (static_cast<size_t>(step.edit) == i && draws(step)) return true;
  }
  return false;
}
const json::Value& EditPlan::source() const { return data_->source; }
std::vector<std::pair<int32_t, std::vector<int32_t>>> EditPlan::experts_of(int32_t edit) const {
  return data_->edits.at(static_cast<size_t>(edit)).experts;
}

int32_t EditPlan::highest_layer() const {
  int32_t highest = -1;
  for (size_t l = 0; l < data_->steps.size(); ++l)
    if (!data_->steps[l].empty()) highest = static_cast<int32_t>(l);
  for (int32_t point = 0; point < n_points; ++point) {
    for (int32_t l = -1; l < data_->shape.n_layers(); ++l) {
      const size_t slot = data_->point_slot(static_cast<Point>(point), l);
      if (data_->points_begin[slot] == data_->points_begin[slot + 1]) continue;
      const bool at_the_end = l < 0 && static_cast<Point>(point) != Point::embed;
      highest = std::max(highest, at_the_end ? data_->shape.n_layers() - 1 : l);
    }
  }
  return highest;
}

std::vector<std::string> EditPlan::span_names() const {
  std::vector<std::string> names;
  for (const PlannedEdit& edit : data_->edits)
    if (!edit.tokens.span.empty()) names.push_back(edit.tokens.span);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

void EditPlan::require_spans(std::span<const std::string> names) const {
  for (const PlannedEdit& edit : data_->edits) {
    const std::string& span = edit.tokens.span;
    if (span.empty() || std::find(names.begin(), names.end(), span) != names.end()) continue;
    throw Error(data_->where,
                edit.path + ".tokens.span: " + wrong_name("a span that a record has", span, names_of(names)));
  }
}

}  // namespace signalbox::probes
