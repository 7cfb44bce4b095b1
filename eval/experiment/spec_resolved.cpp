// The resolved form of a spec: every default filled in, so that two specs that mean the same run are equal.
#include "eval/experiment/spec.h"

namespace signalbox::eval {

namespace {

json::Value text_list(const std::vector<std::string>& texts) {
  json::Value list = json::Value::array();
  for (const std::string& text : texts) list.push_back(text);
  return list;
}

json::Value optional_text(const std::string& text) { return text.empty() ? json::Value() : json::Value(text); }

json::Value generate_json(const GenerateSpec& generate) {
  json::Value out = json::Value::object();
  out.set("max_tokens", generate.max_tokens)
      .set("temperature", generate.sampling.temperature)
      .set("top_p", generate.sampling.top_p)
      .set("top_k", int64_t{generate.sampling.top_k})
      .set("samples", generate.samples)
      .set("stop", text_list(generate.stop))
      .set("ignore_eos", generate.ignore_eos);
  return out;
}

json::Value detect_json(const DetectSpec& detect) {
  json::Value out = json::Value::object(), contrast = json::Value::array();
  contrast.push_back(detect.a).push_back(detect.b);
  const char* phases[] = {"all", "given", "generated"};
  out.set("contrast", contrast)
      .set("span", optional_text(detect.span))
      .set("phase", phases[static_cast<size_t>(detect.phase)])
      .set("length_match", detect.length_match)
      .set("stable_top", detect.stable_top ? json::Value(*detect.stable_top) : json::Value())
      .set("held_out", detect.held_out);
  if (detect.contributions) out.set("contributions", true);
  return out;
}

json::Value audit_json(const AuditSpec& audit) {
  json::Value list = json::Value::array();
  for (json::Value edit : audit.edits) {
    if (audit.all) edit.set("experts", "all");
    list.push_back(std::move(edit));
  }
  return list.items().size() == 1 ? list.items()[0] : list;
}

json::Value intervention_json(const InterventionSpec& intervention) {
  json::Value out = json::Value::object(), controls = json::Value::object();
  controls.set("random", intervention.controls.random)
      .set("frequency_matched", intervention.controls.frequency_matched)
      .set("bottom", intervention.controls.bottom);
  out.set("name", intervention.name).set("edits", intervention.edits);
  // The word for the edits changes no result.
  out.set("controls", intervention.names_experts ? controls : json::Value());
  return out;
}

}  // namespace

json::Value resolved_json(const ExperimentSpec& spec) {
  json::Value out = json::Value::object();
  for (const char* key : {"model", "data"}) out.set(key, *spec.source.find(key));
  if (!spec.adapters.empty()) out.set("adapter", text_list(spec.adapters));
  out.set("generate", spec.generate ? generate_json(*spec.generate) : json::Value());
  out.set("programs", spec.programs.empty() ? json::Value() : programs_json(spec.programs));
  json::Value detect = json::Value::object(), judges = json::Value::object();
  for (const DetectSpec& stage : spec.detect) detect.set(stage.name, detect_json(stage));
  for (const JudgeSpec& judge : spec.judges) {
    json::Value command = json::Value::object();
    command.set("command", text_list(judge.given)).set("timeout", judge.timeout);
    if (judge.batch > 0) command.set("batch", judge.batch);
    judges.set(judge.name, std::move(command));
  }
  json::Value interventions = json::Value::array(), seeds = json::Value::array();
  for (const InterventionSpec& intervention : spec.interventions)
    interventions.push_back(intervention_json(intervention));
  for (uint64_t seed : spec.seeds) seeds.push_back(static_cast<int64_t>(seed));
  out.set("detect", detect).set("interventions", interventions);
  out.set("audit", spec.audit ? audit_json(*spec.audit) : json::Value());
  out.set("baseline", spec.baseline).set("metrics", text_list(spec.metrics)).set("seeds", seeds);
  json::Value split, tune, traces(spec.traces.on);
  if (spec.split) {
    split = json::Value::object();
    split.set("key", spec.split->key)
        .set("detect", optional_text(spec.split->detect))
        .set("tune", optional_text(spec.split->tune))
        .set("test", spec.split->test);
    if (spec.split->share > 0) split.set("share", spec.split->share).set("seed", spec.split->seed);
  }
  if (spec.cross_fit) {
    json::Value fit = json::Value::object();
    out.set("cross_fit", fit.set("deals", spec.cross_fit->deals).set("share", spec.cross_fit->share));
  }
  if (spec.tune) {
    tune = json::Value::object();
    tune.set("metric", spec.tune->metric).set("goal", spec.tune->higher ? "higher" : "lower");
  }
  if (spec.traces.on) {
    traces = json::Value::object();
    traces.set("points", spec.traces.points).set("of", spec.traces.all ? json::Value() : text_list(spec.traces.of));
  }
  json::Value primary, equivalence;
  if (spec.primary) {
    primary = json::Value::object();
    primary.set("interventions", text_list(spec.primary->interventions))
        .set("metrics", text_list(spec.primary->metrics));
  }
  if (spec.equivalence.margin || !spec.equivalence.by_metric.empty()) {
    equivalence = json::Value::object();
    for (const std::string& metric : spec.metrics)
      if (const auto margin = spec.equivalence.of(metric)) equivalence.set(metric, *margin);
  }
  out.set("primary", primary).set("equivalence", equivalence);
  out.set("split", split).set("tune", tune).set("traces", traces).set("judges", judges);
  return out.set("resamples", spec.resamples).set("seed", static_cast<int64_t>(spec.seed));
}

}  // namespace signalbox::eval
