#include "eval/experiment/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/files.h"
#include "eval/findings/intervals.h"
#include "eval/findings/scope.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

json::Value planned_json(const PlannedIntervention& one) {
  json::Value value = json::Value::object();
  value.set("name", one.name).set("entry", one.entry).set("description", one.description);
  if (one.first_seed_only) value.set("first_seed_only", true);
  if (!one.experts.empty()) value.set("experts", experts_json(one.experts));
  if (!std::isnan(one.use)) value.set("use", one.use);
  if (one.shared > 0) value.set("shared", one.shared);
  if (one.control != ControlKind::none)
    value.set("control", control_name(one.control)).set("control_of", one.control_of);
  if (!one.grid.empty()) {
    json::Value grid = json::Value::object();
    for (const auto& [key, point] : one.grid) grid.set(key, point);
    value.set("grid", std::move(grid));
  }
  if (one.audited)
    value.set("audited",
              json::Value::array().push_back(int64_t{one.audited->layer}).push_back(int64_t{one.audited->expert}));
  return value.set("edits", one.edits);
}

PlannedIntervention planned_of(const json::Ref& value) {
  PlannedIntervention one;
  one.name = value.at("name").string();
  one.entry = value.at("entry").string();
  one.description = value.at("description").string();
  if (const auto only = value.find("first_seed_only")) one.first_seed_only = only->boolean();
  if (const auto experts = value.find("experts")) one.experts = parse_experts(*experts);
  if (const auto use = value.find("use")) one.use = use->number();
  if (const auto shared = value.find("shared")) one.shared = shared->integer(0, INT32_MAX);
  if (const auto kind = value.find("control")) {
    one.control = parse_control(*kind);
    one.control_of = value.at("control_of").string();
  }
  if (const auto grid = value.find("grid"))
    for (const auto& [key, point] : grid->members()) one.grid.emplace_back(key, point.value());
  if (const auto audited = value.find("audited"))
    one.audited = ExpertId{static_cast<int32_t>((*audited)[0].integer(0, INT32_MAX)),
                           static_cast<int32_t>((*audited)[1].integer(0, INT32_MAX))};
  one.edits = value.at("edits").value();
  return one;
}

}  // namespace

RunSchedule make_schedule(const ExperimentSpec& spec, std::vector<std::string> metrics,
                          std::vector<PlannedIntervention> interventions) {
  RunSchedule schedule;
  schedule.baseline = spec.baseline;
  schedule.metrics = std::move(metrics);
  schedule.seeds = spec.seeds;
  schedule.resamples = spec.resamples;
  schedule.seed = spec.seed;
  const PrimarySpec primary = spec.primary.value_or(PrimarySpec());
  const auto is_primary = [&](const PlannedIntervention& one) {
    const auto& names = primary.interventions;
    return one.is_main() && one.name != spec.baseline &&
           (names.empty() || std::find(names.begin(), names.end(), one.name) != names.end() ||
            std::find(names.begin(), names.end(), one.entry) != names.end());
  };
  for (const PlannedIntervention& one : interventions)
    if (is_primary(one)) schedule.primary.interventions.push_back(one.name);
  for (const std::string& metric : schedule.metrics) {
    if (primary.metrics.empty()
            ? null_is_possible(metric)
            : std::find(primary.metrics.begin(), primary.metrics.end(), metric) != primary.metrics.end())
      schedule.primary.metrics.push_back(metric);
    if (const auto margin = spec.equivalence.of(metric)) schedule.margins[metric] = *margin;
  }
  schedule.interventions = std::move(interventions);
  return schedule;
}

RunSchedule read_schedule(const fs::path& dir) {
  const fs::path file = dir / plan_file;
  const json::Value value = json::parse_file(file);
  return RunSchedule::from_json(json::Ref(value, file.string()));
}

void write_schedule(const fs::path& dir, const RunSchedule& schedule) {
  write_file_atomically(dir / plan_file, json::dump(schedule.to_json(), 1) + "\n");
}

size_t RunSchedule::baseline_index() const {
  for (size_t i = 0; i < interventions.size(); ++i)
    if (interventions[i].name == baseline) return i;
  throw Error(plan_file, "expected the baseline \"" + baseline + "\", found none");
}

json::Value RunSchedule::to_json() const {
  const auto texts = [](const std::vector<std::string>& list) {
    json::Value out = json::Value::array();
    for (const std::string& text : list) out.push_back(text);
    return out;
  };
  json::Value all = json::Value::array(), planned = json::Value::array(), of_metrics = json::Value::object(),
              about = json::Value::object();
  for (const auto& [metric, margin] : margins) of_metrics.set(metric, margin);
  about.set("interventions", texts(primary.interventions)).set("metrics", texts(primary.metrics));
  for (const uint64_t one : seeds) all.push_back(one);
  for (const PlannedIntervention& one : interventions) planned.push_back(planned_json(one));
  json::Value value = json::Value::object();
  value.set("schema", "signalbox.plan/2").set("baseline", baseline).set("metrics", texts(metrics));
  value.set("primary", std::move(about)).set("margins", std::move(of_metrics));
  value.set("seeds", std::move(all)).set("resamples", resamples).set("seed", seed);
  if (limit) value.set("limit", limit_json(*limit));
  DataFacts known = data;
  known.copies = {};  // a shard's own
  value.set("data", data_facts_json(known));
  return value.set("interventions", std::move(planned));
}

RunSchedule RunSchedule::from_json(const json::Ref& value) {
  RunSchedule schedule;
  if (value.at("schema").string() != "signalbox.plan/2")
    value.at("schema").fail("expected \"signalbox.plan/2\", found \"" + value.at("schema").string() + "\"");
  auto whole = [](const json::Ref& number) {
    return static_cast<uint64_t>(number.value().is_unsigned() ? number.value().integer()
                                                              : number.integer(0, INT64_MAX));
  };
  schedule.baseline = value.at("baseline").string();
  const auto texts = [](const json::Ref& list) {
    std::vector<std::string> out;
    for (const json::Ref& text : list.items()) out.push_back(text.string());
    return out;
  };
  schedule.metrics = texts(value.at("metrics"));
  schedule.primary = {texts(value.at("primary").at("interventions")), texts(value.at("primary").at("metrics"))};
  for (const auto& [metric, margin] : value.at("margins").members()) schedule.margins[metric] = margin.number();
  for (const json::Ref& seed : value.at("seeds").items()) schedule.seeds.push_back(whole(seed));
  schedule.resamples = value.at("resamples").size();
  schedule.seed = whole(value.at("seed"));
  if (const auto limit = value.find("limit")) schedule.limit = read_limit(*limit);
  if (const auto data = value.find("data")) schedule.data = read_data_facts(*data);
  if (schedule.seeds.empty()) value.at("seeds").fail("expected at least one seed, found none");
  for (const json::Ref& one : value.at("interventions").items()) schedule.interventions.push_back(planned_of(one));
  return schedule;
}

fs::path trace_path(const fs::path& dir, const RunSchedule& schedule, size_t intervention, size_t seed) {
  const fs::path path = dir / "traces" / schedule.interventions.at(intervention).name;
  return schedule.seeds.size() == 1 ? path : path / ("seed-" + std::to_string(schedule.seeds[seed]));
}

}  // namespace signalbox::eval
