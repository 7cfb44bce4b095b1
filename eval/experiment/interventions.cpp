#include "eval/experiment/interventions.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <set>

#include "base/text.h"
#include "probes/edit_plan.h"

namespace signalbox::eval {

namespace {

// What the edit does; `experts` is "expert 5" or "8 experts", empty when it names none.
std::string action_text(const EditSpec& spec, const std::string& experts) {
  const json::Value* policy = spec.ref.value().find("policy");
  if (spec.kind != EditSpec::Kind::router) {
    const std::string point(point_info(spec.point).name);
    const std::string of =
        point + (experts.empty() ? "" : " of " + experts) +
        (spec.neurons_given ? ", " + std::to_string(spec.neurons.size()) + " neurons" : std::string());
    if (spec.kind == EditSpec::Kind::add)
      return "add " + short_number(spec.by) + " x " + spec.source.tensor + " to " + of;
    if (spec.kind == EditSpec::Kind::patch) return "patch " + of;
    if (spec.value == EditSpec::Value::zero) return "set " + of + " to zero";
    return "set " + of + (spec.value == EditSpec::Value::mean ? " to its mean" : " to " + spec.source.tensor);
  }
  switch (spec.op) {
    case EditOp::ban: return "ban " + experts;
    case EditOp::force: return "force " + experts;
    case EditOp::steermoe_down: return "steer away from " + experts;
    case EditOp::steermoe_up: return "steer towards " + experts;
    case EditOp::bias: return "add " + short_number(spec.by + 0.0) + " to the logits of " + experts;
    case EditOp::temperature: return "temperature " + short_number(spec.by);
    case EditOp::top_k: return "top_k " + std::to_string(spec.k);
    case EditOp::scale_expert: return "scale " + experts + " by " + short_number(spec.by);
    case EditOp::scale_shared: return "scale the shared expert by " + short_number(spec.by);
    case EditOp::replay:
      return "replay " + spec.file.filename().string() + (spec.sample ? " of " + *spec.sample : std::string());
    case EditOp::fixed: return "misroute fixed to " + experts;
    default: break;
  }
  std::string text = "misroute " + (policy ? policy->string() : std::string());
  if (spec.op == EditOp::shift) text += " by " + short_number(spec.by);
  if (spec.op == EditOp::gumbel) text += " tau " + short_number(spec.by);
  if (spec.exclude_original) text += " without the original";
  return text;
}

// Which tokens: ", generated tokens, fraction 0.25".
std::string tokens_text(const TokenSelector& tokens) {
  std::string text;
  if (tokens.phase == Phase::given) text += ", given tokens";
  if (tokens.phase == Phase::generated) text += ", generated tokens";
  if (!tokens.span.empty()) text += ", span " + tokens.span;
  if (tokens.begin != 0 || tokens.end != std::numeric_limits<int64_t>::max())
    text += ", positions " + std::to_string(tokens.begin) + ":" +
            (tokens.end == std::numeric_limits<int64_t>::max() ? "" : std::to_string(tokens.end));
  if (tokens.fraction < 1) text += ", fraction " + short_number(tokens.fraction);
  if (tokens.margin_below != std::numeric_limits<float>::infinity())
    text += ", margin below " + short_number(static_cast<double>(tokens.margin_below));
  if (tokens.near_tie_below != std::numeric_limits<float>::infinity())
    text += ", near tie below " + short_number(static_cast<double>(tokens.near_tie_below));
  return text;
}

std::string describe_edit(const EditSpec& spec, const ModelShape& shape) {
  const Targets targets = resolve_targets(spec, shape);
  size_t n_experts = 0;
  int32_t only = -1;
  std::vector<int32_t> layers;
  for (const auto& [layer, experts] : targets.layers) {
    n_experts += experts.size();
    if (!experts.empty()) only = experts[0];
    if (layer >= 0 && (!targets.by_expert || !experts.empty())) layers.push_back(layer);
  }
  std::string text = action_text(spec, n_experts == 0   ? ""
                                       : n_experts == 1 ? "expert " + std::to_string(only)
                                                        : std::to_string(n_experts) + " experts");
  if (!layers.empty() && (targets.by_expert || spec.layers_given))
    text += (layers.size() == 1 ? " in layer " : " in layers ") + layer_ranges(layers);
  text += tokens_text(spec.tokens);
  if (spec.weights != WeightPolicy::model) text += ", weights " + spec.ref.at("weights").string();
  return text;
}

// The experts that the edits name, each once.
std::vector<ExpertId> experts_named(const json::Ref& edits, const std::filesystem::path& base_dir,
                                    const ModelShape& shape) {
  std::set<ExpertId> out;
  for (const json::Ref& edit : edits.items()) {
    const Targets targets = resolve_targets(EditSpec::parse(edit, base_dir, 0), shape);
    if (!targets.by_expert) continue;
    for (const auto& [layer, experts] : targets.layers)
      for (const int32_t expert : experts) out.insert({layer, expert});
  }
  return {out.begin(), out.end()};
}

class Planner {
 public:
  Planner(const ExperimentSpec& spec, const ModelShape& shape, const Detected& detected)
      : spec_(spec), shape_(shape), detected_(detected) {}

