// What the endpoints know of the model that is served.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"
#include "tools/serve/assets.h"
#include "tools/serve/engine_loop.h"
#include "tools/serve/metrics.h"
#include "tools/serve/timelines.h"
#include "tools/serve/token_texts.h"

namespace signalbox::tools {

// What a session does not tell of its files.
struct ModelDescription {
  std::string template_source;  // of the chat template; empty: none
  std::string tokenizer_class;
  json::Value facts;    // `inspect --json`
  std::string refused;  // why nothing may be generated (generation_config.json); empty: it may
};

struct ServedModel {
  const Session& session;
  ModelDescription description;
  std::string name;                  // that answers tell
  std::vector<std::string> aliases;  // that requests may give, the name too
  std::string fingerprint;
  int64_t created = 0;  // seconds since 1970
  int64_t max_model_len = 0;
  EngineLoop& engine;
  Metrics& metrics;
  // Work for the thread beside the engine's.
  std::function<void(std::function<void()>)> post;
  const Assets& assets;
  TokenTexts texts, telling_texts;  // of that thread, and of the one on which owners of jobs are called
  Timelines timelines{};
};

}  // namespace signalbox::tools
