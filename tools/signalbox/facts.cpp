#include "tools/signalbox/facts.h"

namespace signalbox {

ModelFacts model_facts(const CommonOptions& options, const OpenedModel& model) {
  ModelFacts facts;
  facts.signalbox_version = SIGNALBOX_VERSION;
  facts.model_hash = model.loaded.model_hash;
  facts.weight_hashes = hash_weight_files(*model.loaded.resolved.files);
  if (model.tokenizer) facts.tokenizer_hash = model.tokenizer->hash();
  if (model.chat_template) facts.template_hash = model.chat_template->hash();
  facts.stop_tokens = model.stop_tokens;
  facts.device = model.backend->name();
  facts.isa = model.backend->isa();
  facts.numerics = options.numerics;
  return facts;
}

json::Value work_info(const CommonOptions& options, const OpenedModel& model, int argc, char** argv) {
  json::Value arguments = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  json::Value info = json::Value::object();
  info.set("argv", std::move(arguments)).set("model_path", model.loaded.resolved.path);
  if (!model.loaded.resolved.commit.empty()) info.set("model_commit", model.loaded.resolved.commit);
  info.set("compiler", __VERSION__).set("threads", options.threads);
  return info.set("batch", options.batch).set("chunk", options.chunk);
}

}  // namespace signalbox