  std::vector<PlannedIntervention> plan(const InterventionChoice& choice) {
    check_traces();
    for (const InterventionSpec* intervention : choice.interventions) add(*intervention, choice.with_controls);
    if (spec_.audit && choice.with_controls) add_audit(*spec_.audit);
    return std::move(planned_);
  }

 private:
  void check_traces() const {
    if (!spec_.traces.on) return;
    PointSet points;
    try {
      points = PointSet::parse(spec_.traces.points, shape_);
    } catch (const Error& error) {
      throw Error(spec_.where, std::string("traces.points: ") + error.what());
    }
    for (const std::string& metric : spec_.metrics)
      if (metric_needs(metric) == Needs::routes && !points.wants_any(Point::router_ids))
        throw Error(spec_.where, "traces.points: expected globs that match router.ids, for the metric \"" + metric +
                                     "\", found \"" + spec_.traces.points + "\"");
  }

  void add(const InterventionSpec& intervention, bool with_controls) {
    PlannedIntervention main{intervention, resolve_detect(intervention.edits, detected_.files)};
    const json::Value edits = main.edits;
    const json::Ref ref(edits, spec_.where, intervention.path + ".edits");
    if (main.description.empty()) main.description = describe_edits(ref, spec_.base_dir, shape_);
    main.experts = experts_named(ref, spec_.base_dir, shape_);
    planned_.push_back(std::move(main));
    if (!with_controls || !intervention.names_experts || !intervention.controls.any()) return;
    const NamedExperts named(ref, spec_.base_dir, shape_);
    if (!named.none()) add_controls(intervention, named);
  }

  void add_controls(const InterventionSpec& intervention, const NamedExperts& named) {
    const bool counted = !detected_.usage.empty();
    if (counted) planned_.back().use = named.use(detected_.usage);
    const auto add = [&](ControlKind kind, const std::string& label, const std::string& description,
                         const Replacement& replacement) {
      PlannedIntervention control{intervention, named.replaced(replacement)};
      control.name = intervention.name + "/" + label;
      control.description = intervention.name + " with " + description;
      control.control_of = intervention.name;
      control.control = kind;
      if (counted) control.use = named.use(detected_.usage, &replacement);
      if (kind != ControlKind::bottom) control.shared = named.n_shared();
      planned_.push_back(std::move(control));
    };
    const auto add_all = [&](ControlKind kind, const std::string& label, const std::string& description,
                             const std::vector<Replacement>& replacements) {
      for (size_t i = 0; i < replacements.size(); ++i)
        add(kind, label + "-" + std::to_string(i), description + " " + std::to_string(i), replacements[i]);
    };
    add_all(ControlKind::random, "random", "random experts",
            named.random(spec_.seeds[0], intervention.name, intervention.controls.random));
    if (intervention.controls.frequency_matched > 0)
      add_all(ControlKind::frequency_matched, "frequency", "experts as often used",
              named.frequency_matched(detected_.usage, spec_.seeds[0], intervention.name,
                                      intervention.controls.frequency_matched));
    if (intervention.controls.bottom)
      if (const Replacement bottom = named.bottom(detected_.usage); !named.same(bottom))
        add(ControlKind::bottom, "bottom", "experts from the bottom", bottom);
  }

  void add_audit(const AuditSpec& audit) {
    json::Value list = json::Value::array();
    for (const json::Value& edit : audit.edits) list.push_back(edit);
    list = resolve_detect(std::move(list), detected_.files);
    std::set<ExpertId> audited;
    for (const json::Value& edit : list.items()) {
      const EditSpec spec = EditSpec::parse(json::Ref(edit, spec_.where, audit.path), spec_.base_dir, 0);
      for (const auto& [layer, experts] : resolve_targets(spec, shape_).layers) {
        for (const int32_t expert : experts) audited.insert({layer, expert});
        for (int32_t e = 0; audit.all && e < shape_.layers[static_cast<size_t>(layer)].n_experts; ++e)
          audited.insert({layer, e});
      }
    }
    for (const ExpertId& expert : audited) planned_.push_back(audit_of(list.items()[0], expert));
  }

