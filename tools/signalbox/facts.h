// What of an opened model decides results, for the manifests of commands that can be continued.
#pragma once
#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/store/facts.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

using namespace eval;

// Reads every byte of the weights. Throws Error.
ModelFacts model_facts(const Session& session, bool quiet);

// What a tuned lens says of the weights that it was trained for: hashes of their files, or of the model where they come
// from none. Reads every byte of the weights.
std::string tuned_for(const Session& session, bool quiet);

// Of the adapters that a model has: [{"path", "sha256"}].
json::Value adapters_json(const Session& session);

// Manifest::info: the command line, where the model lies, threads and batch.
json::Value work_info(const CommonOptions& options, const Session& session, int argc, char** argv);

}  // namespace signalbox::tools
