// From a spec to the interventions of a run: its own, their controls, and the audit's.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "eval/experiment/controls.h"
#include "eval/experiment/spec.h"
#include "eval/findings/results.h"

namespace signalbox {

struct PlannedIntervention {
  std::string name;                          // "off", "mis/policy=random", "off/random-0", "audit/L3E5"
  std::string entry;                         // of the spec: "off", "mis"; "audit"
  json::Value edits = json::Value::array();  // for EditPlan::parse with spec.base_dir and the run's seed
  std::string description;                   // "ban 8 experts in layers 1-5"
  std::string control_of;                    // empty: not a control
  ControlKind control = ControlKind::none;
  GridPoint grid;
  std::optional<std::pair<int32_t, int32_t>> audited;  // layer, expert
};

// "detect:NAME" of a ranking replaced by the absolute path of that stage's rd.csv.
json::Value resolve_detect(json::Value edits, const std::map<std::string, std::filesystem::path>& detect_files);

// Whether plan_interventions needs a usage table: frequency-matched controls of an intervention that names experts, or
// bottom controls of one that lists them. It then is the counts of a trace of the baseline over all tokens, of the
// records of the detect split, or of all that are tested without one.
bool needs_usage(const ExperimentSpec& spec);

// In the order of the run: each intervention of the spec, followed by its random, frequency-matched and bottom
// controls; then the audit by layer and expert. Names and counts do not depend on `seed`, which draws the controls: one
// of spec.seeds. `usage` may be empty where needs_usage() is false. Throws Error for what the model does not have, and
// where a metric needs routes that the traces do not hold.
std::vector<PlannedIntervention> plan_interventions(const ExperimentSpec& spec, const ModelShape& shape,
                                                    const std::map<std::string, std::filesystem::path>& detect_files,
                                                    const UsageTable& usage, uint64_t seed);

// One line for people: "ban 8 experts in layers 1-5; misroute next_best, generated tokens, fraction 0.25". "no edits"
// for an empty list.
std::string describe_edits(const json::Ref& edits, const std::filesystem::path& base_dir, const ModelShape& shape);

}  // namespace signalbox