  PlannedIntervention audit_of(const json::Value& edit, const ExpertId& expert) const {
    PlannedIntervention one;
    one.name = audit_name(expert);
    one.entry = "audit";
    one.audited = expert;
    json::Value experts = json::Value::object(), list = json::Value::array(), single = json::Value::object();
    experts.set(std::to_string(expert.layer), list.push_back(expert.expert));
    for (const auto& [key, value] : edit.members())
      if (key != "layers") single.set(key, key == "experts" ? experts : value);
    one.edits.push_back(std::move(single));
    one.description = describe_edits(json::Ref(one.edits, spec_.where, "audit"), spec_.base_dir, shape_);
    return one;
  }

  const ExperimentSpec& spec_;
  const ModelShape& shape_;
  const Detected& detected_;
  std::vector<PlannedIntervention> planned_;
};

// Whether text is drawn, so that another seed gives another.
bool samples_text(const ExperimentSpec& spec) {
  if (!spec.generate) return false;
  const auto draws = [](const Sampling& sampling) { return sampling.temperature > 0 && sampling.top_k != 1; };
  if (spec.programs.empty()) return draws(spec.generate->sampling);
  return std::any_of(spec.programs.begin(), spec.programs.end(),
                     [&](const Program& program) { return draws(program.sampling_over(spec.generate->sampling)); });
}

// Whether some edit draws by the run's seed: none of its own is given.
bool draws_by_seed(const json::Value& edits, const std::filesystem::path& base_dir) {
  const json::Ref list(edits, "edits");
  for (const json::Ref& ref : list.items()) {
    if (ref.find("seed")) continue;
    const EditSpec edit = EditSpec::parse(ref, base_dir, 0);
    const bool policy =
        edit.kind == EditSpec::Kind::router && (edit.op == EditOp::permute || edit.op == EditOp::random ||
                                                edit.op == EditOp::gumbel || edit.op == EditOp::frequency_matched);
    if (!edit.tokens.never() && (policy || edit.tokens.fraction < 1)) return true;
  }
  return false;
}

// Whether some edit takes its experts from a stage of detection.
bool ranks_by_detection(const json::Value& edits, const Detected& detected) {
  for (const json::Value& edit : edits.items())
    for (const auto& [name, file] : detected.files)
      if (ranking_text(edit, "from") == file.string()) return true;
  return false;
}

// The edits with their experts by layer.
json::Value with_listed_experts(const PlannedIntervention& one, const ExperimentSpec& spec, const ModelShape& shape) {
  const json::Ref edits(one.edits, spec.where, "interventions." + one.name + ".edits");
  const NamedExperts named(edits, spec.base_dir, shape);
  Replacement same;
  for (const LayerShape& layer : shape.layers) {
    same.emplace_back(static_cast<size_t>(layer.n_experts));
    std::iota(same.back().begin(), same.back().end(), 0);
  }
  return named.replaced(same);
}

}  // namespace

json::Value resolve_detect(json::Value edits, const std::map<std::string, std::filesystem::path>& detect_files) {
  json::Value out = json::Value::array();
  for (json::Value& edit : edits.items()) {
    if (const auto name = detect_stage_of(edit)) {
      const auto found = detect_files.find(*name);
      if (found == detect_files.end())
        throw Error("detect." + *name, "expected the file of this stage of detection, found none");
      json::Value resolved = *edit.find("experts");
      resolved.set("from", std::filesystem::absolute(found->second).string());
      edit.set("experts", std::move(resolved));
    }
    out.push_back(std::move(edit));
  }
  return out;
}

bool needs_usage(const ExperimentSpec& spec) {
  return std::any_of(spec.interventions.begin(), spec.interventions.end(), [](const InterventionSpec& intervention) {
    return (intervention.names_experts && intervention.controls.frequency_matched > 0) ||
           (intervention.lists_experts && intervention.controls.bottom);
  });
}

InterventionChoice all_interventions(const ExperimentSpec& spec) {
  InterventionChoice choice;
  for (const InterventionSpec& one : spec.interventions) choice.interventions.push_back(&one);
  return choice;
}

std::vector<PlannedIntervention> plan_interventions(const ExperimentSpec& spec, const InterventionChoice& choice,
                                                    const ModelShape& shape, const Detected& detected) {
  std::vector<PlannedIntervention> planned = Planner(spec, shape, detected).plan(choice);
  const bool sampled = samples_text(spec);
  for (PlannedIntervention& one : planned) {
    if (ranks_by_detection(one.edits, detected)) one.edits = with_listed_experts(one, spec, shape);
    one.first_seed_only = spec.seeds.size() > 1 && !sampled && !draws_by_seed(one.edits, spec.base_dir);
  }
  return planned;
}

std::string describe_edits(const json::Ref& edits, const std::filesystem::path& base_dir, const ModelShape& shape) {
  const auto describe = [&](const json::Ref& edit) { return describe_edit(EditSpec::parse(edit, base_dir, 0), shape); };
  return edits.length() == 0 ? "no edits" : joined(edits.items(), "; ", describe);
}

}  // namespace signalbox::eval
