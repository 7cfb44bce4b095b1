// From the files of a run directory to its findings: metrics.json, tables, the audit, the report.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "eval/experiment/interventions.h"
#include "eval/experiment/spec.h"
#include "eval/findings/results.h"

namespace signalbox {

inline constexpr const char* plan_file = "plan.json";         // metrics, seeds and the interventions of each seed
inline constexpr const char* records_file = "records.jsonl";  // the records that are tested, in order

// What a run does, as plan.json holds it: findings are made from it, the records and the samples alone.
struct ExperimentPlan {
  std::string baseline;
  std::vector<std::string> metrics;
  std::vector<uint64_t> seeds;
  int64_t resamples = default_resamples;
  uint64_t seed = 0;
  std::vector<std::vector<PlannedIntervention>> interventions;  // [seeds], the same names in each

  size_t baseline_index() const;  // into the interventions of a seed
  json::Value to_json() const;
  static ExperimentPlan from_json(const json::Ref& value);  // throws Error
};

// DIR/plan.json. Throws Error.
ExperimentPlan read_plan(const std::filesystem::path& dir);

// DIR/traces/NAME, and below it seed-S where the run has several seeds.
std::filesystem::path trace_path(const std::filesystem::path& dir, const ExperimentPlan& plan, size_t intervention,
                                 size_t seed);

// A value for every metric, intervention and record. Throws Error naming the file that is missing or wrong.
RunValues collect_values(const std::filesystem::path& dir, const ExperimentPlan& plan);

// The table for a terminal, and the audit beside its ranking where there was one. `metrics` is metrics.json of `dir`.
std::string findings_text(const std::filesystem::path& dir, const json::Value& metrics);

// Writes metrics.json, table.*, audit.* where there was one, and report.html, from what else stands in `dir`.
void write_findings(const std::filesystem::path& dir);

}  // namespace signalbox
