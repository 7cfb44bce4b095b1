#include "eval/routing/recording_identity.h"

#include <utility>

namespace signalbox::eval {

namespace {

json::Value generation_json(const GenerationSettings& settings) {
  json::Value stop = json::Value::array();
  for (const std::string& text : settings.stop) stop.push_back(text);
  json::Value generate = json::Value::object();
  return generate.set("max_tokens", settings.max_tokens)
      .set("samples", settings.samples)
      .set("temperature", static_cast<double>(settings.sampling.temperature))
      .set("top_p", static_cast<double>(settings.sampling.top_p))
      .set("top_k", int64_t{settings.sampling.top_k})
      .set("stop", std::move(stop))
      .set("ignore_eos", settings.ignore_eos);
}

}  // namespace

void RecordsHash::add(const Record& record) { hash_.update(json::dump(record.source) + "\n"); }
std::string RecordsHash::hex() { return hash_.hex(); }

json::Value recording_identity(const RecordingInputs& inputs) {
  json::Value hashes = model_hashes(inputs.model);
  hashes.set("data", inputs.data_hash);
  const bool edited = !inputs.edits.is_null();
  hashes.set("files", edited ? file_hashes(files_of_edits(json::Ref(inputs.edits, "--edits"), inputs.edits_dir),
                                           inputs.edits_dir)
                             : json::Value::object());
  json::Value identity = json::Value::object();
  identity.set("signalbox_version", inputs.model.signalbox_version).set("model", inputs.model_name);
  identity.set("hashes", std::move(hashes));
  for (const auto& [key, value] : inputs.work.members()) identity.set(key, value);
  return identity.set("generate", inputs.generate ? generation_json(*inputs.generate) : json::Value())
      .set("seed", inputs.seed)
      .set("edits", inputs.edits)
      .set("points", inputs.points)
      .set("compact", inputs.compact)
      .set("stop_tokens", stop_tokens_json(inputs.model))
      .set("device", inputs.model.device)
      .set("isa", inputs.model.isa)
      .set("numerics", inputs.model.numerics)
      .set("special", inputs.special)
      .set("template_variables", inputs.template_variables);
}

}  // namespace signalbox::eval
