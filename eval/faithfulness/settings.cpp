#include "eval/faithfulness/settings.h"

#include <xxhash.h>

#include "base/sha256.h"
#include "base/text.h"
#include "eval/faithfulness/conduct.h"
#include "eval/score/scorer.h"

namespace signalbox::eval {

namespace {

std::string lines_of(const std::vector<Record>& records) {
  std::string lines;
  for (const Record& record : records) lines += json::dump(record.source) + "\n";
  return lines;
}

json::Value list_of(const std::vector<std::string>& items) {
  json::Value out = json::Value::array();
  for (const std::string& item : items) out.push_back(item);
  return out;
}

}  // namespace

json::Value study_settings(const FaithfulnessOptions& options, const StudyInputs& inputs) {
  const std::string lines = lines_of(*inputs.records);
  json::Value fractions = json::Value::array();
  for (double fraction : options.fractions) fractions.push_back(fraction);
  json::Value settings = json::Value::object();
  settings.set("schema", faithfulness_schema)
      .set("signalbox_version", inputs.model.signalbox_version)
      .set("model_hash", inputs.model.model_hash)
      .set("tokenizer_hash", inputs.model.tokenizer_hash.value_or(""))
      .set("template_hash", inputs.model.template_hash.value_or(""))
      .set("input_hash", hex64(XXH3_64bits(lines.data(), lines.size())))
      .set("edits", inputs.edits)
      .set("numerics", inputs.model.numerics)
      .set("isa", inputs.model.isa)
      .set("device", inputs.model.device)
      .set("special", inputs.special)
      .set("template_variables", inputs.template_variables)
      .set("date", inputs.date)
      .set("seed", options.seed)
      .set("marker", options.marker)
      .set("force_marker", options.force_marker)
      .set("suffix", options.suffix)
      .set("max_tokens", options.max_tokens)
      .set("answer_tokens", options.answer_tokens)
      .set("samples", options.samples)
      .set("temperature", static_cast<double>(static_cast<float>(options.sampling.temperature)))
      .set("top_p", static_cast<double>(static_cast<float>(options.sampling.top_p)))
      .set("top_k", int64_t{options.sampling.top_k})
      .set("tests", list_of(inputs.tests))
      .set("form", options.generate ? (options.forced ? "both" : "generate") : "forced")
      .set("mistakes", options.mistake_source.text())
      .set("paraphrases", options.paraphrase_source.text())
      .set("filler", options.filler)
      .set("filler_every", options.filler_every)
      .set("policies", list_of(options.policies))
      .set("fractions", std::move(fractions))
      .set("routes", options.routes);
  // Where they are not the default, so that directories of earlier versions go on.
  if (options.misroute_layers != "all") settings.set("misroute_layers", options.misroute_layers);
  if (options.misroute_weights != "model") settings.set("misroute_weights", options.misroute_weights);
  return settings;
}

json::Value study_identity(const json::Value& settings, const StudyInputs& inputs) {
  json::Value identity = json::Value::object();
  for (const auto& [key, value] : settings.members())
    if (key != "schema") identity.set(key, value);  // the manifest has it
  json::Value hashes = model_hashes(inputs.model);
  hashes.set("data", sha256_hex(lines_of(*inputs.records)));
  const bool edited = !inputs.edits.is_null();
  hashes.set("files", edited ? file_hashes(files_of_edits(json::Ref(inputs.edits, "--edits"), inputs.edits_dir),
                                           inputs.edits_dir)
                             : json::Value::object());
  json::Value rules = json::Value::object();
  for (const auto& [name, version] : score_rule_versions())
    if (name == "em") rules.set(name, version);  // when two answers are the same
  identity.set("hashes", std::move(hashes)).set("scoring_rules", std::move(rules));
  identity.set("stop_tokens", stop_tokens_json(inputs.model));
  return identity;
}

}  // namespace signalbox::eval
