#include "eval/experiment/identity.h"

#include <filesystem>
#include <set>

#include "eval/score/scorer.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

// Files whose content decides results, besides model and data.
std::set<fs::path> files_of(const ExperimentSpec& spec) {
  std::set<fs::path> files;
  for (const InterventionSpec& intervention : spec.interventions)
    files.merge(files_of_edits(json::Ref(intervention.edits, spec.where, intervention.path + ".edits"), spec.base_dir));
  for (const RankingUse& use : rankings_of(spec))  // the audit's too
    if (use.detect.empty()) files.insert(use.file);
  for (const JudgeSpec& judge : spec.judges)
    for (const std::string& word : judge.command)
      if (fs::is_regular_file(word)) files.insert(word);
  return files;
}

}  // namespace

json::Value experiment_identity(const Experiment& experiment, const ModelFacts& facts, const EncodeSetup& setup,
                                const std::string& special, bool dated) {
  const ExperimentSpec& spec = experiment.spec;
  json::Value hashes = model_hashes(facts);
  hashes.set("data", file_hash(spec.data)).set("files", file_hashes(files_of(spec), spec.base_dir));
  json::Value rules = json::Value::object();
  for (const auto& [name, version] : score_rule_versions()) rules.set(name, version);
  json::Value variables = setup.template_variables;
  if (!dated) variables.set("date", json::Value());
  json::Value identity = json::Value::object();
  identity.set("signalbox_version", facts.signalbox_version).set("hashes", std::move(hashes));
  identity.set("scoring_rules", std::move(rules)).set("stop_tokens", stop_tokens_json(facts));
  identity.set("device", facts.device).set("isa", facts.isa).set("numerics", facts.numerics);
  identity.set("special", special).set("template_variables", std::move(variables));
  if (experiment.limit) identity.set("limit", experiment.limit->n);
  return identity;
}

}  // namespace signalbox::eval
