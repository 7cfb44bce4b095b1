// What a run does, as plan.json holds it: its interventions as they are run, seed by seed. Findings are made from it,
// the records and the samples alone.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/spec.h"
#include "eval/findings/data_facts.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

inline constexpr const char* plan_file = "plan.json";  // a RunSchedule
// records_file beside it holds the records that are tested, in order.

struct RunSchedule {
  std::string baseline;
  std::vector<std::string> metrics;
  std::vector<uint64_t> seeds;
  int64_t resamples = default_resamples;
  uint64_t seed = 0;                                            // of resampling
  DataFacts data;                                               // of the whole run, but for the copies
  std::vector<std::vector<PlannedIntervention>> interventions;  // [seeds], the same names in each

  size_t baseline_index() const;  // into the interventions of a seed
  json::Value to_json() const;
  static RunSchedule from_json(const json::Ref& value);  // throws Error
};

// The schedule of interventions that were planned for each seed of the spec.
RunSchedule make_schedule(const ExperimentSpec& spec, std::vector<std::string> metrics,
                          std::vector<std::vector<PlannedIntervention>> interventions);

// DIR/plan.json. Both throw Error.
RunSchedule read_schedule(const std::filesystem::path& dir);
void write_schedule(const std::filesystem::path& dir, const RunSchedule& schedule);

// DIR/traces/NAME, and below it seed-S where the run has several seeds.
std::filesystem::path trace_path(const std::filesystem::path& dir, const RunSchedule& schedule, size_t intervention,
                                 size_t seed);

}  // namespace signalbox::eval
