// What `run` and its shortcuts share: opening a model for a spec, and running it in a directory.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "eval/experiment/spec.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

using namespace eval;

struct ExperimentRun {
  std::string out, shard;
  bool dry_run = false;
  int64_t limit = 0;  // of records of each split and condition; 0: none
};

// --out, --shard, --limit, --dry-run, and what every command has that runs a model.
void add_experiment_run_options(CLI::App& app, CommonOptions& options, ExperimentRun& run);

// Runs or continues the experiment, prints its table, and returns the exit code. Throws Error.
int run_experiment(ExperimentSpec spec, CommonOptions options, const ExperimentRun& run, int argc, char** argv);

}  // namespace signalbox::tools
