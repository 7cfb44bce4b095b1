// From a spec to the interventions of a run: its own, their controls, and the audit's.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/experiment/controls.h"
#include "eval/experiment/spec.h"
#include "eval/findings/intervention.h"

namespace signalbox::eval {

struct PlannedIntervention : Intervention {
  json::Value edits = json::Value::array();  // for EditPlan::parse with spec.base_dir and the run's seed
};

// What detection found, as far as interventions use it.
struct Detected {
  std::map<std::string, std::filesystem::path> files;  // stage -> its rd.csv, an absolute path
  UsageTable usage;                                    // of the baseline; empty unless needs_usage()
};

// "detect:NAME" of a ranking replaced by the path of that stage's rd.csv.
json::Value resolve_detect(json::Value edits, const std::map<std::string, std::filesystem::path>& detect_files);

// Whether planning needs a usage table: frequency-matched controls of an intervention that names experts, or bottom
// controls of one that lists them. It then is the counts of a trace of the baseline over all tokens, of the records of
// the detect split, or of all that are tested without one.
bool needs_usage(const ExperimentSpec& spec);

// Which of a spec's interventions a stage runs.
struct InterventionChoice {
  std::vector<const InterventionSpec*> interventions;  // of the spec, which outlives this
  bool with_controls = true;                           // their controls too, and the audit
};
InterventionChoice all_interventions(const ExperimentSpec& spec);

// In the order of the run: each chosen intervention, followed by its random, frequency-matched and bottom controls,
// drawn by the first of spec.seeds; then the audit by layer and expert. Experts that a stage of detection chose are
// listed: what a run does must not name files of its own directory, which other shards have elsewhere. Throws Error for
// what the model does not have, and where a metric needs routes that the traces do not hold.
std::vector<PlannedIntervention> plan_interventions(const ExperimentSpec& spec, const InterventionChoice& choice,
                                                    const ModelShape& shape, const Detected& detected);

// One line for people: "ban 8 experts in layers 1-5; misroute next_best, generated tokens, fraction 0.25". "no edits"
// for an empty list.
std::string describe_edits(const json::Ref& edits, const std::filesystem::path& base_dir, const ModelShape& shape);

}  // namespace signalbox::eval
