// From a spec to the interventions of a run: its own, their controls, and the audit's.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "eval/experiment/controls.h"
#include "eval/experiment/spec.h"
#include "eval/findings/intervention.h"

namespace signalbox {

struct PlannedIntervention : Intervention {
  json::Value edits = json::Value::array();  // for EditPlan::parse with spec.base_dir and the run's seed
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
