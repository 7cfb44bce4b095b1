#include "eval/findings/metrics_file.h"

#include <cmath>

#include "base/files.h"
#include "eval/findings/cross_fit.h"
#include "eval/findings/edit_totals.h"
#include "eval/findings/scope.h"
#include "eval/findings/specification_curve.h"

namespace signalbox::eval {

json::Value json_number(double value) { return std::isnan(value) ? json::Value(nullptr) : json::Value(value); }

namespace {

constexpr const char* metrics_file = "metrics.json";

// ---- writing

json::Value texts_json(const std::vector<std::string>& texts) {
  json::Value out = json::Value::array();
  for (const std::string& text : texts) out.push_back(text);
  return out;
}

template <class T>
json::Value optional(const std::optional<T>& value) {
  return value ? json::Value(*value) : json::Value(nullptr);
}

json::Value estimate_json(const Estimate& estimate) {
  json::Value out = json::Value::object();
  out.append_member("mean", json_number(estimate.value));
  out.append_member("ci_lo", json_number(estimate.lo));
  out.append_member("ci_hi", json_number(estimate.hi));
  out.append_member("n", estimate.n);
  return out;
}

json::Value versus_json(const Versus& versus) {
  json::Value out = json::Value::object();
  out.append_member("diff", json_number(versus.difference));
  out.append_member("ci_lo", json_number(versus.lo));
  out.append_member("ci_hi", json_number(versus.hi));
  out.append_member("p", json_number(versus.p));
  return out;
}

json::Value versus_json(const std::vector<std::pair<std::string, Versus>>& list) {
  json::Value out = json::Value::object();
  for (const auto& [name, versus] : list) out.append_member(name, versus_json(versus));
  return out;
}

json::Value contrast_json(const Contrast& contrast) {
  json::Value out = json::Value::object();
  out.append_member("diff", json_number(contrast.difference.value));
  out.append_member("ci_lo", json_number(contrast.difference.lo));
  out.append_member("ci_hi", json_number(contrast.difference.hi));
  out.append_member("p", json_number(contrast.p));
  out.append_member("q", json_number(contrast.q));
  const ControlBand& random = contrast.random;
  out.append_member("control_mean", json_number(random.differences.value));
  out.append_member("control_lo", json_number(random.differences.lo));
  out.append_member("control_hi", json_number(random.differences.hi));
  out.append_member("control_rank", optional(random.rank));
  out.append_member("n_controls", random.differences.n);
  if (random.few()) out.append_member("few_controls", true);
  out.append_member("n", contrast.difference.n);
  out.append_member("mcnemar_p", json_number(contrast.mcnemar_p));
  out.append_member("n_units", contrast.units);
  out.append_member("mde", json_number(contrast.detectable));
  if (contrast.vs_controls) out.append_member("vs_controls", versus_json(*contrast.vs_controls));
  if (contrast.equivalence) {
    json::Value equivalence = json::Value::object();
    equivalence.append_member("margin", contrast.equivalence->margin);
    equivalence.append_member("p", json_number(contrast.equivalence->p));
    equivalence.append_member("equivalent", contrast.equivalence->shown());
    out.append_member("equivalence", std::move(equivalence));
  }
  if (!contrast.versus.empty()) out.append_member("versus", versus_json(contrast.versus));
  if (!contrast.by_condition.empty()) out.append_member("by_condition", versus_json(contrast.by_condition));
  if (contrast.frequency_matched) {
    const ControlBand& band = *contrast.frequency_matched;
    json::Value matched = json::Value::object();
    matched.append_member("mean", json_number(band.differences.value));
    matched.append_member("lo", json_number(band.differences.lo));
    matched.append_member("hi", json_number(band.differences.hi));
    matched.append_member("rank", optional(band.rank));
    matched.append_member("n", band.differences.n);
    out.append_member("frequency_matched", std::move(matched));
  }
  if (contrast.bottom) out.append_member("bottom_diff", json_number(*contrast.bottom));
  return out;
}

void append_found(json::Value& out, const RunFindings& run, const RecordFindings& found) {
  json::Value means = json::Value::object(), contrasts = json::Value::object();
  for (size_t i = 0; i < run.interventions.size(); ++i) {
    const std::string& name = run.interventions[i].name;
    json::Value by_metric = json::Value::object(), differences = json::Value::object();
    for (size_t m = 0; m < run.metrics.size(); ++m) {
      by_metric.append_member(run.metrics[m], estimate_json(found.means[i][m]));
      differences.append_member(run.metrics[m], contrast_json(found.contrasts[i][m]));
    }
    if (const EditTotals* edits = found.edits_of(i)) by_metric.append_member("edited", edit_totals_json(*edits));
    means.append_member(name, std::move(by_metric));
    if (name != run.baseline) contrasts.append_member(name, std::move(differences));
  }
  out.append_member("interventions", std::move(means));
  out.append_member("contrasts", std::move(contrasts));
}

json::Value about_json(const Intervention& intervention) {
  const bool is_control = intervention.control != ControlKind::none;
  json::Value out = json::Value::object(), grid = json::Value::object();
  out.append_member("description", intervention.description);
  out.append_member("control_of", is_control ? json::Value(intervention.control_of) : json::Value(nullptr));
  out.append_member("control", is_control ? json::Value(control_name(intervention.control)) : json::Value(nullptr));
  for (const auto& [key, value] : intervention.grid) grid.append_member(key, value);
  out.append_member("grid", std::move(grid));
  if (!intervention.experts.empty()) out.append_member("experts", experts_json(intervention.experts));
  if (!std::isnan(intervention.use)) out.append_member("use", intervention.use);
  if (intervention.shared > 0) out.append_member("shared", intervention.shared);
  if (intervention.first_seed_only) out.append_member("first_seed_only", true);
  return out;
}

json::Value audit_json(const std::vector<AuditCorrelation>& audit) {
  json::Value out = json::Value::object();
  for (const AuditCorrelation& one : audit) {
    json::Value correlation = json::Value::object();
    correlation.append_member("spearman", optional(one.spearman));
    correlation.append_member("spearman_signed", optional(one.spearman_signed));
    correlation.append_member("n", one.n);
    out.append_member(one.metric, std::move(correlation));
  }
  return out;
}

json::Value curves_json(const RunFindings& findings) {
  json::Value out = json::Value::object();
  for (const std::string& entry : findings.curves) out.set(entry, json::Value::object());
  for (const SpecificationCurve& curve : specification_curves(findings)) {
    json::Value one = json::Value::object(), by_metric = *out.find(curve.entry);
    one.set("points", curve.points).set("negative", curve.negative).set("positive", curve.positive);
    one.set("zero", curve.zero).set("negative_p_below_05", curve.negative_p);
    one.set("positive_p_below_05", curve.positive_p).set("median", json_number(curve.median));
    one.set("min", json_number(curve.least)).set("max", json_number(curve.greatest));
    by_metric.set(curve.metric, std::move(one));
    out.set(curve.entry, std::move(by_metric));
  }
  return out;
}

// ---- reading

double read_number(const json::Ref& object, std::string_view key) {
  const json::Ref value = object.at(key);
  return value.is_null() ? no_number : value.number();
}

std::optional<double> read_defined(const json::Ref& object, std::string_view key) {
  const auto value = object.find(key);
  return value ? std::optional<double>(value->number()) : std::nullopt;
}

std::optional<int64_t> read_rank(const json::Ref& object, std::string_view key) {
  const auto value = object.find(key);
  return value ? std::optional<int64_t>(value->integer()) : std::nullopt;
}

Estimate read_estimate(const json::Ref& object, std::string_view key) {
  return {read_number(object, key), read_number(object, "ci_lo"), read_number(object, "ci_hi"), object.at("n").size()};
}

Versus read_versus(const json::Ref& object) {
  return {read_number(object, "diff"), read_number(object, "ci_lo"), read_number(object, "ci_hi"),
          read_number(object, "p")};
}

std::vector<std::pair<std::string, Versus>> read_versus_list(const json::Ref& object, std::string_view key) {
  std::vector<std::pair<std::string, Versus>> out;
  if (const auto list = object.find(key))
    for (const auto& [name, versus] : list->members()) out.emplace_back(name, read_versus(versus));
  return out;
}

std::vector<std::string> read_texts(const json::Ref& list) {
  std::vector<std::string> out;
  for (const json::Ref& text : list.items()) out.push_back(text.string());
  return out;
}

Contrast read_contrast(const json::Ref& object) {
  Contrast out;
  out.difference = read_estimate(object, "diff");
  out.p = read_number(object, "p");
  out.q = read_number(object, "q");
  out.mcnemar_p = read_number(object, "mcnemar_p");
  if (const auto units = object.find("n_units")) out.units = units->size();
  if (const auto detectable = object.find("mde")) out.detectable = detectable->number();
  if (const auto versus = object.find("vs_controls")) out.vs_controls = read_versus(*versus);
  if (const auto equivalence = object.find("equivalence"))
    out.equivalence = Equivalence{equivalence->at("margin").number(), read_number(*equivalence, "p")};
  out.versus = read_versus_list(object, "versus");
  out.by_condition = read_versus_list(object, "by_condition");
  out.random.differences = {read_number(object, "control_mean"), read_number(object, "control_lo"),
                            read_number(object, "control_hi"), object.at("n_controls").size()};
  out.random.rank = read_rank(object, "control_rank");
  if (const auto matched = object.find("frequency_matched"))
    out.frequency_matched = ControlBand{{read_number(*matched, "mean"), read_number(*matched, "lo"),
                                         read_number(*matched, "hi"), matched->at("n").size()},
                                        read_rank(*matched, "rank")};
  if (object.value().find("bottom_diff")) out.bottom = read_number(object, "bottom_diff");
  return out;
}

RecordFindings read_found(const json::Ref& part, const RunFindings& run) {
  const json::Ref means = part.at("interventions"), contrasts = part.at("contrasts");
  RecordFindings out;
  for (const Intervention& intervention : run.interventions) {
    const bool is_baseline = intervention.name == run.baseline;
    const json::Ref by_metric = means.at(intervention.name);
    const std::optional<json::Ref> differences =
        is_baseline ? std::nullopt : std::optional(contrasts.at(intervention.name));
    out.means.emplace_back();
    out.contrasts.emplace_back();
    for (const std::string& metric : run.metrics) {
      out.means.back().push_back(read_estimate(by_metric.at(metric), "mean"));
      out.contrasts.back().push_back(is_baseline ? Contrast() : read_contrast(differences->at(metric)));
    }
    const auto edits = by_metric.find("edited");
    out.edits.push_back(edits ? std::optional(read_edit_totals(*edits)) : std::nullopt);
  }
  return out;
}

Intervention read_about(const std::string& name, const json::Ref& about) {
  Intervention out;
  out.name = name;
  out.entry = name.substr(0, name.find('/'));  // names of entries hold no '/'
  out.description = about.at("description").string();
  if (const auto of = about.find("control_of")) {
    out.control_of = of->string();
    out.control = parse_control(about.at("control"));
  }
  for (const auto& [key, value] : about.at("grid").members()) out.grid.emplace_back(key, value.value());
  if (const auto experts = about.find("experts")) out.experts = parse_experts(*experts);
  if (const auto use = about.find("use")) out.use = use->number();
  if (const auto shared = about.find("shared")) out.shared = shared->size();
  if (const auto only = about.find("first_seed_only")) out.first_seed_only = only->boolean();
  out.audited = parse_audit_name(name);
  return out;
}

uint64_t read_seed(const json::Ref& seed) {
  return static_cast<uint64_t>(seed.value().is_unsigned() ? seed.value().integer() : seed.integer(0, INT64_MAX));
}

}  // namespace

json::Value metrics_json(const RunFindings& findings) {
  json::Value out = json::Value::object(), about = json::Value::object();
  for (const Intervention& one : findings.interventions) about.append_member(one.name, about_json(one));
  out.append_member("schema", "signalbox.metrics/1");
  append_scope(out, findings);
  out.append_member("baseline", findings.baseline);
  out.append_member("resamples", findings.resamples);
  out.append_member("seed", findings.seed);
  out.append_member("metrics", texts_json(findings.metrics));
  out.append_member("about", std::move(about));
  json::Value primary = json::Value::object();
  primary.append_member("interventions", texts_json(findings.primary.interventions));
  primary.append_member("metrics", texts_json(findings.primary.metrics));
  out.append_member("primary", std::move(primary));
  append_found(out, findings, findings.all);
  if (!findings.conditions.empty()) {
    json::Value by_condition = json::Value::object();
    for (const ConditionFindings& condition : findings.conditions) {
      json::Value one = json::Value::object();
      append_found(one, findings, condition.found);
      by_condition.append_member(condition.condition, std::move(one));
    }
    out.append_member("conditions", std::move(by_condition));
  }
  if (findings.data) out.append_member("data", data_facts_json(*findings.data));
  if (findings.cross_fit) out.append_member("cross_fit", cross_fit_json(findings));
  if (!findings.curves.empty()) out.append_member("specification_curves", curves_json(findings));
  if (!findings.audit.empty()) out.append_member("audit", audit_json(findings.audit));
  return out;
}

void write_metrics(const std::filesystem::path& dir, const RunFindings& findings) {
  write_file_atomically(dir / metrics_file, json::dump(metrics_json(findings), 1) + "\n");
}

RunFindings read_findings(const json::Ref& metrics) {
  RunFindings out;
  out.baseline = metrics.at("baseline").string();
  out.metrics = read_texts(metrics.at("metrics"));
  if (const auto primary = metrics.find("primary"))
    out.primary = {read_texts(primary->at("interventions")), read_texts(primary->at("metrics"))};
  for (const auto& [name, about] : metrics.at("about").members()) out.interventions.push_back(read_about(name, about));
  read_scope(metrics, out);
  out.resamples = metrics.at("resamples").integer();
  out.seed = read_seed(metrics.at("seed"));
  out.all = read_found(metrics, out);
  if (const auto conditions = metrics.find("conditions"))
    for (const auto& [condition, part] : conditions->members())
      out.conditions.push_back({condition, read_found(part, out)});
  if (const auto curves = metrics.find("specification_curves"))
    for (const auto& [entry, unused] : curves->members()) out.curves.push_back(entry);
  if (const auto fit = metrics.find("cross_fit")) out.cross_fit = read_cross_fit(*fit, out);
  if (const auto data = metrics.find("data")) out.data = read_data_facts(*data);
  if (const auto audit = metrics.find("audit"))
    for (const auto& [metric, one] : audit->members())
      out.audit.push_back(
          {metric, read_defined(one, "spearman"), read_defined(one, "spearman_signed"), one.at("n").size()});
  return out;
}

RunFindings read_findings(const std::filesystem::path& dir) {
  const json::Value metrics = json::parse_file(dir / metrics_file);
  return read_findings(json::Ref(metrics, metrics_file));
}

}  // namespace signalbox::eval
