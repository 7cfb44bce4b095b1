#include "tools/signalbox/facts.h"

#include <memory>

#include "tools/bench/limits.h"
#include "tools/terminal/progress.h"

namespace signalbox::tools {

using namespace eval;

ModelFacts model_facts(const Session& session, bool quiet) {
  ModelFacts facts;
  facts.signalbox_version = SIGNALBOX_VERSION;
  facts.model_hash = session.model_hash;
  std::unique_ptr<Progress> progress;
  facts.weight_hashes = session.hash_weights([&](uint64_t bytes, uint64_t of_bytes) {
    constexpr uint64_t megabyte = 1'000'000;
    if (!progress)
      progress =
          std::make_unique<Progress>("hashing the weights", static_cast<int64_t>(of_bytes / megabyte), quiet, "MB");
    progress->update(static_cast<int64_t>(bytes / megabyte));
  });
  progress.reset();
  if (session.tokenizer) facts.tokenizer_hash = session.tokenizer->hash();
  if (session.chat_template) facts.template_hash = session.chat_template->hash();
  facts.stop_tokens = session.stop_tokens;
  facts.device = session.backend->name();
  facts.isa = session.backend->isa();
  facts.numerics = session.numerics;
  return facts;
}

std::string tuned_for(const Session& session, bool quiet) {
  const ModelFacts facts = model_facts(session, quiet);
  if (facts.weight_hashes.empty()) return facts.model_hash;
  json::Value hashes = json::Value::object();
  for (const auto& [file, hash] : facts.weight_hashes) hashes.set(file, hash);
  return json::dump(hashes);
}

json::Value adapters_json(const Session& session) {
  json::Value adapters = json::Value::array();
  for (const Session::AdapterFacts& adapter : session.adapters)
    adapters.push_back(json::Value::object().set("path", adapter.path).set("sha256", adapter.hash));
  return adapters;
}

json::Value work_info(const CommonOptions& options, const Session& session, int argc, char** argv) {
  json::Value arguments = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  json::Value info = json::Value::object();
  info.set("argv", std::move(arguments)).set("model_path", session.path);
  if (!session.commit.empty()) info.set("model_commit", session.commit);
  if (!session.adapters.empty()) info.set("adapters", adapters_json(session));
  info.set("compiler", __VERSION__).set("threads", options.threads);
  if (!session.backend->shares_host_memory()) info.set("cublas", cublas_json());
  return info.set("batch", options.batch).set("chunk", session.options.chunk);
}

}  // namespace signalbox::tools
