// What a run does, as plan.json holds it: its interventions as they are run. Findings are made from it, the records and
// the samples alone.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/spec.h"
#include "eval/findings/data_facts.h"
#include "eval/findings/findings.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

inline constexpr const char* plan_file = "plan.json";  // a RunSchedule
// records_file beside it holds the records that are tested, in order.

struct RunSchedule {
  std::string baseline;
  std::vector<std::string> metrics;
  std::vector<uint64_t> seeds;
  int64_t resamples = default_resamples;
  uint64_t seed = 0;  // of resampling
  DataFacts data;     // of the whole run, but for the copies
  std::optional<RecordLimit> limit;
  PrimaryContrasts primary;
  std::map<std::string, double> margins;  // of equivalence, by metric
  std::vector<PlannedIntervention> interventions;

  size_t baseline_index() const;
  // Whether the intervention is run under this seed (indices).
  bool runs(size_t intervention, size_t seed_index) const {
    return seed_index == 0 || !interventions.at(intervention).first_seed_only;
  }
  json::Value to_json() const;
  static RunSchedule from_json(const json::Ref& value);  // throws Error
};

// The schedule of interventions that were planned for the spec.
RunSchedule make_schedule(const ExperimentSpec& spec, std::vector<std::string> metrics,
                          std::vector<PlannedIntervention> interventions);

// DIR/plan.json. Both throw Error.
RunSchedule read_schedule(const std::filesystem::path& dir);
void write_schedule(const std::filesystem::path& dir, const RunSchedule& schedule);

// DIR/traces/NAME, and below it seed-S where the run has several seeds.
std::filesystem::path trace_path(const std::filesystem::path& dir, const RunSchedule& schedule, size_t intervention,
                                 size_t seed);

}  // namespace signalbox::eval
