// What of an opened model decides results, for the manifests of commands that can be continued.
#pragma once
#include "eval/store/facts.h"
#include "tools/signalbox/common.h"

namespace signalbox {

// Reads every byte of the weights. Throws Error.
ModelFacts model_facts(const CommonOptions& options, const OpenedModel& model);

// Manifest::info: the command line, where the model lies, threads and batch.
json::Value work_info(const CommonOptions& options, const OpenedModel& model, int argc, char** argv);

}  // namespace signalbox
