#include "eval/experiment/conduct.h"

#include <algorithm>

#include "base/text.h"
#include "eval/experiment/cross_fit.h"
#include "eval/experiment/detect_stage.h"
#include "eval/experiment/split.h"
#include "eval/experiment/test_stage.h"
#include "eval/experiment/tune_stage.h"
#include "eval/store/finished_lines.h"

namespace signalbox::eval {

namespace {

// Where routers leave no expert out, none can be selected more often under one condition than under another.
void check_detection(const ExperimentSpec& spec, const ModelShape& shape) {
  const bool all_selected = std::all_of(shape.layers.begin(), shape.layers.end(), [](const LayerShape& layer) {
    return !layer.moe || layer.n_active >= layer.n_experts;
  });
  if (!all_selected || shape.moe_layers().empty()) return;
  const auto check = [&](const json::Value& edit, const std::string& path) {
    if (detect_stage_of(edit) && ranks_by_selection(edit))
      throw Error(spec.where,
                  path +
                      ": expected a model that leaves experts out, for detection looks at which are selected more "
                      "often, found one whose routers select all " +
                      std::to_string(shape.n_experts()) +
                      " experts for every token (k = E). Rank by what experts give or weigh (\"by\": \"norm\", "
                      "\"update_share\", \"direct\" or \"rd_weight\", docs/detection.md), or list the experts");
  };
  for (const InterventionSpec& one : spec.interventions)
    for (size_t i = 0; i < one.edits.items().size(); ++i)
      check(one.edits.items()[i], one.path + ".edits[" + std::to_string(i) + "].experts");
  if (spec.audit)
    for (const json::Value& edit : spec.audit->edits) check(edit, spec.audit->path);
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

void check_edits(const ExperimentSpec& spec, const ModelShape& shape) {
  check_detection(spec, shape);
  const auto waits = [](const json::Value& edit) { return detect_stage_of(edit).has_value(); };
  const auto check = [&](const json::Value& edits, const std::string& path) {
    if (!edits.items().empty() && std::none_of(edits.items().begin(), edits.items().end(), waits))
      EditPlan::parse(json::Ref(edits, spec.where, path), spec.base_dir, shape, spec.seeds[0]);
  };
  for (const InterventionSpec& one : spec.interventions) check(one.edits, one.path + ".edits");
  if (spec.audit)
    for (const json::Value& edit : spec.audit->edits) check(json::Value::array().push_back(edit), spec.audit->path);
}

namespace {

// What earlier processes have left: "detection is done; 412 of 624 samples".
std::string kept_text(const ExperimentSpec& spec, const RunDirectory& directory) {
  std::vector<std::string> parts;
  const std::filesystem::path& dir = directory.path();
  if (!spec.detect.empty()) {
    const auto n = std::count_if(spec.detect.begin(), spec.detect.end(), [&](const DetectSpec& one) {
      return std::filesystem::exists(dir / "detect" / one.name / "rd.csv");
    });
    const auto all = static_cast<int64_t>(spec.detect.size());
    parts.push_back(n == all ? "detection is done"
                             : std::to_string(n) + " of " + std::to_string(all) + " stages of detection");
  }
  if (spec.tune && std::filesystem::exists(dir / "tune" / "choice.json")) parts.emplace_back("tuning is done");
  if (const auto& layout = directory.manifest().layout) {
    const FinishedLines lines(dir, *layout);
    parts.push_back(std::to_string(lines.n_known()) + " of " + std::to_string(lines.n_lines()) + " samples");
  }
  return parts.empty() ? "nothing yet" : joined(parts, "; ");
}

}  // namespace

int64_t samples_kept(const Experiment& experiment, const ConductOptions& options) {
  check_work(options.out, manifest_of(experiment.spec, options));
  int64_t kept = 0;
  const auto count = [&](const std::filesystem::path& dir) {
    const std::optional<Manifest> manifest = Manifest::read(dir);
    if (manifest && manifest->layout) kept += FinishedLines(dir, *manifest->layout).n_known();
  };
  if (!experiment.spec.cross_fit) {
    count(options.out);
  } else {
    for (size_t deal = 0; deal < experiment.deals.size(); ++deal)
      count(deal_directory(options.out, static_cast<int64_t>(deal)));
  }
  return kept;
}

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
  const RunContext run{{experiment, session, names, records}, options, events, directory};
  if (directory.continued()) run.note(options.out.string() + ": kept: " + kept_text(experiment.spec, directory));
  for (const std::string& line : experiment.notes) run.note(line);
  const std::optional<Detected> detected = run_detection(run);
  const std::optional<InterventionChoice> choice = detected ? run_tuning(run, *detected) : std::nullopt;
  const bool finished = choice && run_tests(run, *detected, *choice);
  directory.finish(finished ? RunStatus::complete : RunStatus::interrupted);
  return finished ? RunEnd::complete : RunEnd::interrupted;
}

}  // namespace signalbox::eval
