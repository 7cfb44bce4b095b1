#include "eval/experiment/conduct.h"

#include <algorithm>

#include "eval/experiment/cross_fit.h"
#include "eval/experiment/detect_stage.h"
#include "eval/experiment/split.h"
#include "eval/experiment/test_stage.h"
#include "eval/experiment/tune_stage.h"

namespace signalbox::eval {

namespace {

// What the model refuses of the interventions that do not wait for detection, before anything is written.
void check_edits(const ExperimentSpec& spec, const ModelShape& shape) {
  const auto waits = [](const json::Value& edit) { return detect_stage_of(edit).has_value(); };
  const auto check = [&](const json::Value& edits, const std::string& path) {
    if (!edits.items().empty() && std::none_of(edits.items().begin(), edits.items().end(), waits))
      EditPlan::parse(json::Ref(edits, spec.where, path), spec.base_dir, shape, spec.seeds[0]);
  };
  for (const InterventionSpec& one : spec.interventions) check(one.edits, one.path + ".edits");
  if (spec.audit) check(json::Value::array().push_back(spec.audit->edit), spec.audit->path);
}

Manifest manifest_of(const ExperimentSpec& spec, const ConductOptions& options) {
  Manifest manifest;
  manifest.identity = options.identity;
  manifest.identity.set("spec", resolved_json(spec));
  manifest.info = options.info;
  manifest.shard = options.shard;
  return manifest;
}

}  // namespace

RunEnd conduct(const Experiment& experiment, const Session& session, const ConductOptions& options,
               const ConductEvents& events) {
  check_edits(experiment.spec, session.shape);
  const std::vector<std::string> names = span_names(experiment.records);
  const std::vector<std::optional<PreparedRecord>> records = prepare_records(experiment, session, names);
  check_encoded_prompts(experiment.spec, experiment.records, experiment.splits,
                        prompt_hashes_of(experiment.records, records, session));
  if (experiment.spec.cross_fit) return conduct_cross_fit(experiment, session, options, events);
  RunDirectory directory(options.out, manifest_of(experiment.spec, options));
  if (directory.complete()) return RunEnd::was_complete;
  const RunContext run{experiment, session, options, events, names, records, directory};
  for (const std::string& line : experiment.notes) run.note(line);
  const std::optional<Detected> detected = run_detection(run);
  const std::optional<InterventionChoice> choice = detected ? run_tuning(run, *detected) : std::nullopt;
  const bool finished = choice && run_tests(run, *detected, *choice);
  directory.finish(finished ? RunStatus::complete : RunStatus::interrupted);
  return finished ? RunEnd::complete : RunEnd::interrupted;
}

}  // namespace signalbox::eval
