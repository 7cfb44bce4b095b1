#include "eval/experiment/schedule.h"

#include "base/files.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

json::Value planned_json(const PlannedIntervention& one) {
  json::Value value = json::Value::object();
  value.set("name", one.name).set("entry", one.entry).set("description", one.description);
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
                          std::vector<std::vector<PlannedIntervention>> interventions) {
  RunSchedule schedule;
  schedule.baseline = spec.baseline;
  schedule.metrics = std::move(metrics);
  schedule.seeds = spec.seeds;
  schedule.resamples = spec.resamples;
  schedule.seed = spec.seed;
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
  for (size_t i = 0; i < interventions[0].size(); ++i)
    if (interventions[0][i].name == baseline) return i;
  throw Error(plan_file, "expected the baseline \"" + baseline + "\", found none");
}

json::Value RunSchedule::to_json() const {
  json::Value names = json::Value::array(), all = json::Value::array(), by_seed = json::Value::array();
  for (const std::string& metric : metrics) names.push_back(metric);
  for (const uint64_t one : seeds) all.push_back(one);
  for (const auto& list : interventions) {
    json::Value planned = json::Value::array();
    for (const PlannedIntervention& one : list) planned.push_back(planned_json(one));
    by_seed.push_back(std::move(planned));
  }
  json::Value value = json::Value::object();
  value.set("schema", "signalbox.plan/1").set("baseline", baseline).set("metrics", std::move(names));
  value.set("seeds", std::move(all)).set("resamples", resamples).set("seed", seed);
  DataFacts known = data;
  known.copies = {};  // a shard's own
  value.set("data", data_facts_json(known));
  return value.set("interventions", std::move(by_seed));
}

RunSchedule RunSchedule::from_json(const json::Ref& value) {
  RunSchedule schedule;
  if (value.at("schema").string() != "signalbox.plan/1")
    value.at("schema").fail("expected \"signalbox.plan/1\", found \"" + value.at("schema").string() + "\"");
  auto whole = [](const json::Ref& number) {
    return static_cast<uint64_t>(number.value().is_unsigned() ? number.value().integer()
                                                              : number.integer(0, INT64_MAX));
  };
  schedule.baseline = value.at("baseline").string();
  for (const json::Ref& metric : value.at("metrics").items()) schedule.metrics.push_back(metric.string());
  for (const json::Ref& seed : value.at("seeds").items()) schedule.seeds.push_back(whole(seed));
  schedule.resamples = value.at("resamples").size();
  schedule.seed = whole(value.at("seed"));
  if (const auto data = value.find("data")) schedule.data = read_data_facts(*data);
  for (const json::Ref& list : value.at("interventions").items()) {
    schedule.interventions.emplace_back();
    for (const json::Ref& one : list.items()) schedule.interventions.back().push_back(planned_of(one));
  }
  if (schedule.interventions.size() != schedule.seeds.size() || schedule.seeds.empty())
    value.at("interventions")
        .fail("expected a list for each seed, found " + std::to_string(schedule.interventions.size()));
  return schedule;
}

fs::path trace_path(const fs::path& dir, const RunSchedule& schedule, size_t intervention, size_t seed) {
  const fs::path path = dir / "traces" / schedule.interventions.at(seed).at(intervention).name;
  return schedule.seeds.size() == 1 ? path : path / ("seed-" + std::to_string(schedule.seeds[seed]));
}

}  // namespace signalbox::eval
