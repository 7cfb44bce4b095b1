// What makes an experiment the one it is: the members of its manifest that are compared (docs/run-directory.md).
#pragma once
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/records.h"
#include "eval/experiment/experiment.h"
#include "eval/store/facts.h"

namespace signalbox::eval {

// Manifest::identity but for the spec, which conduct() adds. Of the setup the settings count; its date only where
// `dated`. `special` is how special tokens in texts are read (--special).
json::Value experiment_identity(const Experiment& experiment, const ModelFacts& facts, const EncodeSetup& setup,
                                const std::string& special, bool dated);

}  // namespace signalbox::eval
